#include "tools/report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "rl/pareto.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tools/gnuplot.h"
#include "tools/html.h"
#include "tools/progress.h"
#include "tools/report_plots.h"
#include "tools/run_history.h"

namespace parlo {
namespace fs = std::filesystem;

namespace {

std::string model_name(const EvalRecord& r) {
  if (r.is_base()) return "base";
  std::string name = r.method;
  if (r.iteration > 0) name += concat(", iteration ", r.iteration);
  name += ", " + r.model;
  if (r.step >= 0) name += concat(", step ", r.step);
  return name;
}

// The model a run is about: the last merged one of mapreduce, or of the first method that has one.
const EvalRecord* headline_model(const RunHistory& log) {
  std::vector<std::string> methods = log.methods;
  std::stable_sort(methods.begin(), methods.end(), [](const auto& a, const auto& b) {
    return (a == "mapreduce") > (b == "mapreduce");
  });
  for (const std::string& method : methods) {
    const auto models = log.merged(method);
    if (!models.empty()) return models.back();
  }
  return nullptr;
}

std::string score_text(const ScoreRecord& s) {
  return format_value(s.mean) + (s.se > 0 ? " ± " + format_value(s.se) : "");
}

// Change against the base and how many standard errors it is (of two independent means).
struct Change {
  double value = 0, errors = 0;
};
Change change_of(const ScoreRecord& after, const ScoreRecord& before) {
  const double value = after.mean - before.mean;
  const double se = std::hypot(after.se, before.se);
  return {value, se > 0 ? value / se : 0};
}

std::string colored(double sign, const std::string& text) {
  if (sign == 0) return text;
  return concat("<span class=\"", sign > 0 ? "good" : "bad", "\">", text, "</span>");
}

std::string card(const std::string& label, const std::string& value, const std::string& note) {
  return concat("<div class=\"card\"><span>", label, "</span><b>", value, "</b><span>", note,
                "</span></div>\n");
}

class Page {
 public:
  Page(const fs::path& folder, const RunHistory& log)
      : folder_(folder), log_(log), plots_(have_gnuplot()) {}

  std::string build() {
    body_ = concat("<h1>", html_escape(title()), "</h1>\n");
    if (!plots_) {
      body_ += "<p class=\"bad\">gnuplot is not installed, so this page has no plots.</p>\n";
    }
    headline();
    pareto();
    volumes();
    rewards();
    samples();
    merges();
    health();
    times();
    configuration();
    return html_page(title(), body_);
  }

 private:
  std::string title() const {
    const fs::path name = fs::weakly_canonical(folder_).filename();
    return "parlo run " + name.string();
  }

  std::string summary(const std::string& key) const {
    const auto found = log_.summary.find(key);
    return found == log_.summary.end() ? "" : found->second;
  }

  std::string draw(const Plot& plot) { return draw_svg(plot, concat("p", ++drawn_)); }

  void heading(const std::string& text) { body_ += "<h2>" + text + "</h2>\n"; }

  void figures(const std::vector<CaptionedPlot>& plots, const std::string& css = "grid") {
    if (!plots_ || plots.empty()) return;
    body_ += "<div class=\"" + css + "\">\n";
    for (const CaptionedPlot& p : plots) body_ += html_figure(draw(p.plot), html_escape(p.caption));
    body_ += "</div>\n";
  }

  void headline();
  void scores_table();
  void pareto();
  void volumes();
  void rewards();
  void samples();
  void merges();
  void health();
  void times();
  void configuration();

