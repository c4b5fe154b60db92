// parlo compare: runs of several methods and seeds side by side. Every run is scored on the same
// prompts and noise, so methods are compared seed by seed.
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "rl/evaluate.h"
#include "rl/pareto.h"
#include "tensor/file.h"
#include "tensor/json_text.h"
#include "tools/commands.h"

namespace parlo {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

// What one model, or one front of a run's models, has: a mean for every reward (models only), its
// hypervolume over that run's base, and its area on every pair of rewards.
using Values = std::map<std::string, double>;
constexpr const char* kVolume = "hypervolume";

struct Table {
  std::vector<std::string> rewards, areas;
  // By name of the model ("mapreduce K=4", "expert ocr", "soup front", ...), then by seed.
  std::map<std::string, std::map<uint64_t, Values>> rows;
};

std::string area_name(const std::string& a, const std::string& b) {
  return concat(a, " x ", b);
}

// Volumes of the points, each with one score a reward, over the base.
void add_volumes(const std::vector<Scores>& points, const Scores& base, const Table& table,
                 Values& out) {
  if (base.size() < 2) return;
  out[kVolume] = hypervolume(points, base);
  const auto areas = pairwise_areas(points, base);
  for (size_t i = 0; i < base.size(); ++i) {
    for (size_t j = i + 1; j < base.size(); ++j) {
      out[area_name(table.rewards[i], table.rewards[j])] = areas[i][j];
    }
  }
}

// "" for what is not compared: the experts of one iteration of several.
std::string row_name(const std::string& model, const std::string& method, int64_t iterations) {
  if (model == "base") return "base";
  if (model == "merged") return concat(method, " K=", iterations);
  if (model.starts_with("soup:")) return concat(method, " ", model.substr(5));
  if (model.find('@') != std::string::npos) {
    return model.starts_with("morl@") ? "morl " + model.substr(4) : "";
  }
  return method == "single" || method == "soup" ? "expert " + model : "";
}

json read_summary(const fs::path& folder) {
  const fs::path file = folder / "summary.json";
  if (!fs::is_directory(folder)) throw UsageError(folder.string() + ": not a run folder");
  if (!fs::exists(file)) {
    throw UsageError(folder.string() + ": no summary.json; the run is not finished");
  }
  json summary = parse_json(read_file(file), file.string());
  CHECK(summary.is_object() && summary.contains("scores"), file.string(),
        ": not a summary of a run");
  CHECK(summary.at("scores").contains("base"), file.string(), ": has no scores of the base");
  return summary;
}

// Rewards are the same in all runs: the first one's.
void add_run(const fs::path& folder, Table& table) {
  const json summary = read_summary(folder);
  const std::string method = summary.value("method", "");
  const auto seed = summary.value("seed", uint64_t{0});
  const auto iterations = summary.value("iterations", int64_t{1});
  std::vector<std::string> rewards;
  for (const auto& [reward, mean] : summary.at("scores").at("base").items()) {
    rewards.push_back(reward);
  }
  if (table.rewards.empty()) {
    table.rewards = rewards;
    for (size_t i = 0; i < rewards.size(); ++i) {
      for (size_t j = i + 1; j < rewards.size(); ++j) {
        table.areas.push_back(area_name(rewards[i], rewards[j]));
      }
    }
  }
  if (rewards != table.rewards) {
    throw UsageError(folder.string() +
                     ": its rewards are not those of the first run; compare them apart");
  }
  const auto point_of = [&](const json& scores) {
    Scores point;
    for (const std::string& reward : rewards) point.push_back(scores.at(reward).get<double>());
    return point;
  };
  const Scores base = point_of(summary.at("scores").at("base"));
  std::vector<Scores> soups, on_the_way;
  for (const auto& [model, scores] : summary.at("scores").items()) {
    const std::string name = row_name(model, method, iterations);
    if (name.empty()) continue;
    const Scores point = point_of(scores);
    Values values;
    for (size_t i = 0; i < rewards.size(); ++i) values[rewards[i]] = point[i];
    add_volumes({point}, base, table, values);
    table.rows[name][seed] = values;
    if (model.starts_with("soup:")) soups.push_back(point);
    if (method == "morl" && name != "base") on_the_way.push_back(point);
  }
  for (const auto& [name, points] :
       {std::pair{"soup front", &soups}, std::pair{"morl front", &on_the_way}}) {
    if (points->size() > 1) add_volumes(*points, base, table, table.rows[name][seed]);
  }
}

// Columns of one table; volumes are small, so they are shown in thousandths.
void print_cells(const Table& table, const std::vector<std::string>& columns,
                 const std::string& against, bool volumes) {
  std::printf("%-34s %5s", "", "seeds");
  for (const std::string& c : columns) std::printf("  %-18s", c.c_str());
  std::printf("\n");
  const auto reference = table.rows.find(against);
  for (const auto& [name, runs] : table.rows) {
    if (name == against || runs.begin()->second.count(columns[0]) == 0) continue;
    std::vector<std::vector<double>> cells(columns.size());
    for (const auto& [seed, values] : runs) {
      if (!against.empty() && !reference->second.count(seed)) continue;
      for (size_t i = 0; i < columns.size(); ++i) {
        const double other = against.empty() ? 0.0 : reference->second.at(seed).at(columns[i]);
        cells[i].push_back((values.at(columns[i]) - other) * (volumes ? 1e3 : 1.0));
      }
    }
    if (cells[0].empty()) continue;
    std::printf("%-34s %5zu", name.c_str(), cells[0].size());
    for (const std::vector<double>& cell : cells) {
      const Score s = summarise(cell);
      char text[64];
      std::snprintf(text, sizeof text, against.empty() ? "%.4f +- %.4f" : "%+.4f +- %.4f", s.mean,
                    s.standard_error);
      std::printf("  %-18s", text);
    }
    std::printf("\n");
  }
}

void print_table(const Table& table, const std::string& against) {
  std::vector<std::string> volumes = table.areas;
  if (!volumes.empty()) volumes.insert(volumes.begin(), kVolume);
  for (const std::string& other : {std::string(), against}) {
    const std::string what = other.empty() ? "mean +- standard error over seeds"
                                           : "paired differences to " + other +
                                                 ", seed by seed (mean +- standard error)";
    std::printf("%s%s\n", other.empty() ? "" : "\n", what.c_str());
    print_cells(table, table.rewards, other, false);
    if (volumes.empty()) continue;
    std::printf("\nhypervolume and pairwise areas over the base, in thousandths\n");
    print_cells(table, volumes, other, true);
  }
}

// One line a model and seed; empty where a front has no score of its own.
std::string csv_of(const Table& table) {
  std::vector<std::string> columns = table.rewards;
  if (!table.areas.empty()) columns.push_back(kVolume);
  columns.insert(columns.end(), table.areas.begin(), table.areas.end());
  std::string out = "model,seed";
  for (const std::string& c : columns) out += concat(",", c);
  for (const auto& [name, runs] : table.rows) {
    for (const auto& [seed, values] : runs) {
      out += concat("\n\"", name, "\",", seed);
      for (const std::string& c : columns) {
        const auto at = values.find(c);
        char text[32] = ",";
        if (at != values.end()) std::snprintf(text, sizeof text, ",%.6g", at->second);
        out += text;
      }
    }
  }
  return out + "\n";
}

}  // namespace

void add_compare(CLI::App& parent) {
  struct Options {
    std::vector<std::string> runs;
    std::string against = "base", csv;
  };
  auto o = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand(
      "compare", "Mean and standard error over seeds of several runs, and paired differences");
  app->add_option("runs", o->runs, "Finished run folders")->required();
  app->add_option("--against", o->against, "Model the paired differences refer to")
      ->capture_default_str();
  app->add_option("--csv", o->csv, "Also write the figures of every seed to this file");
  app->callback([o] {
    Table table;
    for (const std::string& run : o->runs) add_run(run, table);
    const auto reference = table.rows.find(o->against);
    if (reference == table.rows.end() ||
        !reference->second.begin()->second.count(table.rewards[0])) {
      std::string names;
      for (const auto& [name, runs] : table.rows) names += concat(names.empty() ? "" : ", ", name);
      throw UsageError("--against " + o->against + ": no such model; there are: " + names);
    }
    if (!o->csv.empty()) write_file(o->csv, csv_of(table));
    print_table(table, o->against);
  });
}

}  // namespace parlo
