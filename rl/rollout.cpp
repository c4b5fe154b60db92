#include "rl/rollout.h"

#include <algorithm>

namespace parlo {
namespace {

Tensor initial_noise(const FlowModel& model, std::span<const RandomKey> keys) {
  const Shape one = model.latent_shape();
  const int64_t size = one.numel();
  const Device device = model.device();
  Tensor x = Tensor::empty({static_cast<int64_t>(keys.size()), size}, DType::f32, device);
  for (size_t b = 0; b < keys.size(); ++b) {
    x.select(0, static_cast<int64_t>(b)).copy_from(random_normal(keys[b], {size}, 1.0, device));
  }
  return x;
}

Shape batch_shape(const FlowModel& model, int64_t batch) {
  Shape s = model.latent_shape();
  s.insert(0, batch);
  return s;
}

// Velocity of flat latents [B, D], evaluated in micro-batches.
Tensor velocity_of(Velocity& velocity, const Tensor& x, double sigma, const Condition& condition,
                   const Condition* uncond, double guidance, int64_t micro_batch,
                   const SkipLayers* skip = nullptr) {
  const int64_t batch = x.dim(0);
  Tensor v = Tensor::empty_like(x);
  for (int64_t b = 0; b < batch; b += micro_batch) {
    const int64_t e = std::min(b + micro_batch, batch);
    Condition none;
    if (uncond) none = uncond->rows(b, e);
    v.slice(0, b, e).copy_from(velocity.value({x.slice(0, b, e), sigma, condition.rows(b, e),
                                               uncond ? &none : nullptr, guidance, false, skip}));
  }
  return v;
}

}  // namespace

int64_t trained_steps(const RolloutConfig& c) {
  if (c.window > 0) return c.window;
  const auto share = static_cast<int64_t>(c.timestep_fraction * static_cast<double>(c.steps));
  return std::min(c.steps - 1, share);
}

int64_t window_start(const RolloutConfig& c, RandomKey key) {
  if (c.window <= 0) return 0;
  const int64_t choices = c.window_high - c.window - c.window_low + 1;
  return c.window_low + Random(key).below(static_cast<uint32_t>(choices));
}

void validate(const RolloutConfig& c) {
  const auto fail = [](const std::string& text) { throw UsageError("rollout: " + text); };
  if (c.steps < 2) fail(concat("steps is ", c.steps, ", expected at least 2"));
  if (c.noise == FlowNoise::ode) fail("noise is ode, which has no log-probability to train on");
  const double limit = c.noise == FlowNoise::cps ? 1.0 : 100.0;
  if (!(c.noise_level > 0 && c.noise_level <= limit)) {
    fail(concat("noise level is ", c.noise_level, ", expected > 0 and at most ", limit));
  }
  if (c.micro_batch < 1) fail(concat("micro batch is ", c.micro_batch, ", expected at least 1"));
  const bool share = c.timestep_fraction > 0 && c.timestep_fraction <= 1;
  if (!share) fail(concat("timestep fraction is ", c.timestep_fraction, ", expected 0 .. 1"));
  if (c.window <= 0 && trained_steps(c) < 1) {
    fail(concat("timestep fraction ", c.timestep_fraction, " trains none of ", c.steps, " steps"));
  }
  const bool fits = c.window <= 0 || (c.window_low >= 0 && c.window_high <= c.steps - 1 &&
                                      c.window_low + c.window <= c.window_high);
  if (!fits) {
    fail(concat("a window of ", c.window, " steps does not fit [", c.window_low, ", ",
                c.window_high, ") within the first ", c.steps - 1, " of ", c.steps, " steps"));
  }
}

Rollout rollout(Velocity& velocity, const Condition& condition, const Condition* uncond,
                std::span<const SampleKey> keys, const RolloutConfig& config, int64_t start) {
  const FlowModel& model = velocity.model();
  const std::vector<double> sigmas = model.sigmas(config.steps);
  std::vector<RandomKey> init;
  for (const SampleKey& k : keys) init.push_back(k.init);
  Tensor x = initial_noise(model, init);
  Rollout out;
  for (int64_t t = 0; t < config.steps; ++t) {
    const double sigma = sigmas[static_cast<size_t>(t)];
    const double next_sigma = sigmas[static_cast<size_t>(t + 1)];
    const bool trained = t >= start && t < start + trained_steps(config);
    const bool stochastic = trained || config.window <= 0;
    const FlowCoefficients c = flow_coefficients(stochastic ? config.noise : FlowNoise::ode, sigma,
                                                 next_sigma, config.noise_level, sigmas[1]);
    const Tensor v =
        velocity_of(velocity, x, sigma, condition, uncond, config.guidance, config.micro_batch);
    std::vector<RandomKey> step_keys;
    for (const SampleKey& k : keys) step_keys.push_back(k.step.fold(static_cast<uint64_t>(t)));
    const FlowStep s = flow_step(c, x, v, step_keys);
    if (trained) out.steps.push_back({sigma, c, x, s.next, s.log_prob});
    x = s.next;
  }
  out.latents = x.view(batch_shape(model, x.dim(0)));
  return out;
}

Tensor sample_ode(Velocity& velocity, const Condition& condition, const Condition* uncond,
                  std::span<const RandomKey> keys, int64_t steps, double guidance,
                  int64_t micro_batch, const SkipLayers& skip) {
  const FlowModel& model = velocity.model();
  const std::vector<double> sigmas = model.sigmas(steps);
  Tensor x = initial_noise(model, keys);
  for (int64_t t = 0; t < steps; ++t) {
    const double sigma = sigmas[static_cast<size_t>(t)];
    const double next_sigma = sigmas[static_cast<size_t>(t + 1)];
    const Tensor v = velocity_of(velocity, x, sigma, condition, uncond, guidance, micro_batch,
                                 skip.active(t, steps) ? &skip : nullptr);
    x = flow_step(flow_coefficients(FlowNoise::ode, sigma, next_sigma, 0.0, sigmas[1]), x, v, {})
            .next;
  }
  return x.view(batch_shape(model, x.dim(0)));
}

}  // namespace parlo