  const fs::path& folder_;
  const RunHistory& log_;
  bool plots_;
  int drawn_ = 0;
  std::string body_;
};

void Page::headline() {
  const EvalRecord* base = log_.base();
  const EvalRecord* best = headline_model(log_);
  std::string cards;
  int above = 0, clear = 0, total = 0;
  if (base != nullptr && best != nullptr) {
    for (const std::string& reward : log_.rewards) {
      if (!base->scores.count(reward) || !best->scores.count(reward)) continue;
      const ScoreRecord &before = base->scores.at(reward), &after = best->scores.at(reward);
      const Change c = change_of(after, before);
      ++total;
      above += c.value > 0;
      clear += c.errors > 2;
      std::string note = colored(c.value, format_change(c.value));
      if (c.errors != 0) {
        char errors[32];
        std::snprintf(errors, sizeof errors, " (%.1f se)", c.errors);
        note += errors;
      }
      cards += card(html_escape(reward),
                    concat(format_value(before.mean), " → ", format_value(after.mean)), note);
    }
    body_ += concat("<p>", html_escape(model_name(*best)), ": <b>", above, " of ", total,
                    "</b> rewards above the base on held-out prompts, ", clear,
                    " by more than two standard errors (se).</p>\n");
    const auto volumes = hypervolumes(log_, best->method);
    if (!volumes.empty() && std::isfinite(volumes.back().merged)) {
      cards += card("hypervolume over the base", format_value(volumes.back().merged),
                    "front of all models " + format_value(volumes.back().front));
    }
  }
  const std::string seconds = summary("seconds"), peak = summary("peak_bytes");
  if (!seconds.empty())
    cards += card("time", format_duration(std::atof(seconds.c_str())), "whole run");
  if (!peak.empty())
    cards += card("peak memory", format_bytes(std::atof(peak.c_str())), "resident");
  if (!cards.empty()) body_ += "<div class=\"cards\">" + cards + "</div>\n";
  scores_table();
}

// Every scored model; the best of a column is bold, below the base is red.
void Page::scores_table() {
  if (log_.evals.empty()) return;
  const EvalRecord* base = log_.base();
  std::map<std::string, double> best;
  for (const EvalRecord& r : log_.evals) {
    for (const auto& [name, score] : r.scores) {
      const auto [at, added] = best.emplace(name, score.mean);
      if (!added && score.mean > at->second) at->second = score.mean;
    }
  }
  HtmlTable table;
  table.head = {"model"};
  for (const std::string& reward : log_.rewards) table.head.push_back(html_escape(reward));
  for (const EvalRecord& r : log_.evals) {
    auto& row = table.rows.emplace_back();
    row.push_back(html_escape(model_name(r)));
    for (const std::string& reward : log_.rewards) {
      const auto found = r.scores.find(reward);
      if (found == r.scores.end()) {
        row.push_back("");
        continue;
      }
      std::string cell = score_text(found->second);
      if (found->second.mean == best[reward]) cell = "<b>" + cell + "</b>";
      const bool below = base != nullptr && base->scores.count(reward) &&
                         found->second.mean < base->scores.at(reward).mean;
      row.push_back(below ? colored(-1, cell) : cell);
    }
  }
  const bool many = table.rows.size() > 12;
  if (many)
    body_ += concat("<details><summary>All ", table.rows.size(), " scored models</summary>");
  body_ += html_table(table);
  body_ +=
      "<p class=\"quiet\">Mean ± standard error on held-out prompts; bold: best, red: below the "
      "base.</p>\n";
  if (many) body_ += "</details>\n";
}

void Page::pareto() {
  const auto plots = pareto_plots(log_);
  if (plots.empty()) return;
  heading("Pareto fronts");
  body_ +=
      "<p class=\"quiet\">Each pair of rewards. Dots with numbers: the merged model after each "
      "iteration, bars one standard error. Triangles: experts. Circles: merge weights swept, "
      "dotted: their front. Black square: the base.</p>\n";
  figures(plots);
}

void Page::volumes() {
  HtmlTable table{{"method", "iteration", "merged model", "front so far"}, {}};
  for (const std::string& method : log_.methods) {
    for (const HypervolumePoint& p : hypervolumes(log_, method)) {
      table.rows.push_back({html_escape(method), std::to_string(p.iteration),
                            format_value(p.merged), format_value(p.front)});
    }
  }
  if (table.rows.empty()) return;
  heading("Hypervolume per iteration");
  body_ +=
      "<p class=\"quiet\">Volume of reward space between the base and the models: zero as soon "
      "as one reward is below the base.</p>\n<div class=\"grid\">\n";
  if (plots_) body_ += html_figure(draw(hypervolume_plot(log_)), "hypervolume, base as reference");
  body_ += "<div>" + html_table(table) + "</div></div>\n";
  const EvalRecord *base = log_.base(), *best = headline_model(log_);
  if (best == nullptr || log_.rewards.size() < 3) return;
  Scores reference, scores;
  for (const std::string& reward : log_.rewards) {
    if (!base->scores.count(reward) || !best->scores.count(reward)) return;
    reference.push_back(base->scores.at(reward).mean);
    scores.push_back(best->scores.at(reward).mean);
    if (!std::isfinite(reference.back()) || !std::isfinite(scores.back())) return;
  }
  const auto areas = pairwise_areas({scores}, reference);
  HtmlTable pairs{{"pair of rewards", "area over the base"}, {}};
  for (size_t i = 0; i < areas.size(); ++i) {
    for (size_t j = i + 1; j < areas.size(); ++j) {
      pairs.rows.push_back(
          {html_escape(log_.rewards[i] + " and " + log_.rewards[j]), format_value(areas[i][j])});
    }
  }
  body_ += "<h3>Pair by pair, " + html_escape(model_name(*best)) + "</h3>\n" + html_table(pairs);
}

void Page::rewards() {
  const auto plots = reward_plots(log_);
  if (plots.empty()) return;
  heading("Reward curves of the experts");
  body_ +=
      "<p class=\"quiet\">Pale: reward of every training batch; line: moving mean; squares: the "
      "expert on held-out prompts, dots: the merged model, one standard error. Dashed: an "
      "iteration ends, its adapters are merged.</p>\n";
  figures(plots);
}

// Numbers inside a name count as numbers: iteration_10 after iteration_9, base first of all.
bool natural_less(const std::string& a, const std::string& b) {
  const auto rank = [](const std::string& s) { return s.starts_with("base") ? 0 : 1; };
  if (rank(a) != rank(b)) return rank(a) < rank(b);
  size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    const auto digit = [](char c) { return c >= '0' && c <= '9'; };
    if (digit(a[i]) && digit(b[j])) {
      char *end_a = nullptr, *end_b = nullptr;
      const unsigned long long x = std::strtoull(a.c_str() + i, &end_a, 10);
      const unsigned long long y = std::strtoull(b.c_str() + j, &end_b, 10);
      if (x != y) return x < y;
      i = static_cast<size_t>(end_a - a.c_str());
      j = static_cast<size_t>(end_b - b.c_str());
      continue;
    }
    if (a[i] != b[j]) return a[i] < b[j];
    ++i, ++j;
  }
  return a.size() - i < b.size() - j;
}

std::string picture(const fs::path& file) {
  const std::string bytes = read_file(file);
  const std::string name = html_escape(file.stem().string());
  if (!bytes.starts_with("\x89PNG\r\n\x1a\n"))
    return "<p class=\"bad\">" + name + " is no PNG.</p>";
  return html_figure(
      concat("<img alt=\"samples ", name, "\" src=\"data:image/png;base64,", base64(bytes), "\">"),
      name);
}

// The grid of the result: "merged", else the last one that says so, else the last.
fs::path after_picture(const std::vector<fs::path>& files) {
  fs::path after = files.back();
  for (const fs::path& file : files) {
    const std::string name = file.stem().string();
    if (name == "merged") return file;
    const bool merged = name.find("merged") != std::string::npos;
    if (merged && !name.starts_with("soup") && !name.starts_with("morl")) after = file;
  }
  return after;
}

void Page::samples() {
  std::vector<fs::path> files;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder_ / "samples", ignored)) {
    if (entry.path().extension() == ".png") files.push_back(entry.path());
  }
  if (files.empty()) return;
  std::sort(files.begin(), files.end(), [](const fs::path& a, const fs::path& b) {
    return natural_less(a.stem().string(), b.stem().string());
  });
  heading("Samples");
  body_ +=
      "<p class=\"quiet\">Before and after: the same prompts and the same noise in every "
      "grid.</p>\n";
  const fs::path prompts = folder_ / "samples" / "prompts.txt";
  if (fs::exists(prompts, ignored)) {
    body_ += concat("<details><summary>Prompts, in reading order</summary><pre>",
                    html_escape(read_file(prompts)), "</pre></details>\n");
  }
  // Before and after side by side; what lies between can be opened.
  const fs::path after = after_picture(files);
  body_ += "<div class=\"grid\">" + picture(files.front());
  if (files.size() > 1) body_ += picture(after);
  body_ += "</div>\n";
  std::string others;
  size_t count = 0;
  for (size_t i = 1; i < files.size(); ++i) {
    if (files[i] == after) continue;
    others += picture(files[i]);
    ++count;
  }
  if (count == 0) return;
  body_ += concat("<details><summary>", count, " more grids</summary><div class=\"grid\">", others,
                  "</div></details>\n");
}

