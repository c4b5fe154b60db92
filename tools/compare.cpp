// parlo compare: runs of several methods and seeds side by side. Every run is scored on the same
// prompts and noise, so methods are compared seed by seed.
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "rl/evaluate.h"
#include "rl/pareto.h"
#include "tensor/file.h"
#include "tools/commands.h"

namespace parlo {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

// One model of one run: its means by reward, and its hypervolume over that run's base.
struct Entry {
  std::map<std::string, double> means;
  double hypervolume = 0;
};

// By name of the model ("mapreduce K=4", "expert ocr", ...), then by seed.
using Table = std::map<std::string, std::map<uint64_t, Entry>>;

void add_run(const fs::path& folder, Table& table) {
  const fs::path file = folder / "summary.json";
  if (!fs::exists(file)) {
    throw UsageError(folder.string() + ": no summary.json; the run is not finished");
  }
  const json summary = json::parse(read_file(file), nullptr, false);
  CHECK(summary.is_object() && summary.contains("scores"), file.string(),
        ": not a summary of a run");
  const std::string method = summary.value("method", "");
  const auto seed = summary.value("seed", uint64_t{0});
  const auto& scores = summary.at("scores");
  CHECK(scores.contains("base"), file.string(), ": has no scores of the base");
  const auto base = scores.at("base").get<std::map<std::string, double>>();
  for (const auto& [model, values] : scores.items()) {
    std::string name;
    if (model == "base")
      name = "base";
    else if (model == "merged")
      name = concat(method, " K=", summary.value("iterations", 1));
    else if (model.starts_with("morl@"))
      name = "morl " + model.substr(4);
    else if (model.starts_with("soup:"))
      name = concat(method, " ", model.substr(5));
    else if (method == "single" || method == "soup")
      name = "expert " + model;
    if (name.empty()) continue;
    Entry e{values.get<std::map<std::string, double>>(), 0.0};
    std::vector<double> point, reference;
    for (const auto& [reward, mean] : e.means) {
      point.push_back(mean);
      reference.push_back(base.at(reward));
    }
    if (point.size() > 1) e.hypervolume = hypervolume({point}, reference);
    table[name][seed] = e;
  }
}

void print_cell(const std::vector<double>& values, const char* format) {
  const Score s = summarise(values);
  std::printf(format, s.mean, s.standard_error);
}

void print_row(const std::string& name, const std::map<uint64_t, Entry>& runs,
               const std::vector<std::string>& rewards, const std::map<uint64_t, Entry>* against) {
  std::printf("%-28s %5zu", name.c_str(), runs.size());
  std::vector<std::vector<double>> columns(rewards.size() + 1);
  for (const auto& [seed, e] : runs) {
    if (against && !against->count(seed)) continue;
    for (size_t i = 0; i < rewards.size(); ++i) {
      const double other = against ? against->at(seed).means.at(rewards[i]) : 0.0;
      columns[i].push_back(e.means.at(rewards[i]) - other);
    }
    columns.back().push_back(e.hypervolume - (against ? against->at(seed).hypervolume : 0.0));
  }
  for (size_t i = 0; i < rewards.size(); ++i) {
    print_cell(columns[i], against ? "  %+.4f +- %.4f" : "  %.4f +- %.4f");
  }
  print_cell(columns.back(), against ? "  %+.2e +- %.1e\n" : "  %.2e +- %.1e\n");
}

void print_table(const Table& table, const std::string& against) {
  const auto& any = table.begin()->second.begin()->second.means;
  std::vector<std::string> rewards;
  for (const auto& [reward, mean] : any) rewards.push_back(reward);
  std::printf("%-28s %5s", "model", "seeds");
  for (const std::string& r : rewards) std::printf("  %-17s", r.c_str());
  std::printf("  hypervolume\n");
  for (const auto& [name, runs] : table) print_row(name, runs, rewards, nullptr);
  const auto reference = table.find(against);
  if (reference == table.end()) return;
  std::printf("\npaired differences to %s, seed by seed (mean +- standard error)\n",
              against.c_str());
  for (const auto& [name, runs] : table) {
    if (name != against) print_row(name, runs, rewards, &reference->second);
  }
}

}  // namespace

void add_compare(CLI::App& parent) {
  struct Options {
    std::vector<std::string> runs;
    std::string against = "base";
  };
  auto o = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand(
      "compare", "Mean and standard error over seeds of several runs, and paired differences");
  app->add_option("runs", o->runs, "Finished run folders")->required();
  app->add_option("--against", o->against, "Model the paired differences refer to")
      ->capture_default_str();
  app->callback([o] {
    Table table;
    for (const std::string& run : o->runs) add_run(run, table);
    if (!table.count(o->against)) {
      std::string names;
      for (const auto& [name, runs] : table) names += (names.empty() ? "" : ", ") + name;
      throw UsageError("--against " + o->against + ": no such model; there are: " + names);
    }
    print_table(table, o->against);
  });
}

}  // namespace parlo
