// What ships with parlo: the built-in world's base model and CLIP.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "rl/rewards/reward.h"

namespace parlo {

// The asset folder: PARLO_ASSETS of the environment, else the one of this build or installation.
std::filesystem::path assets_folder();
std::filesystem::path signs_base();
std::filesystem::path signs_clip();

// make_reward, and pickscore on a CLIP folder (empty: the built-in world's).
Reward named_reward(const std::string& name, const std::filesystem::path& clip = {});
std::vector<std::string> all_reward_names();

}  // namespace parlo