std::string join_values(const std::vector<double>& values) {
  std::string out;
  for (double v : values) out += (out.empty() ? "" : ", ") + format_value(v);
  return out;
}

void Page::merges() {
  if (log_.merges.empty()) return;
  heading("What the merges lost");
  body_ +=
      "<p class=\"quiet\">The merge used is exact up to the discarded energy. The factor mean "
      "(averaging A and B apart, as the published code does) would miss the exact sum by the "
      "error given, relative in the Frobenius norm.</p>\n";
  HtmlTable table{{"method", "iteration", "weights", "error of the factor mean", "discarded energy",
                   "hypervolume", "accepted"},
                  {}};
  HtmlTable updates{{"method", "iteration", "norms of the updates", "cosines between them"}, {}};
  for (const MergeRecord& m : log_.merges) {
    const auto value = [&](const char* key) {
      const auto found = m.values.find(key);
      return found == m.values.end() ? std::string("n/a") : format_value(found->second);
    };
    std::string norms;
    for (const auto& [name, norm] : m.delta_norms) {
      norms += concat(norms.empty() ? "" : ", ", html_escape(name), " ", format_value(norm));
    }
    std::vector<double> upper;
    for (size_t i = 0; i < m.cosines.size(); ++i) {
      for (size_t j = i + 1; j < m.cosines[i].size(); ++j) upper.push_back(m.cosines[i][j]);
    }
    const std::string method = html_escape(m.method), iteration = std::to_string(m.iteration);
    table.rows.push_back({method, iteration, join_values(m.weights),
                          value("relative_error_factor_mean"), value("discarded_energy"),
                          value("hypervolume"), m.accepted ? "yes" : colored(-1, "rolled back")});
    updates.rows.push_back({method, iteration, norms, join_values(upper)});
  }
  body_ += html_table(table);
  body_ += "<h3>How the experts agree</h3>\n" + html_table(updates);
}

