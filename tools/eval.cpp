// parlo eval: scores of a base and of adapters on it, merge weights swept over a simplex.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "lora/adapter.h"
#include "rl/pareto.h"
#include "tensor/file.h"
#include "tools/assets.h"
#include "tools/commands.h"
#include "tools/model_options.h"
#include "tools/options.h"
#include "tools/paths.h"
#include "tools/progress.h"
#include "tools/run_folder.h"
#include "tools/world/prompts.h"

namespace parlo {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr size_t kMaxObjectives = 6;  // of the exact hypervolume

struct EvalOptions {
  CommonOptions common;
  Device device;
  ModelOptions model;
  std::vector<std::string> adapters, rewards{"ocr", "geneval", "pickscore"};
  std::string prompts, clip, out;
  int64_t count = 400;
  int64_t sweep = 0;
  bool json = false;
};

struct Scored {
  std::string name;
  std::vector<double> weights;  // of a merge
  ScoreTable scores;
};

std::vector<EvalSet> make_sets(const EvalOptions& o) {
  std::vector<EvalSet> sets;
  std::set<std::string> seen;
  std::vector<Prompt> given;
  if (!o.prompts.empty()) given = read_prompts(o.prompts);
  for (const std::string& name : o.rewards) {
    if (!seen.insert(name).second) throw UsageError("--rewards names " + name + " twice");
    EvalSet set{named_reward(name, o.clip), given};
    if (given.empty()) set.prompts = balanced_prompts(name, Split::held_out, o.count);
    validate_prompts(set.reward, set.prompts);
    sets.push_back(std::move(set));
  }
  return sets;
}

// The last folder of each path, with its parent's where two are the same.
std::vector<std::string> short_names(const std::vector<std::string>& paths) {
  std::map<std::string, int> uses;
  std::vector<fs::path> clean;
  for (const std::string& p : paths) {
    fs::path path = fs::path(p).lexically_normal();
    if (!path.has_filename()) path = path.parent_path();
    clean.push_back(path);
    ++uses[path.filename().string()];
  }
  std::vector<std::string> names;
  for (const fs::path& p : clean) {
    const std::string last = p.filename().string();
    names.push_back(uses[last] == 1 && last != "base" ? last : p.string());
  }
  return names;
}

std::string merge_name(const std::vector<double>& weights) {
  std::string out;
  for (double w : weights) out += concat(out.empty() ? "merge:" : ",", w);
  return out;
}

class Evaluation {
 public:
  Evaluation(EvalOptions& o, std::vector<EvalSet> sets)
      : options_(o), sets_(std::move(sets)), model_(load_model(o.model, o.device)) {
    for (const std::string& a : o.adapters) {
      files_.push_back(read_adapter(a));
      LoraAdapter::from_file(model_->linears(), files_.back());  // refused before any work
    }
  }

  std::vector<Scored> run() {
    add("base", {});
    const std::vector<std::string> names = short_names(options_.adapters);
    for (size_t i = 0; i < files_.size(); ++i) {
      LoraAdapter::from_file(model_->linears(), files_[i]).enable(model_->linears());
      add(names[i], {});
    }
    if (options_.sweep > 0) sweep();
    return std::move(results_);
  }

 private:
  void add(const std::string& name, std::vector<double> weights) {
    results_.push_back({name, std::move(weights), evaluate(*model_, sets_, options_.model.draw)});
    print(results_.back());
  }

  void print(const Scored& s) const {
    if (options_.json) return;
    std::string line = s.name + ":";
    for (const EvalSet& set : sets_) {
      const Score& score = s.scores.at(set.reward.name);
      char text[96];
      std::snprintf(text, sizeof text, "  %s %.4f +- %.4f", set.reward.name.c_str(), score.mean,
                    score.standard_error);
      line += text;
    }
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  }

  void sweep() {
    for (const auto& weights :
         simplex_grid(static_cast<int>(files_.size()), static_cast<int>(options_.sweep))) {
      const auto whole = std::find(weights.begin(), weights.end(), 1.0);
      if (whole != weights.end()) {  // a corner is an adapter that was scored already
        const size_t index = static_cast<size_t>(whole - weights.begin());
        results_.push_back({merge_name(weights), weights, results_[1 + index].scores});
        continue;
      }
      std::vector<WeightedAdapter> parts;
      for (size_t i = 0; i < files_.size(); ++i) {
        if (weights[i] != 0) parts.push_back({&files_[i].modules, weights[i]});
      }
      const Linears linears = model_->linears();
      LoraAdapter::from_file(linears, describe_adapter(merge_concat(parts), files_[0].config))
          .enable(linears);
      add(merge_name(weights), weights);
    }
  }

