// A trainer on the tiny pipeline, and a look at its gradient.
#pragma once

#include <map>
#include <memory>

#include "rl/trainer.h"
#include "tests/rl/tiny_pipeline.h"

namespace parlo::test {

inline GrpoConfig tiny_config() {
  GrpoConfig c;
  c.rollout.steps = 5;
  c.rollout.window = 2;
  c.rollout.window_low = 0;
  c.rollout.window_high = 4;
  c.prompts_per_step = 3;
  c.group_size = 4;
  c.updates_per_rollout = 2;
  c.lr = 1e-2;
  return c;
}

// Everything a trainer needs, on an adapter that already does something.
struct Bench {
  std::unique_ptr<Sd3Pipeline> pipeline = tiny_pipeline();
  WatchedModel model{*pipeline};
  LoraAdapter adapter = trained_adapter(model.linears(), 11);
  std::vector<Prompt> prompts = tiny_prompts(5);
  std::vector<WeightedReward> rewards{{colour_reward(0), 1.0}};
  std::unique_ptr<GrpoTrainer> trainer;

  GrpoTrainer& start(const GrpoConfig& config, FlowModel* reference = nullptr) {
    trainer.reset();
    trainer = std::make_unique<GrpoTrainer>(model, adapter, rewards, prompts, config,
                                            ExpertKey{1, 1, "red"}, reference);
    return *trainer;
  }
};

inline std::map<std::string, Tensor> tensors_of(const GrpoTrainer& trainer) {
  const NamedTensors state = trainer.state();
  return {state.begin(), state.end()};
}

// Gradient of the only update so far, read from Adam's first moment (1 - beta1) g.
inline std::map<std::string, std::vector<double>> gradients_of(const Bench& bench) {
  const std::map<std::string, Tensor> state = tensors_of(*bench.trainer);
  std::map<std::string, std::vector<double>> out;
  for (const NamedVar& p : bench.adapter.params()) {
    out[p.name] = state.at(p.name + ".m").to_vector();
    for (double& g : out[p.name]) g /= 0.1;
  }
  return out;
}

inline double norm_of(const std::vector<double>& x) {
  double squares = 0;
  for (double v : x) squares += v * v;
  return std::sqrt(squares);
}

}  // namespace parlo::test
