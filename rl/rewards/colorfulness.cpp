#include "rl/rewards/colorfulness.h"

#include <algorithm>
#include <cmath>

namespace parlo {

double colorfulness(const Image& image) {
  const int64_t pixels = int64_t{image.width} * image.height;
  if (pixels == 0) return 0.0;
  double rg1 = 0, rg2 = 0, yb1 = 0, yb2 = 0;
  for (int64_t i = 0; i < pixels; ++i) {
    const uint8_t* p = &image.rgb[static_cast<size_t>(i) * 3];
    const double rg = double{1} * p[0] - p[1], yb = 0.5 * (p[0] + p[1]) - p[2];
    rg1 += rg;
    rg2 += rg * rg;
    yb1 += yb;
    yb2 += yb * yb;
  }
  const double n = static_cast<double>(pixels);
  rg1 /= n;
  yb1 /= n;
  const double variance = std::max(0.0, rg2 / n - rg1 * rg1) + std::max(0.0, yb2 / n - yb1 * yb1);
  const double measure = std::sqrt(variance) + 0.3 * std::sqrt(rg1 * rg1 + yb1 * yb1);
  return std::clamp(measure / 150.0, 0.0, 1.0);
}

Reward make_colorfulness_reward() {
  return reward_of_judge("colorfulness",
                         [](const Image& image, const Prompt&) { return colorfulness(image); });
}

}  // namespace parlo
