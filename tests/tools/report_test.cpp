#include "tools/report.h"

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "tensor/file.h"
#include "tests/support.h"
#include "tools/gnuplot.h"
#include "tools/html.h"
#include "tools/report_plots.h"
#include "tools/run_history.h"

using namespace parlo;
using namespace parlo::test;
namespace fs = std::filesystem;
using json = nlohmann::json;

namespace {

json score(double mean) {
  return {{"mean", mean}, {"se", 0.01}, {"n", 100}};
}

json eval(const std::string& method, int iteration, const std::string& model, double a, double b,
          double c) {
  return {{"kind", "eval"},
          {"method", method},
          {"iteration", iteration},
          {"model", model},
          {"scores", {{"ocr", score(a)}, {"geneval", score(b)}, {"pick<score>", score(c)}}}};
}

json step(const std::string& expert, int iteration, int number) {
  return {{"kind", "step"},
          {"method", "mapreduce"},
          {"iteration", iteration},
          {"expert", expert},
          {"step", number},
          {"reward", 0.5 + 0.01 * number},
          {"rewards", {{expert, 0.5}}},
          {"loss", nullptr},
          {"kl", 0.001 * number},
          {"clip_fraction", 0.1},
          {"seconds", {{"rollout", 1.5}, {"update", 0.5}}},
          {"peak_bytes", 3 << 20}};
}

void write_run(const fs::path& folder) {
  std::string lines;
  const auto add = [&](const json& line) { lines += line.dump() + "\n"; };
  add(eval("mapreduce", 0, "base", 0.5, 0.5, 20));
  for (int iteration : {1, 2}) {
    for (const char* expert : {"ocr", "geneval"}) {
      for (int s = 1; s <= 5; ++s) add(step(expert, iteration, s));
    }
    add(eval("mapreduce", iteration, "expert:ocr", 0.7, 0.45, 20.1));
    add(eval("mapreduce", iteration, "merged", 0.5 + 0.1 * iteration, 0.6, 21));
    add({{"kind", "merge"},
         {"method", "mapreduce"},
         {"iteration", iteration},
         {"weights", {0.5, 0.5}},
         {"relative_error_factor_mean", 0.0312},
         {"discarded_energy", 0},
         {"delta_norms", {{"ocr", 1.5}, {"geneval", 0.5}}},
         {"cosines", {{1, 0.25}, {0.25, 1}}},
         {"accepted", iteration == 2},
         {"hypervolume", 0.01}});
  }
  add(eval("soup", 1, "soup:1,0", 0.65, 0.5, 20));
  add(eval("soup", 1, "soup:0,1", 0.5, 0.65, 20));
  add(eval("soup", 1, "merged", 0.55, 0.55, 19));
  write_file(folder / "metrics.jsonl", lines);
  write_file(folder / "config.toml", "lr = 0.0004  # <fast>\n");
  write_file(folder / "summary.json",
             "{\"command\":\"parlo train\",\"seed\":7,\"seconds\":75.0,\"peak_bytes\":1048576}");
  make_folders(folder / "samples");
  for (const char* name : {"base", "iteration_9_merged", "iteration_10_merged"}) {
    write_file(folder / "samples" / (std::string(name) + ".png"),
               std::string("\x89PNG\r\n\x1a\n") + name);
  }
}

// Every tag that opens is closed in order; void elements aside.
std::string unbalanced(const std::string& html) {
  std::vector<std::string> open;
  size_t at = 0;
  while ((at = html.find('<', at)) != std::string::npos) {
    const size_t end = html.find('>', at);
    if (end == std::string::npos) return "unclosed <";
    std::string tag = html.substr(at + 1, end - at - 1);
    if (html.compare(at, 4, "<!--") == 0) {
      at = html.find("-->", at);
      continue;
    }
    at = end;
    if (tag.empty() || tag[0] == '!' || tag[0] == '?' || tag.back() == '/') continue;
    const bool closes = tag[0] == '/';
    const std::string name = tag.substr(closes, tag.find_first_of(" \t\n\r", closes) - closes);
    if (name == "meta" || name == "img" || name == "br") continue;
    if (!closes) {
      open.push_back(name);
    } else if (open.empty() || open.back() != name) {
      return "</" + name + ">";
    } else {
      open.pop_back();
    }
  }
  return open.empty() ? "" : "<" + open.back() + ">";
}

}  // namespace

TEST_CASE("the page holds every section and loads nothing") {
  TemporaryFolder folder;
  write_run(folder.path());
  write_report(folder.path());
  const std::string html = read_file(folder / "report.html");
  for (const char* part :
       {"Pareto fronts", "Hypervolume per iteration", "Reward curves", "Samples", "merges lost",
        "Health", "Times and memory", "Configuration", "<b>3 of 3</b>", ">0.031<", "rolled back",
        "lr = 0.0004  # &lt;fast&gt;", "parlo train", "1 min 15 s", "1.00 MiB", "3.00 MiB"}) {
    INFO(part);
    CHECK(contains(html, part));
  }
  CHECK(!contains(html, "<script"));
  CHECK(!contains(html, "src=\"http"));
  CHECK(!contains(html, "pick<score>"));
  CHECK(unbalanced(html).empty());
  CHECK(contains(html, "data:image/png;base64," + base64("\x89PNG\r\n\x1a\nbase")));
  // Before and after are the first two; iteration 10 comes after 9.
  CHECK(html.find("<figcaption>base") < html.find("<figcaption>iteration_10_merged"));
  CHECK(html.find("<figcaption>iteration_10_merged") < html.find("<figcaption>iteration_9_merged"));
  if (have_gnuplot()) {
    CHECK(contains(html, "<svg"));
    // ids of different drawings differ
    CHECK(contains(html, "p1_"));
    CHECK(contains(html, "p2_"));
  }
  write_report(folder.path());
  CHECK(read_file(folder / "report.html") == html);
}

