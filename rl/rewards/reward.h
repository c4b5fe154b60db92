// Rewards: judges that see only the pixels (uint8 RGB) and the prompt.
//
// name                    score                                                    range
// ocr                     1 - edit distance / length of the quoted text            0..1
// geneval                 GenEval's dense score: mean of count, colour, place      <= 1
// geneval_strict          1 when every object, colour and place is right, else 0   0, 1
// jpeg_compressibility    -(bytes at quality 95 / 1000) / 500                      < 0
// jpeg_incompressibility  bytes at quality 95 / 1000                               > 0
// colorfulness            Hasler-Suesstrunk / 150, clipped                         0..1
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rl/rewards/image.h"
#include "rl/rewards/prompt.h"

namespace parlo {

struct Reward {
  std::string name;
  // One score an image, prompts[i] belongs to images[i]; same result for any batch and number of
  // threads. A pair that cannot be judged (see why_not) scores 0.
  std::function<std::vector<double>(std::span<const Image>, std::span<const Prompt>)> score;
  // Empty when the prompt can be judged, else the reason. Null: every prompt can.
  std::function<std::string(const Prompt&)> why_not;
};

// Throws UsageError on an unknown name (listing the known) or one that is off in this build.
Reward make_reward(std::string_view name);

// The rewards this build can compute.
std::vector<std::string> reward_names();

// UsageError naming the first prompts the reward cannot judge; also when there is none at all.
void validate_prompts(const Reward& reward, std::span<const Prompt> prompts);

// A Reward from a judge of one image, which parallel_for spreads over the threads. An exception in
// the judge makes that one score 0, as in the published rewards.
using Judge = std::function<double(const Image&, const Prompt&)>;
Reward reward_of_judge(std::string name, Judge judge,
                       std::function<std::string(const Prompt&)> why_not = nullptr);

}  // namespace parlo
