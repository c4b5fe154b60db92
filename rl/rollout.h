// Sampling with stored steps: a flow sampler that is stochastic inside a window of steps and the
// plain ODE outside of it, and keeps what the policy loss reads.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "autograd/functions.h"
#include "rl/velocity.h"

namespace parlo {

struct RolloutConfig {
  int64_t steps = 8;
  FlowNoise noise = FlowNoise::cps;
  double noise_level = 0.8;  // a
  // One window of `window` stochastic steps, its start drawn from [window_low, window_high -
  // window]; 0 makes every step stochastic and trains the first int(timestep_fraction * steps).
  int64_t window = 3;
  int64_t window_low = 0;
  int64_t window_high = 5;
  double timestep_fraction = 0.99;
  double guidance = 1.0;
  bool detach_uncond = false;
  int64_t micro_batch = 32;  // samples a forward pass; no effect on results
  bool record = true;        // on a GPU: forward and backward as CUDA graphs; no effect on results
};

// Who a sample is: its noise depends on this alone.
struct SampleKey {
  RandomKey init;  // of the first latent
  RandomKey step;  // folded with the step's index
};

struct StoredStep {
  double sigma = 1;
  FlowCoefficients coefficients;
  Tensor x, next;   // [B, D]
  Tensor log_prob;  // [B]
};

struct Rollout {
  std::vector<StoredStep> steps;
  Tensor latents;  // [B, ...] at sigma 0
};

// First stochastic step of a window drawn from the key (0 without a window).
int64_t window_start(const RolloutConfig& config, RandomKey key);
// Number of steps that are stored and trained: the window, or the trained share of all steps. The
// last step is never among them: its density vanishes (cps) or is extremely peaked (sde).
int64_t trained_steps(const RolloutConfig& config);

// UsageError naming the field when the settings do not fit each other.
void validate(const RolloutConfig& config);

Rollout rollout(Velocity& velocity, const Condition& condition, const Condition* uncond,
                std::span<const SampleKey> keys, const RolloutConfig& config, int64_t start);

// Plain ODE sampling.
Tensor sample_ode(Velocity& velocity, const Condition& condition, const Condition* uncond,
                  std::span<const RandomKey> keys, int64_t steps, double guidance,
                  int64_t micro_batch = 32, const SkipLayers& skip = {});

}  // namespace parlo
