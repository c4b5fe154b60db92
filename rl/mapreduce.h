// MapReduce LoRA: K times, train one expert a reward from the same start (Map), merge them exactly,
// fold the merge into the base and score it on every reward (Reduce). The baselines are the same
// loop: `single` keeps the experts apart, `soup` is K = 1 with a sweep of the merge weights, `morl`
// trains one adapter on the weighted sum of all rewards with the whole budget.
// Everything is crash-safe: killed anywhere and started again on the same folder, a run ends with
// the same bytes.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "lora/merge.h"
#include "rl/evaluate.h"
#include "rl/trainer.h"

namespace parlo {

enum class Method { mapreduce, single, soup, morl };
enum class OptimizerCarry { reset, keep, average };

// A reward with everything its expert needs.
struct RewardTask {
  Reward reward;
  std::vector<Prompt> train, held_out;
  int64_t steps = 64;  // rollout steps over the whole run; split evenly over iterations
  double lr = 1e-3;
  double morl_weight = 1.0;  // in morl's sum
  // KL weight of its expert; none: that of the run's GrpoConfig. morl takes the mean.
  std::optional<double> kl_beta = {};
};

struct MapReduceConfig {
  Method method = Method::mapreduce;
  int64_t iterations = 4;
  std::vector<double> weights;   // merge weights, empty: uniform; normalised to sum 1
  int64_t weight_grid = 0;       // > 0: score merges on a simplex grid of that many intervals too
  bool choose_weights = false;   // merge with the grid's best hypervolume instead of `weights`
  bool factor_mean = false;      // the published code's merge: one A for all experts,
                                 // A and B averaged apart, never folded
  bool rollback = false;         // keep the old base when the merge loses hypervolume or is worse
  bool anchor_base = false;      // KL reference: theta_0 instead of theta_k
  bool morl_mixed_data = false;  // each prompt scored by its own reward only (MORL-D)
  bool parallel = false;         // experts of an iteration side by side, one thread each
  bool evaluate_experts = true;
  OptimizerCarry carry = OptimizerCarry::reset;
  AdapterConfig lora;
  GrpoConfig grpo;
  EvalConfig eval;
  uint64_t seed = 1;
  int64_t checkpoint_every = 4;  // rollout steps
  int64_t eval_every = 0;        // rollout steps between scores of an unfinished expert; 0: none
};

void validate(const MapReduceConfig& config, const std::vector<RewardTask>& tasks);

struct StepEvent {
  int64_t iteration = 1;  // counts from 1
  std::string expert;
  StepStats stats;
};
struct EvalEvent {
  int64_t iteration = 0;  // 0: the base
  std::string model;      // base, expert:NAME, merged, soup:W, or on the way expert:NAME@STEP
  ScoreTable scores;
  double hypervolume = 0;  // against the base's means
};
struct MergeEvent {
  int64_t iteration = 1;
  std::vector<std::string> experts;  // in the order of the report's figures
  MergeReport report;
  bool accepted = true;
  double hypervolume = 0;
};

// Called in order of events; may be called from a worker thread, one at a time. A run that is
// started again repeats its merges, and an evaluation it was killed in.
struct RunObserver {
  std::function<void(const StepEvent&)> on_step = [](const StepEvent&) {};
  std::function<void(const EvalEvent&)> on_eval = [](const EvalEvent&) {};
  std::function<void(const MergeEvent&)> on_merge = [](const MergeEvent&) {};
};

struct RunResult {
  std::vector<EvalEvent> evals;
  std::vector<MergeEvent> merges;
};

class MapReduce {
 public:
  // make_model gives independent instances over the same base; folder holds checkpoints/ and
  // adapters/.
  MapReduce(std::function<std::unique_ptr<FlowModel>()> make_model, std::vector<RewardTask> tasks,
            const MapReduceConfig& config, std::filesystem::path folder, RunObserver observer);

  // Starts or continues; ends with adapters/merged (or one folder an expert for `single`), unless
  // every merge was rolled back.
  RunResult run();

 private:
  struct Expert;
  std::vector<Expert> experts_of(int64_t iteration) const;
  AdapterFile train(const Expert& expert, FlowModel& model);
  std::vector<AdapterFile> map(int64_t iteration);
  void reduce(int64_t iteration, const std::vector<AdapterFile>& adapters);
  std::vector<double> best_weights(int64_t iteration, const std::vector<AdapterFile>& adapters);
  double score(int64_t iteration, const std::string& label, FlowModel& model);
  double score(int64_t iteration, const std::string& label,
               const std::function<ScoreTable()>& measure);
  void score_on_the_way(const Expert& expert, int64_t step, FlowModel& model, bool past);
  double score_merge(int64_t iteration, const std::string& label,
                     const std::vector<AdapterFile>& adapters, const std::vector<double>& weights);
  std::vector<double> means_of(const ScoreTable& scores) const;
  double hypervolume_of(const ScoreTable& scores) const;
  bool keeps_front(const EvalEvent& merged) const;
  std::unique_ptr<FlowModel> current_model() const;

  std::function<std::unique_ptr<FlowModel>()> make_model_;
  std::vector<RewardTask> tasks_;
  std::vector<EvalSet> eval_sets_;
  MapReduceConfig config_;
  std::filesystem::path folder_;
  RunObserver observer_;
  std::mutex observing_;
  // What was folded into the base so far, in order; each is scaled by its merge weights.
  std::vector<AdapterFile> folded_;
  AdapterFile live_;  // factor-mean mode: where the next experts start
  std::map<std::pair<int64_t, std::vector<double>>, ScoreTable> scored_merges_;  // by weights
  RunResult result_;
};

}  // namespace parlo
