#include "tools/report_plots.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "rl/pareto.h"
#include "tensor/error.h"

namespace parlo {

namespace {

// Okabe and Ito's colours, told apart by colour-blind eyes too.
constexpr const char* kColors[] = {"0072B2", "D55E00", "009E73", "CC79A7", "E69F00", "56B4E9"};

std::string color(size_t i) {
  return concat("lc rgb '#", kColors[i % std::size(kColors)], "'");
}

std::string pale(size_t i) {  // the first byte is transparency
  return concat("lc rgb '#B0", kColors[i % std::size(kColors)], "'");
}

std::string text_color(size_t i) {
  return concat("textcolor rgb '#", kColors[i % std::size(kColors)], "'");
}

bool has_both(const EvalRecord& r, const std::string& x, const std::string& y) {
  return r.scores.count(x) && r.scores.count(y) && std::isfinite(r.scores.at(x).mean) &&
         std::isfinite(r.scores.at(y).mean);
}

std::vector<double> point(const EvalRecord& r, const std::string& x, const std::string& y) {
  return {r.scores.at(x).mean, r.scores.at(y).mean};
}

// The part of the points that no other one dominates, from left to right.
std::vector<std::vector<double>> front_line(const std::vector<std::vector<double>>& points) {
  std::vector<std::vector<double>> out;
  for (size_t i : non_dominated(points)) out.push_back(points[i]);
  std::sort(out.begin(), out.end());
  return out;
}

void add_method_to_pareto(const RunHistory& log, size_t m, const std::string& x,
                          const std::string& y, Plot& plot) {
  const std::string& method = log.methods[m];
  PlotSeries sweep{method + " sweep", "with points pt 6 ps 0.6 " + color(m), {}, {}};
  PlotSeries experts{method + " experts", "with points pt 8 ps 0.9 " + color(m), {}, {}};
  PlotSeries merged{method, "with linespoints pt 7 ps 0.8 lw 1.6 " + color(m), {}, {}};
  PlotSeries errors{"", "with xyerrorbars pt 7 ps 0 lw 0.8 " + color(m), {}, {}};
  PlotSeries labels{"", "with labels offset 0.9,0.7 font ',11' " + text_color(m), {}, {}};
  for (const EvalRecord& r : log.evals) {
    if (r.method != method || r.is_base() || r.step >= 0 || !has_both(r, x, y)) continue;
    if (r.model.starts_with("soup:")) sweep.rows.push_back(point(r, x, y));
    if (r.model.starts_with("expert:")) experts.rows.push_back(point(r, x, y));
  }
  const auto models = log.merged(method);
  for (const EvalRecord* r : models) {
    if (!has_both(*r, x, y)) continue;
    merged.rows.push_back(point(*r, x, y));
    errors.rows.push_back(
        {r->scores.at(x).mean, r->scores.at(y).mean, r->scores.at(x).se, r->scores.at(y).se});
    labels.rows.push_back(point(*r, x, y));
    labels.labels.push_back(std::to_string(r->iteration));
  }
  PlotSeries front{"", "with lines lw 1 dt 3 " + color(m), front_line(sweep.rows), {}};
  if (labels.rows.size() < 2) labels.rows.clear();
  for (PlotSeries* s : {&front, &sweep, &experts, &errors, &merged, &labels}) {
    if (!s->rows.empty()) plot.series.push_back(std::move(*s));
  }
}

// Where each iteration of an expert starts on the axis of all its optimiser steps.
using Starts = std::map<int64_t, int64_t>;
Starts starts_of(const RunHistory& log, const std::string& method, const std::string& expert) {
  std::map<int64_t, int64_t> lengths;
  for (const StepRecord& s : log.steps) {
    if (s.method != method || s.expert != expert) continue;
    lengths[s.iteration] = std::max(lengths[s.iteration], s.step);
  }
  Starts starts;
  int64_t at = 0;
  for (const auto& [iteration, length] : lengths) {
    starts[iteration] = at;
    at += length;
    starts[iteration + 1] = at;
  }
  return starts;
}

// Moving mean that does not look across the end of an iteration, where the model changes.
std::vector<std::vector<double>> smoothed(const std::vector<std::vector<double>>& rows,
                                          const Starts& starts) {
  const auto iteration_of = [&](double x) {
    return std::count_if(starts.begin(), starts.end(),
                         [x](const auto& s) { return double(s.second) < x; });
  };
  const auto half = static_cast<std::ptrdiff_t>(rows.size() / 24 + 1);
  std::vector<std::vector<double>> out;
  for (std::ptrdiff_t i = 0; i < std::ssize(rows); ++i) {
    const double x = rows[size_t(i)][0];
    double sum = 0;
    int count = 0;
    const std::ptrdiff_t last = std::min(i + half, std::ssize(rows) - 1);
    for (std::ptrdiff_t k = std::max<std::ptrdiff_t>(i - half, 0); k <= last; ++k) {
      if (iteration_of(rows[size_t(k)][0]) != iteration_of(x)) continue;
      sum += rows[size_t(k)][1];
      ++count;
    }
    out.push_back({x, sum / count});
  }
  return out;
}

std::vector<std::vector<double>> step_rows(const RunHistory& log, const std::string& method,
                                           const std::string& expert, const std::string& value) {
  const Starts starts = starts_of(log, method, expert);
  std::vector<std::vector<double>> rows;
  for (const StepRecord& s : log.steps) {
    if (s.method != method || s.expert != expert) continue;
    const auto found = s.values.find(value);
    if (found == s.values.end() || !std::isfinite(found->second)) continue;
    rows.push_back({double(starts.at(s.iteration) + s.step), found->second});
  }
  std::sort(rows.begin(), rows.end());
  return rows;
}

std::vector<std::string> experts_of(const RunHistory& log, const std::string& method) {
  std::vector<std::string> out;
  for (const StepRecord& s : log.steps) {
    if (!method.empty() && s.method != method) continue;
    if (std::find(out.begin(), out.end(), s.expert) == out.end()) out.push_back(s.expert);
  }
  return out;
}

// Held-out scores of an expert's own reward: itself and the merged model after each iteration.
void add_held_out(const RunHistory& log, size_t m, const std::string& expert, Plot& plot) {
  const std::string& method = log.methods[m];
  const Starts starts = starts_of(log, method, expert);
  PlotSeries own{method + " held-out", "with yerrorbars pt 4 ps 0.8 lw 1.4 " + color(m), {}, {}};
  PlotSeries merged{method + " merged", "with yerrorbars pt 7 ps 0.8 lw 1.4 " + color(m), {}, {}};
  for (const EvalRecord& r : log.evals) {
    if (r.method != method || !r.scores.count(expert)) continue;
    const ScoreRecord& score = r.scores.at(expert);
    if (!std::isfinite(score.mean)) continue;
    const auto begin = starts.find(r.iteration), end = starts.find(r.iteration + 1);
    if (end == starts.end() && (begin == starts.end() || r.step < 0)) continue;
    const double x =
        double(r.step >= 0 && begin != starts.end() ? begin->second + r.step : end->second);
    if (r.model == "expert:" + expert) own.rows.push_back({x, score.mean, score.se});
    if (r.model == "merged") merged.rows.push_back({x, score.mean, score.se});
  }
  for (PlotSeries* s : {&own, &merged}) {
    if (!s->rows.empty()) plot.series.push_back(std::move(*s));
  }
}

CaptionedPlot reward_plot(const RunHistory& log, const std::string& expert) {
  Plot plot;
  plot.x_label = "rollouts, all iterations";
  plot.y_label = expert.empty() ? "reward" : expert;
  Starts longest;
  for (size_t m = 0; m < log.methods.size(); ++m) {
    const Starts starts = starts_of(log, log.methods[m], expert);
    const auto rows = step_rows(log, log.methods[m], expert, "reward");
    if (rows.empty()) continue;
    plot.series.push_back({"", "with lines lw 0.8 " + pale(m), rows, {}});
    plot.series.push_back(
        {log.methods[m] + " train", "with lines lw 2 " + color(m), smoothed(rows, starts), {}});
    add_held_out(log, m, expert, plot);
    if (starts.size() > longest.size()) longest = starts;
  }
  const EvalRecord* base = log.base();
  if (base != nullptr && base->scores.count(expert)) {
    const ScoreRecord& score = base->scores.at(expert);
    plot.series.push_back({"base held-out",
                           "with yerrorbars pt 5 ps 0.8 lw 1.4 lc rgb '#000000'",
                           {{0, score.mean, score.se}},
                           {}});
  }
  if (longest.size() > 2) {
    for (const auto& [iteration, start] : longest) {
      if (start > 0) plot.vertical_lines.push_back(double(start));
    }
  }
  return {expert.empty() ? "reward of all experts" : expert, std::move(plot)};
}

}  // namespace

std::vector<CaptionedPlot> pareto_plots(const RunHistory& log) {
  std::vector<CaptionedPlot> out;
  const EvalRecord* base = log.base();
  for (size_t i = 0; i < log.rewards.size(); ++i) {
    for (size_t j = i + 1; j < log.rewards.size(); ++j) {
      const std::string &x = log.rewards[i], &y = log.rewards[j];
      Plot plot;
      plot.x_label = x + " (held-out mean)";
      plot.y_label = y + " (held-out mean)";
      for (size_t m = 0; m < log.methods.size(); ++m) add_method_to_pareto(log, m, x, y, plot);
      if (base != nullptr && has_both(*base, x, y)) {
        const std::vector<double> at = point(*base, x, y);
        plot.series.push_back({"base", "with points pt 5 ps 1 lc rgb '#000000'", {at}, {}});
        plot.series.push_back(
            {"", "with labels offset 0,-1 font ',11' textcolor rgb '#000000'", {at}, {"base"}});
      }
      if (!plot.series.empty()) out.push_back({x + " against " + y, std::move(plot)});
    }
  }
  return out;
}

std::vector<HypervolumePoint> hypervolumes(const RunHistory& log, const std::string& method) {
  const EvalRecord* base = log.base();
  std::vector<HypervolumePoint> out;
  if (base == nullptr || base->scores.empty() || base->scores.size() > 6) return out;
  Scores reference;
  for (const auto& [name, score] : base->scores) reference.push_back(score.mean);
  const auto scores_of = [&](const EvalRecord& r) {
    Scores scores;
    for (const auto& [name, score] : base->scores) {
      if (r.scores.count(name)) scores.push_back(r.scores.at(name).mean);
    }
    return scores;
  };
  const auto complete = [&](const Scores& s) {
    return s.size() == reference.size() &&
           std::all_of(s.begin(), s.end(), [](double x) { return std::isfinite(x); });
  };
  std::set<int64_t> iterations;
  for (const EvalRecord& r : log.evals) {
    if (r.method == method && !r.is_base() && r.step < 0) iterations.insert(r.iteration);
  }
  std::vector<Scores> found;
  for (int64_t iteration : iterations) {
    HypervolumePoint at{iteration, std::nan(""), 0};
    for (const EvalRecord& r : log.evals) {
      if (r.method != method || r.iteration != iteration || r.is_base() || r.step >= 0) continue;
      const Scores scores = scores_of(r);
      if (!complete(scores)) continue;
      found.push_back(scores);
      if (r.model == "merged") at.merged = hypervolume({scores}, reference);
    }
    at.front = hypervolume(found, reference);
    out.push_back(at);
  }
  return out;
}

Plot hypervolume_plot(const RunHistory& log) {
  Plot plot;
  plot.x_label = "iteration";
  plot.y_label = "hypervolume over the base";
  plot.whole_x = true;
  for (size_t m = 0; m < log.methods.size(); ++m) {
    PlotSeries merged{
        log.methods[m] + " merged", "with linespoints pt 7 ps 0.8 lw 2 " + color(m), {}, {}};
    PlotSeries front{log.methods[m] + " front so far",
                     "with linespoints pt 6 ps 0.7 lw 1.2 dt 2 " + color(m),
                     {},
                     {}};
    const auto points = hypervolumes(log, log.methods[m]);
    for (const HypervolumePoint& p : points) {
      if (std::isfinite(p.merged)) merged.rows.push_back({double(p.iteration), p.merged});
      front.rows.push_back({double(p.iteration), p.front});
    }
    for (PlotSeries* s : {&front, &merged}) {
      if (s->rows.empty()) continue;
      s->rows.insert(s->rows.begin(), {0, 0});
      plot.series.push_back(std::move(*s));
    }
  }
  return plot;
}

std::vector<CaptionedPlot> reward_plots(const RunHistory& log) {
  std::vector<CaptionedPlot> out;
  for (const std::string& expert : experts_of(log, "")) {
    CaptionedPlot plot = reward_plot(log, expert);
    if (!plot.plot.series.empty()) out.push_back(std::move(plot));
  }
  return out;
}

std::vector<CaptionedPlot> health_plots(const RunHistory& log, const std::string& method) {
  struct Panel {
    const char *value, *caption;
    bool log_y;
  };
  static constexpr Panel kPanels[] = {
      {"loss", "loss", false},
      {"ratio_mean", "mean probability ratio", false},
      {"ratio_max_dev", "largest |ratio - 1|", false},
      {"clip_fraction", "fraction of clipped ratios", false},
      {"kl", "KL to the reference model", false},
      {"grad_norm", "gradient norm before clipping", false},
      {"adam_eps_ratio", "gradient RMS over Adam's eps", true},
      {"reward_std", "spread of the reward inside a batch", false},
      {"zero_std_groups", "groups of equal rewards (dropped)", false},
      {"bad_updates", "updates skipped as not finite", false}};
  std::vector<CaptionedPlot> out;
  const std::vector<std::string> experts = experts_of(log, method);
  for (const Panel& panel : kPanels) {
    Plot plot;
    plot.width = 420;
    plot.height = 300;
    plot.x_label = "optimiser steps";
    plot.log_y = panel.log_y;
    for (size_t e = 0; e < experts.size(); ++e) {
      auto rows = step_rows(log, method, experts[e], panel.value);
      if (panel.log_y) std::erase_if(rows, [](const auto& row) { return row[1] <= 0; });
      if (rows.empty()) continue;
      const std::string title = experts[e].empty() ? "all" : experts[e];
      plot.series.push_back({"", "with lines lw 0.8 " + pale(e), rows, {}});
      plot.series.push_back({title,
                             "with lines lw 1.8 " + color(e),
                             smoothed(rows, starts_of(log, method, experts[e])),
                             {}});
    }
    if (!plot.series.empty()) out.push_back({panel.caption, std::move(plot)});
  }
  return out;
}

}  // namespace parlo
