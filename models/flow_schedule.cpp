#include "models/flow_schedule.h"

#include <cmath>

#include "models/json_config.h"
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

double shifted(double sigma, double shift) {
  return shift * sigma / (1.0 + (shift - 1.0) * sigma);
}

}  // namespace

std::vector<double> linear_sigmas(int64_t steps) {
  std::vector<double> s = descending(steps, 1.0 / static_cast<double>(steps));
  s.push_back(0.0);
  return s;
}

std::vector<double> shifted_sigmas(int64_t steps, double shift) {
  std::vector<double> s = descending(steps, shifted(0.001, shift));
  for (double& x : s) x = shifted(x, shift);
  s.push_back(0.0);
  return s;
}

std::vector<double> once_shifted_sigmas(int64_t steps, double shift) {
  std::vector<double> s = linear_sigmas(steps);
  for (double& x : s) x = shifted(x, shift);
  return s;
}

std::vector<double> dynamic_sigmas(int64_t steps, int64_t tokens, const DynamicShift& d) {
  CHECK(d.most_tokens > d.base_tokens, "dynamic_sigmas: expected base_tokens ", d.base_tokens,
        " below most_tokens ", d.most_tokens);
  const double slope = (d.most - d.base) / static_cast<double>(d.most_tokens - d.base_tokens);
  const double e = std::exp(slope * static_cast<double>(tokens - d.base_tokens) + d.base);
  std::vector<double> s = descending(steps, 1.0 / static_cast<double>(steps));
  for (double& x : s) x = e / (e + 1.0 / x - 1.0);
  s.push_back(0.0);
  return s;
}

FluxSchedule FluxSchedule::from_json(const std::filesystem::path& path) {
  const JsonConfig json(path);
  for (const char* option : {"use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas",
                             "invert_sigmas", "stochastic_sampling"}) {
    CHECK(!json.boolean(option, false), path.string(), ": ", option,
          " is true, which this version does not have; expected false");
  }
  const std::string type = json.text("time_shift_type", "exponential");
  CHECK(type == "exponential", path.string(), ": time_shift_type is \"", type,
        "\", expected \"exponential\"");
  CHECK(json.number("shift_terminal", 0.0) == 0.0, path.string(),
        ": shift_terminal is set, which this version does not have; expected null");
  CHECK(json.integer("num_train_timesteps", 1000) == 1000, path.string(),
        ": num_train_timesteps is not 1000, the scale that the transformer's timesteps have");
  FluxSchedule s;
  s.shift = json.number("shift", s.shift);
  s.use_dynamic_shifting = json.boolean("use_dynamic_shifting", s.use_dynamic_shifting);
  s.dynamic.base = json.number("base_shift", s.dynamic.base);
  s.dynamic.most = json.number("max_shift", s.dynamic.most);
  s.dynamic.base_tokens = json.integer("base_image_seq_len", s.dynamic.base_tokens);
  s.dynamic.most_tokens = json.integer("max_image_seq_len", s.dynamic.most_tokens);
  return s;
}

std::string FluxSchedule::to_json() const {
  nlohmann::ordered_json j;
  j["_class_name"] = "FlowMatchEulerDiscreteScheduler";
  j["base_image_seq_len"] = dynamic.base_tokens;
  j["base_shift"] = dynamic.base;
  j["max_image_seq_len"] = dynamic.most_tokens;
  j["max_shift"] = dynamic.most;
  j["num_train_timesteps"] = 1000;
  j["shift"] = shift;
  j["use_dynamic_shifting"] = use_dynamic_shifting;
  return j.dump(2) + "\n";
}

std::vector<double> FluxSchedule::sigmas(int64_t steps, int64_t tokens) const {
  return use_dynamic_shifting ? dynamic_sigmas(steps, tokens, dynamic)
                              : once_shifted_sigmas(steps, shift);
}

}  // namespace parlo
