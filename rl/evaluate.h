// Scores of a model on held-out prompts: ODE samples from noise that depends on the evaluation
// seed and the prompt's place in its list alone, so two models are compared on the same noise.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "models/flow_model.h"
#include "rl/rewards/reward.h"

namespace parlo {

struct EvalConfig {
  int64_t steps = 8;
  double guidance = 1.0;      // classifier-free; 1: none
  std::string negative = "";  // what guidance leads away from
  SkipLayers skip = {};
  uint64_t seed = 1000;
  int64_t micro_batch = 32;
};

// A reward with the prompts it is scored on.
struct EvalSet {
  Reward reward;
  std::vector<Prompt> prompts;
};

struct Score {
  std::vector<double> values;  // one a prompt
  double mean = 0;
  double standard_error = 0;
};

// By reward name.
using ScoreTable = std::map<std::string, Score>;

Score summarise(std::vector<double> values);

// Pictures of some of the prompts, by their places in the list, each handed on (place, picture) as
// soon as its batch is done: memory depends on the batch, not on the number of pictures.
void draw_images(FlowModel& model, std::span<const Prompt> prompts, std::span<const size_t> places,
                 const EvalConfig& config, const std::function<void(size_t, Image)>& done);
// One picture a prompt.
std::vector<Image> sample_images(FlowModel& model, std::span<const Prompt> prompts,
                                 const EvalConfig& config);

// Sets with the same prompts share their pictures.
ScoreTable evaluate(FlowModel& model, std::span<const EvalSet> sets, const EvalConfig& config);

}  // namespace parlo
