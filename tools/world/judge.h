// How good a judge is: its scores of true held-out pictures under true and under wrong captions.
#pragma once

#include <string>

#include "rl/rewards/reward.h"

namespace parlo {

struct JudgeReport {
  std::string reward;
  int64_t images = 0;
  double true_mean = 0;   // own caption; below 0.95 is a bug of the judge or the renderer
  double wrong_mean = 0;  // a caption of the same family with no letter, shape or colour in
                          // common (counts may agree); above 0.5 is a bug
  double other_mean = 0;  // any other caption of the same family: parts of it may be right
  double ranked = 0;      // share of pictures that score higher with their own caption than wrong
  double blank = 0, noise = 0;  // pale grey and uniformly random pictures under the true captions
  double ms_per_image = 0;      // all threads together
};

// On `count` pictures of the reward's held-out prompts, every family equally often.
JudgeReport judge_accuracy(const Reward& reward, int64_t count, uint64_t seed = 0);

// One line for a person, e.g. "ocr: true 0.99, wrong 0.01, ...".
std::string describe(const JudgeReport& report);

}  // namespace parlo
