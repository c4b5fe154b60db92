#include "models/flow_schedule.h"

#include <cmath>

#include "tensor/error.h"

namespace parlo {
namespace {

// linspace(1, last, steps)
std::vector<double> descending(int64_t steps, double last) {
  CHECK(steps >= 1, "sampler steps: expected at least 1, got ", steps);
  std::vector<double> out;
  for (int64_t i = 0; i < steps; ++i) {
    const double share = steps == 1 ? 0.0 : static_cast<double>(i) / static_cast<double>(steps - 1);
    out.push_back(1.0 + share * (last - 1.0));
  }
  return out;
}

}  // namespace

std::vector<double> linear_sigmas(int64_t steps) {
  std::vector<double> s = descending(steps, 1.0 / static_cast<double>(steps));
  s.push_back(0.0);
  return s;
}

std::vector<double> shifted_sigmas(int64_t steps, double shift) {
  const auto shifted = [shift](double s) { return shift * s / (1.0 + (shift - 1.0) * s); };
  std::vector<double> s = descending(steps, shifted(0.001));
  for (double& x : s) x = shifted(x);
  s.push_back(0.0);
  return s;
}

std::vector<double> dynamic_sigmas(int64_t steps, int64_t tokens) {
  const double slope = 0.65 / 3840.0;
  const double e = std::exp(slope * static_cast<double>(tokens) + 0.5 - 256.0 * slope);
  std::vector<double> s = descending(steps, 1.0 / static_cast<double>(steps));
  for (double& x : s) x = e / (e + 1.0 / x - 1.0);
  s.push_back(0.0);
  return s;
}

}  // namespace parlo