TEST_CASE("hypervolumes have the base as reference") {
  TemporaryFolder folder;
  write_run(folder.path());
  const RunHistory log = read_run_history(folder.path());
  const auto volumes = hypervolumes(log, "mapreduce");
  REQUIRE(volumes.size() == 2);
  CHECK(volumes[0].iteration == 1);
  CHECK(volumes[0].merged == doctest::Approx(0.1 * 0.1 * 1));
  CHECK(volumes[1].merged == doctest::Approx(0.2 * 0.1 * 1));
  CHECK(volumes[1].front == doctest::Approx(0.2 * 0.1 * 1));
  CHECK(hypervolumes(log, "soup")[0].merged == 0);
  CHECK(pareto_plots(log).size() == 3);
  CHECK(reward_plots(log).size() == 2);
  // Steps of the second iteration continue where the first ended.
  const Plot curve = reward_plots(log)[0].plot;
  CHECK(curve.series[0].rows.back()[0] == 10);
  CHECK(health_plots(log, "mapreduce").size() == 2);  // a loss of null only is left out
}

TEST_CASE("other runs stand beside the first") {
  TemporaryFolder folder;
  for (const char* name : {"one", "two"}) {
    make_folders(folder / name);
    write_run(folder / name);
  }
  RunHistory log = read_run_history(folder / "one");
  const size_t evals = log.evals.size();
  add_history(log, read_run_history(folder / "two"), "two");
  CHECK((log.methods ==
         std::vector<std::string>{"mapreduce", "soup", "mapreduce (two)", "soup (two)"}));
  CHECK(log.evals.size() == 2 * evals - 1);  // one base
  CHECK(log.merged("mapreduce (two)").size() == 2);
  CHECK(hypervolumes(log, "mapreduce (two)")[1].merged == doctest::Approx(0.02));
  write_report(folder / "one", {folder / "two"});
  CHECK(contains(read_file(folder / "one/report.html"), "mapreduce (two)"));
}

TEST_CASE("logs: a cut last line is ignored, a broken one inside is named") {
  TemporaryFolder folder;
  write_run(folder.path());
  const std::string lines = read_file(folder / "metrics.jsonl");
  write_file(folder / "metrics.jsonl", lines + "{\"kind\":\"st");
  CHECK(read_run_history(folder.path()).steps.size() == 20);
  write_file(folder / "metrics.jsonl", "{\"kind\":\"other\"}\nnonsense\n" + lines);
  CHECK(contains(message_of([&] { read_run_history(folder.path()); }), "metrics.jsonl line 2"));
  write_file(folder / "metrics.jsonl", "[]\n" + lines);
  CHECK(contains(message_of([&] { read_run_history(folder.path()); }), "line 1"));
  // The same model scored again: the last counts.
  write_file(folder / "metrics.jsonl",
             lines + eval("soup", 1, "merged", 0.9, 0.9, 25).dump() + "\n");
  CHECK(read_run_history(folder.path()).merged("soup")[0]->scores.at("ocr").mean == 0.9);
  write_file(folder / "metrics.jsonl", "");
  write_report(folder.path());
  CHECK(contains(read_file(folder / "report.html"), "Configuration"));
  fs::remove(folder / "metrics.jsonl");
  CHECK_THROWS_AS(write_report(folder.path()), UsageError);
}

TEST_CASE("names cannot break a plot") {
  if (!have_gnuplot()) return;
  Plot plot;
  plot.x_label = "it's `date` \"x\" <b>&";
  plot.series.push_back({"a'b\nset output", "with points", {{1, 2}, {2, NAN}}, {}});
  plot.series.push_back({"", "with labels", {{1, 2}}, {"la\"bel\nEOD"}});
  const std::string svg = draw_svg(plot, "q");
  CHECK(contains(svg, "`date`"));
  CHECK(contains(svg, "&lt;b>&amp;"));
  CHECK(unbalanced(svg).empty());
  plot.series[0].style = "with nonsense";
  const std::string message = message_of([&] { draw_svg(plot, "q"); });
  CHECK(contains(message, "gnuplot failed on plot q"));
  CHECK(!contains(message, "\n"));
}

TEST_CASE("without gnuplot the page says so and keeps its tables") {
  TemporaryFolder folder;
  write_run(folder.path());
  const std::string path = std::getenv("PATH") != nullptr ? std::getenv("PATH") : "";
  REQUIRE(::setenv("PATH", folder.path().c_str(), 1) == 0);
  const bool found = have_gnuplot();
  write_report(folder.path());
  ::setenv("PATH", path.c_str(), 1);
  CHECK(!found);
  const std::string html = read_file(folder / "report.html");
  CHECK(contains(html, "gnuplot is not installed"));
  CHECK(contains(html, "<table>"));
  CHECK(!contains(html, "<svg"));
}

TEST_CASE("values and base64") {
  CHECK(format_value(0.61342) == "0.613");
  CHECK(format_value(3) == "3");
  CHECK(format_value(1.2e-6) == "1.2e-06");
  CHECK(format_value(NAN) == "n/a");
  CHECK(format_change(0.5) == "+0.500");
  CHECK(format_change(-22.123) == "-22.12");
  CHECK(base64("") == "");
  CHECK(base64("M") == "TQ==");
  CHECK(base64("Ma") == "TWE=");
  CHECK(base64("Man") == "TWFu");
  CHECK(base64("\xff\xfe") == "//4=");
}
