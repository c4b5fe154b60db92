// A run's folder: config.toml, metrics.jsonl, summary.json, samples/, adapters/, checkpoints/.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "rl/mapreduce.h"
#include "tensor/file.h"

namespace parlo {

// The log of a run, in which every step, evaluation and merge stands once. Opening it on an
// existing folder drops the lines of steps behind the last checkpoints, which the resumed run will
// take again; what is there of evaluations and merges is not written a second time.
class RunLog {
 public:
  RunLog(const std::filesystem::path& folder, std::string method);

  // Steps that were in the file when it was opened.
  int64_t earlier_steps() const { return earlier_steps_; }
  // Seconds of this run, with those of the parts before it was resumed.
  double elapsed() const;

  void step(const StepEvent& event);
  void evaluation(const EvalEvent& event);
  void merge(const MergeEvent& event);

 private:
  std::string resumed_lines(const std::filesystem::path& folder, const std::string& text);
  void append(nlohmann::ordered_json line);

  std::string method_;
  std::set<std::string> known_;  // evaluations and merges that are in the file
  int64_t earlier_steps_ = 0;
  double earlier_seconds_ = 0;
  std::chrono::steady_clock::time_point opened_ = std::chrono::steady_clock::now();
  std::unique_ptr<LineLog> log_;
};

// Short id of the commit this was built from, or "unknown".
const char* build_commit();
// Of this project, e.g. "0.1.0".
const char* build_version();

struct SummaryInfo {
  std::string command;
  std::string method;
  uint64_t seed = 0;
  int64_t iterations = 1;
  Device device;
  double seconds = 0;
};

// summary.json: command, commit, seed, device, seconds, peak_bytes (resident, of the process),
// scores by model, hypervolume.
void write_summary(const std::filesystem::path& folder, const SummaryInfo& info,
                   const RunResult& result);

}  // namespace parlo
