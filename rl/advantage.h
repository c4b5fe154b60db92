// Group advantages: A = (r - mean of the group) / (std + 1e-4), clipped. Population standard
// deviation, of the group or of all samples (flow_grpo's global_std).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace parlo {

struct AdvantageConfig {
  bool global_std = false;
  double clip = 5.0;
  double eps = 1e-4;
};

struct Advantages {
  std::vector<double> values;  // one a sample; exactly 0 in a group whose rewards are all equal
  int64_t groups = 0;
  int64_t zero_std_groups = 0;  // give no gradient
  double reward_mean = 0;
  double reward_std = 0;  // mean over groups
};

// rewards[i] belongs to group i / group_size. Error when the sizes do not divide or a reward is not
// finite.
Advantages group_advantages(std::span<const double> rewards, int64_t group_size,
                            const AdvantageConfig& config);

}  // namespace parlo
