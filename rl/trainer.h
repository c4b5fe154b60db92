// One expert: Flow-GRPO on an adapter. A step is a rollout of prompts_per_step groups, their
// rewards, and updates_per_rollout optimiser steps on disjoint parts of the samples. Knows the
// model and the reward only through their interfaces; returns plain statistics.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "autograd/optim.h"
#include "lora/adapter.h"
#include "rl/advantage.h"
#include "rl/rewards/reward.h"
#include "rl/rollout.h"

namespace parlo {

struct GrpoConfig {
  RolloutConfig rollout;
  AdvantageConfig advantage;
  FlowLossArgs loss{1e-3, 1e-3, 0.0, false};
  int64_t prompts_per_step = 12;
  int64_t group_size = 8;
  int64_t updates_per_rollout = 2;
  bool same_noise = false;  // one initial latent for a whole group
  double lr = 1e-3;
  AdamWConfig adam{0.9, 0.999, 1e-12, 1e-4};
  double max_grad_norm = 1.0;  // 0: no clipping
  double ema_decay = 0.0;      // 0: no EMA; else evaluation and saved adapters use it
  int64_t ema_every = 1;       // optimiser steps between its updates
  double weight_prox = 0.0;    // L2 pull towards the phase's start (adapter weights to 0)
  int64_t max_bad_steps = 5;   // skipped updates in a row that end the run
};

void validate(const GrpoConfig& config);

// A reward to train on, with its share in a mixture. One entry with weight 1 is a plain expert.
struct WeightedReward {
  Reward reward;
  double weight = 1.0;
};

struct StepStats {
  int64_t step = 0;                       // counts from 1
  double reward = 0;                      // weighted
  std::map<std::string, double> rewards;  // mean of each over the prompts it can judge
  double reward_std = 0;
  int64_t groups = 0, zero_std_groups = 0, group_size = 0;
  double loss = 0, kl = 0, approx_kl = 0;
  double ratio_mean = 1, ratio_max_deviation = 0;
  double first_ratio_deviation = 0;  // of the first, on-policy update: exactly 0
  double clip_fraction = 0;
  double grad_norm = 0, adam_eps_ratio = 0;  // grad RMS over Adam's eps
  int64_t bad_updates = 0;                   // skipped: a reward, loss or gradient not finite
  double rollout_seconds = 0, reward_seconds = 0, update_seconds = 0;
};

// Names an expert's place in a run: its randomness depends on this, and not on what ran before.
struct ExpertKey {
  uint64_t seed = 1;
  uint64_t iteration = 0;
  std::string expert;
};

class GrpoTrainer {
 public:
  // The adapter must fit the model and stays enabled on it while the trainer lives. Prompts are
  // drawn without replacement until all were used, in a keyed order. The KL term pulls towards
  // `reference`, or towards the model without the adapter when it is null.
  GrpoTrainer(FlowModel& model, LoraAdapter& adapter, std::vector<WeightedReward> rewards,
              std::vector<Prompt> prompts, const GrpoConfig& config, const ExpertKey& key,
              FlowModel* reference = nullptr);
  ~GrpoTrainer();

  // Step number steps() + 1. An update without a finite reward, loss and gradient is skipped;
  // throws Error after max_bad_steps of them in a row, and, before anything changes, when the first
  // update of a rollout does not see ratio 1 exactly.
  StepStats step();
  int64_t steps() const { return step_; }

  // Everything a resumed trainer needs: adapter, optimiser, EMA, counters.
  NamedTensors state() const;
  void load_state(const NamedTensors& state);
  // Adam's moments, for averaging over experts.
  AdamW& optimizer() { return optimizer_; }

  const Velocity& velocity() const { return velocity_; }

  // Swaps EMA weights into the adapter and back; nothing without EMA.
  void swap_ema();

 private:
  struct Batch;
  struct Tally;
  Batch collect(StepStats& stats);
  bool score(Batch& batch, StepStats& stats);
  void update(const Batch& batch, StepStats& stats);
  Tally gradient(const Batch& batch, int64_t begin, int64_t end);
  void accumulate(const Batch& batch, const StoredStep& step, std::span<const int64_t> rows,
                  double share, Tally& tally);
  bool apply_gradient(double loss, StepStats& stats);
  void skip(const std::string& reason, StepStats& stats);
  std::vector<int64_t> draw_prompts(int64_t step) const;
  void prepare_prompts();

  FlowModel& model_;
  Velocity velocity_;
  std::optional<Velocity> reference_;  // of a model other than the trained one
  LoraAdapter& adapter_;
  Linears linears_;
  std::vector<WeightedReward> rewards_;
  std::vector<Prompt> prompts_;
  GrpoConfig config_;
  RandomKey key_;
  std::vector<NamedVar> params_;
  AdamW optimizer_;
  std::optional<Ema> ema_;
  int64_t step_ = 0;
  int64_t prepared_ = 0;  // prompts of the steps before this are known to the model
  int64_t bad_in_a_row_ = 0;
};

}  // namespace parlo
