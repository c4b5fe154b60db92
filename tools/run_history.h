// What a run folder says of itself: metrics.jsonl, one JSON object a line, and summary.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace parlo {

// One optimiser step. Values that a run does not log are absent from `values`.
struct StepRecord {
  std::string method, expert;
  int64_t iteration = 0, step = 0;
  std::map<std::string, double> values;   // reward, loss, ratio_mean, kl, ...
  std::map<std::string, double> rewards;  // every reward measured on the samples
  std::map<std::string, double> seconds;  // by stage
};

struct ScoreRecord {
  double mean = 0, se = 0;
  int64_t n = 0;
};

// Held-out scores of one model: "base", "merged", "expert:NAME", "soup:W,W,W".
struct EvalRecord {
  std::string method, model;
  int64_t iteration = 0;
  int64_t step = -1;  // inside an iteration; -1: at its end
  std::map<std::string, ScoreRecord> scores;

  bool is_base() const { return model == "base"; }
};

struct MergeRecord {
  std::string method;
  int64_t iteration = 0;
  std::vector<double> weights;
  std::map<std::string, double>
      values;  // relative_error_factor_mean, discarded_energy, hypervolume
  std::map<std::string, double> delta_norms;
  std::vector<std::vector<double>> cosines;
  bool accepted = true;
};

struct RunHistory {
  std::vector<StepRecord> steps;
  std::vector<EvalRecord> evals;  // of equal models the last one only
  std::vector<MergeRecord> merges;
  std::vector<std::string> rewards;  // names in order of appearance
  std::vector<std::string> methods;
  std::map<std::string, std::string> summary;  // plain values of summary.json

  const EvalRecord* base() const;
  // Merged models of a method in order of iteration.
  std::vector<const EvalRecord*> merged(const std::string& method) const;
};

// Adds another run beside the first: its base scores are left out where the first has some, and a
// method that both have is told apart by `label`.
void add_history(RunHistory& history, RunHistory other, const std::string& label);

// Throws Error naming file and line. A broken last line, which a kill may leave, is ignored.
RunHistory read_run_history(const std::filesystem::path& run_folder);

}  // namespace parlo
