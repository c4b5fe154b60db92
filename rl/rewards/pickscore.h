// PickScore: how well a picture fits its prompt, by a CLIP: exp(logit_scale) * cosine / 26, as
// flow_grpo scales it (divisor 1 gives the raw score). The model is a folder of CLIPModel with its
// tokenizer files beside it.
#pragma once

#include <filesystem>

#include "rl/rewards/reward.h"

namespace parlo {

// Pictures must have the size of the model's images. Text longer than the tower's positions is cut.
Reward pickscore_reward(const std::filesystem::path& clip_folder, double divisor = 26.0);

}  // namespace parlo