  const EvalOptions& options_;
  std::vector<EvalSet> sets_;
  std::unique_ptr<FlowModel> model_;
  std::vector<AdapterFile> files_;
  std::vector<Scored> results_;
};

std::vector<double> point_of(const Scored& s, const std::vector<std::string>& rewards) {
  std::vector<double> point;
  for (const std::string& r : rewards) point.push_back(s.scores.at(r).mean);
  return point;
}

// What the pictures of equal noise gain, prompt by prompt.
ordered_json paired_gain(const Score& score, const Score& base) {
  std::vector<double> gains;
  for (size_t i = 0; i < score.values.size(); ++i) {
    gains.push_back(score.values[i] - base.values[i]);
  }
  const Score gain = summarise(std::move(gains));
  return {{"mean", gain.mean}, {"se", gain.standard_error}};
}

void add_front(const std::vector<Scored>& results, const std::vector<std::string>& rewards,
               ordered_json& j) {
  std::vector<std::vector<double>> points;
  for (const Scored& s : results) points.push_back(point_of(s, rewards));
  ordered_json volumes = ordered_json::object(), front = ordered_json::array();
  if (rewards.size() <= kMaxObjectives) {
    for (size_t i = 0; i < results.size(); ++i) {
      volumes[results[i].name] = hypervolume({points[i]}, points[0]);
    }
    volumes["all"] = hypervolume(points, points[0]);
  }
  for (size_t i : non_dominated(points)) front.push_back(results[i].name);
  j["hypervolume"] = volumes;
  j["front"] = front;
}

ordered_json summary(const EvalOptions& o, const std::vector<Scored>& results, double seconds) {
  ordered_json scores, errors, gains, counts;
  for (const Scored& s : results) {
    for (const std::string& reward : o.rewards) {
      const Score& score = s.scores.at(reward);
      scores[s.name][reward] = score.mean;
      errors[s.name][reward] = score.standard_error;
      gains[s.name][reward] = paired_gain(score, results[0].scores.at(reward));
      counts[reward] = score.values.size();
    }
  }
  ordered_json j{{"command", "parlo eval"}, {"commit", build_commit()},
                 {"seed", o.common.seed},   {"device", to_string(o.device)},
                 {"seconds", seconds},      {"peak_bytes", process_peak_bytes()},
                 {"scores", scores}};
  add_front(results, o.rewards, j);
  j["standard_errors"] = errors;
  j["paired_gain_over_base"] = gains;
  j["prompts"] = counts;
  return j;
}

void write_values(const fs::path& file, const std::vector<Scored>& results) {
  std::string lines;
  for (const Scored& s : results) {
    for (const auto& [reward, score] : s.scores) {
      lines += ordered_json{{"model", s.name}, {"reward", reward}, {"values", score.values}}.dump();
      lines += '\n';
    }
  }
  write_file(file, lines);
}

void run(EvalOptions o) {
  const auto start = std::chrono::steady_clock::now();
  for (const std::string& a : o.adapters)
    require_place(a, "--adapter", "an adapter's folder or file");
  if (o.sweep > 0 && o.adapters.size() < 2) {
    throw UsageError("--sweep needs two adapters or more");
  }
  if (!o.out.empty()) require_writable_folder(o.out, "--out");
  o.model.draw.seed = o.common.seed;
  const std::vector<Scored> results = Evaluation(o, make_sets(o)).run();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const ordered_json j = summary(o, results, seconds.count());
  if (!o.out.empty()) {
    make_folders(o.out);
    write_values(fs::path(o.out) / "scores.jsonl", results);
    write_file(fs::path(o.out) / "summary.json", j.dump(2) + "\n");
  }
  if (o.json) {
    std::printf("%s\n", j.dump(2).c_str());
  } else if (results.size() > 1) {
    std::printf("front: %s\nhypervolume over the base: %s\n", j["front"].dump().c_str(),
                j["hypervolume"].dump().c_str());
  }
}

}  // namespace

void add_eval(CLI::App& parent) {
  auto o = std::make_shared<EvalOptions>();
  o->common.seed = o->model.draw.seed;  // as in training: the same noise by default
  CLI::App* app = parent.add_subcommand(
      "eval", "Score a model, adapters on it and their merges on held-out prompts");
  add_model_flags(*app, o->model);
  app->add_option("--adapter", o->adapters, "Adapter of any format to score; may be given again")
      ->allow_extra_args(false);
  app->add_option("--rewards", o->rewards, "Names, separated by commas")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->capture_default_str();
  app->add_option("--count", o->count, "Held-out prompts a reward")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000000));
  app->add_option("--prompts", o->prompts, "JSONL file instead of the built-in world's prompts");
  app->add_option("--clip", o->clip, "CLIP folder of pickscore; default: the built-in world's");
  app->add_option("--sweep", o->sweep, "Score merges on a weight grid of this many intervals")
      ->check(CLI::Range(1, 100));
  app->add_option("--out", o->out, "Folder for summary.json and scores.jsonl");
  app->add_flag("--json", o->json, "Print the summary as JSON");
  add_common(*app, o->common);
  app->callback([o] {
    o->device = apply(o->common);
    run(*o);
  });
}

}  // namespace parlo
