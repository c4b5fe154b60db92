// Noise levels of flow-matching samplers: sigma from 1 (noise) down to 0, N + 1 values.
#pragma once

#include <cstdint>
#include <vector>

namespace parlo {

// 1, 1 - 1/N, ..., 0.
std::vector<double> linear_sigmas(int64_t steps);
// SD3: linspace(1, smallest, N) with smallest = shift * 0.001 / (1 + (shift - 1) * 0.001), then
// s <- shift s / (1 + (shift - 1) s), then 0. diffusers so applies the shift twice.
std::vector<double> shifted_sigmas(int64_t steps, double shift);
// FLUX: linspace(1, 1/N, N), s <- e^mu / (e^mu + 1/s - 1) with mu linear in the number of image
// tokens (0.5 at 256, 1.15 at 4096), then 0.
std::vector<double> dynamic_sigmas(int64_t steps, int64_t tokens);

}  // namespace parlo