void Page::health() {
  if (log_.steps.empty()) return;
  heading("Health of the training");
  for (const std::string& method : log_.methods) {
    const auto plots = health_plots(log_, method);
    if (plots.empty()) continue;
    const bool open = method == log_.methods.front();
    body_ +=
        concat("<details", open ? " open" : "", "><summary>", html_escape(method), "</summary>\n");
    if (!plots_) body_ += "<p>No plots without gnuplot.</p>\n";
    figures(plots, "grid small");
    body_ += "</details>\n";
  }
}

void Page::times() {
  struct Total {
    int64_t steps = 0;
    double peak = 0;
    std::map<std::string, double> seconds;
  };
  std::map<std::pair<std::string, std::string>, Total> totals;
  std::vector<std::string> stages;
  for (const StepRecord& s : log_.steps) {
    Total& total = totals[{s.method, s.expert}];
    ++total.steps;
    const auto peak = s.values.find("peak_bytes");
    if (peak != s.values.end() && peak->second > total.peak) total.peak = peak->second;
    for (const auto& [stage, seconds] : s.seconds) {
      if (!std::isfinite(seconds)) continue;
      total.seconds[stage] += seconds;
      if (std::find(stages.begin(), stages.end(), stage) == stages.end()) stages.push_back(stage);
    }
  }
  if (totals.empty()) return;
  heading("Times and memory");
  HtmlTable table{{"method", "expert", "steps"}, {}};
  for (const std::string& stage : stages) table.head.push_back(html_escape(stage));
  for (const char* name : {"all stages", "a step", "peak memory"}) table.head.push_back(name);
  for (const auto& [key, total] : totals) {
    std::vector<std::string> row{html_escape(key.first), html_escape(key.second),
                                 std::to_string(total.steps)};
    double sum = 0;
    for (const std::string& stage : stages) {
      const auto found = total.seconds.find(stage);
      const double seconds = found == total.seconds.end() ? 0 : found->second;
      row.push_back(format_duration(seconds));
      sum += seconds;
    }
    row.push_back(format_duration(sum));
    row.push_back(format_duration(sum / double(total.steps)));
    row.push_back(total.peak > 0 ? format_bytes(total.peak) : "n/a");
    table.rows.push_back(std::move(row));
  }
  body_ += html_table(table);
}

void Page::configuration() {
  heading("Configuration");
  HtmlTable table{{"", ""}, {}};
  for (const char* key : {"command", "commit", "seed", "device", "machine"}) {
    const std::string value = summary(key);
    if (!value.empty()) table.rows.push_back({key, "<code>" + html_escape(value) + "</code>"});
  }
  if (!table.rows.empty()) body_ += html_table(table);
  std::error_code ignored;
  if (fs::exists(folder_ / "config.toml", ignored)) {
    body_ += "<pre>" + html_escape(read_file(folder_ / "config.toml")) + "</pre>\n";
  }
}

}  // namespace

void write_report(const fs::path& run_folder, const std::vector<fs::path>& others) {
  RunHistory history = read_run_history(run_folder);
  for (const fs::path& other : others) {
    add_history(history, read_run_history(other), fs::weakly_canonical(other).filename().string());
  }
  write_file(run_folder / "report.html", Page(run_folder, history).build());
}

}  // namespace parlo
