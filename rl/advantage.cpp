#include "rl/advantage.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"

namespace parlo {
namespace {

struct Moments {
  double mean = 0, std = 0;
};

Moments moments(std::span<const double> x) {
  Moments m;
  for (double v : x) m.mean += v;
  m.mean /= static_cast<double>(x.size());
  for (double v : x) m.std += (v - m.mean) * (v - m.mean);
  m.std = std::sqrt(m.std / static_cast<double>(x.size()));
  return m;
}

}  // namespace

Advantages group_advantages(std::span<const double> rewards, int64_t group_size,
                            const AdvantageConfig& config) {
  const auto n = static_cast<int64_t>(rewards.size());
  CHECK(n > 0 && group_size > 0 && n % group_size == 0, "group_advantages: ", n,
        " rewards do not fill groups of ", group_size);
  for (double r : rewards) {
    CHECK(std::isfinite(r), "group_advantages: a reward is not finite; check the reward's inputs");
  }
  const Moments all = moments(rewards);
  Advantages out;
  out.reward_mean = all.mean;
  out.groups = n / group_size;
  for (int64_t g = 0; g < out.groups; ++g) {
    const auto group =
        rewards.subspan(static_cast<size_t>(g * group_size), static_cast<size_t>(group_size));
    const Moments m = moments(group);
    // Equal rewards can leave a rounding error in the mean, which must not become an advantage.
    const bool equal =
        std::all_of(group.begin(), group.end(), [&](double r) { return r == group[0]; });
    out.zero_std_groups += equal;
    out.reward_std += m.std / static_cast<double>(out.groups);
    const double scale = (config.global_std ? all.std : m.std) + config.eps;
    for (double r : group) {
      const double a = equal ? 0.0 : (r - m.mean) / scale;
      out.values.push_back(std::clamp(a, -config.clip, config.clip));
    }
  }
  return out;
}

}  // namespace parlo
