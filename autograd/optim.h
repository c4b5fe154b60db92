// Optimisers over leaves with gradients, gradient clipping, learning-rate schedules, EMA.
// State is held as named tensors so that a checkpoint can save and restore all of it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "autograd/var.h"
#include "tensor/safetensors.h"

namespace parlo {

struct NamedVar {
  std::string name;
  Var var;
};

// sqrt of the sum of squared gradients; parameters without a gradient count as zero.
double grad_norm(const std::vector<NamedVar>& params);
// Root mean square over all gradient elements (0 without any).
double grad_rms(const std::vector<NamedVar>& params);
void zero_grads(const std::vector<NamedVar>& params);
// min(1, max_norm / (norm + 1e-6)); 1 when max_norm <= 0 or norm is not a number.
double clip_factor(double norm, double max_norm);

struct AdamWConfig {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.0;
};

// Decoupled weight decay (Loshchilov and Hutter 2019). A parameter without a gradient is left
// alone.
class AdamW {
 public:
  AdamW(std::vector<NamedVar> params, AdamWConfig config);
  // grad_scale multiplies every gradient first (clipping).
  void step(double lr, double grad_scale = 1.0);
  int64_t steps() const { return step_; }
  const std::vector<NamedVar>& params() const { return params_; }
  // "NAME.m", "NAME.v" and "step"; load throws Error listing what is missing or of another shape.
  NamedTensors state() const;
  void load_state(const NamedTensors& state);
  // Forgets moments and step count.
  void reset();

 private:
  std::vector<NamedVar> params_;
  std::vector<Tensor> m_, v_;
  AdamWConfig config_;
  int64_t step_ = 0;
};

struct MuonConfig {
  double momentum = 0.95;
  int newton_schulz_steps = 5;
  double weight_decay = 0.0;
};

// Muon (Jordan et al. 2024): Nesterov momentum, then the update's nearest semi-orthogonal matrix by
// a quintic Newton-Schulz iteration, times sqrt(max(1, rows / columns)). 2-D f32 or f64 parameters
// only.
class Muon {
 public:
  Muon(std::vector<NamedVar> params, MuonConfig config);
  void step(double lr);
  NamedTensors state() const;
  void load_state(const NamedTensors& state);

 private:
  std::vector<NamedVar> params_;
  std::vector<Tensor> momentum_;
  MuonConfig config_;
};

// Learning-rate factors in [0, 1]; step counts from 0. A warm-up's first factor is 1 / warmup, not
// 0: no step is lost.
double constant_schedule(int64_t step, int64_t warmup);
// Linear warm-up, then half a cosine down to `floor` at `total`.
double cosine_schedule(int64_t step, int64_t warmup, int64_t total, double floor = 0.0);
// Linear warm-up, constant, then linear decay to 0 over the last `decay` steps.
double trapezoid_schedule(int64_t step, int64_t warmup, int64_t total, int64_t decay);

// Exponential moving average of parameters, called once per optimiser step t = 0, 1, ... and
// updated where t + 1 is a multiple of `every`, with decay_t = min((1 + t) / (10 + t), decay)
// (warm-up on) or decay.
class Ema {
 public:
  Ema(const std::vector<NamedVar>& params, double decay, bool warm_up = true, int64_t every = 1);
  void update();
  // Exchanges the parameters' values with the averages; calling it again swaps back.
  void swap();
  NamedTensors state() const;
  void load_state(const NamedTensors& state);

 private:
  std::vector<NamedVar> params_;
  std::vector<Tensor> averages_;
  double decay_;
  bool warm_up_;
  int64_t every_;
  int64_t updates_ = 0;  // calls
};

}  // namespace parlo
