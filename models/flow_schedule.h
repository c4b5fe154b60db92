// Noise levels of flow-matching samplers: sigma from 1 (noise) down to 0, N + 1 values.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace parlo {

// 1, 1 - 1/N, ..., 0.
std::vector<double> linear_sigmas(int64_t steps);
// SD3: linspace(1, smallest, N) with smallest = shift * 0.001 / (1 + (shift - 1) * 0.001), then
// s <- shift s / (1 + (shift - 1) s), then 0. diffusers so applies the shift twice.
std::vector<double> shifted_sigmas(int64_t steps, double shift);
// linspace(1, 1/N, N), s <- shift s / (1 + (shift - 1) s), then 0: a static shift of sigmas that a
// pipeline passes on, as FLUX's does.
std::vector<double> once_shifted_sigmas(int64_t steps, double shift);

// mu is linear in the number of image tokens: base at base_tokens, most at most_tokens.
struct DynamicShift {
  double base = 0.5, most = 1.15;
  int64_t base_tokens = 256, most_tokens = 4096;
};
// FLUX: linspace(1, 1/N, N), s <- e^mu / (e^mu + 1/s - 1), then 0.
std::vector<double> dynamic_sigmas(int64_t steps, int64_t tokens, const DynamicShift& shift = {});

// scheduler_config.json of diffusers' FlowMatchEulerDiscreteScheduler under FLUX's pipeline. Error
// for options that change the levels and are not here.
struct FluxSchedule {
  double shift = 1.0;
  bool use_dynamic_shifting = false;
  DynamicShift dynamic;

  static FluxSchedule from_json(const std::filesystem::path& scheduler_config_json);
  std::string to_json() const;
  std::vector<double> sigmas(int64_t steps, int64_t tokens) const;
};

}  // namespace parlo
