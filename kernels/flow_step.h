// One step of a flow sampler with its log-probability, and the analytic gradient of the clipped
// policy loss with respect to the velocity. Flow-GRPO's SDE, coefficient-preserving sampling and
// DanceGRPO's constant-eta SDE; sigma 1 is noise, x_s = (1-s) x0 + s eps, v = eps - x0.
// All step maths in f32 (f64 for f64 inputs).
#pragma once

#include "tensor/philox.h"
#include "tensor/tensor.h"

namespace parlo {

enum class FlowNoise { ode, sde, cps, dance };

// The step as an affine map: mean = cx * x + cv * v, x' = mean + std * z.
struct FlowCoefficients {
  FlowNoise noise = FlowNoise::ode;
  double cx = 1.0;
  double cv = 0.0;
  double std = 0.0;     // of the added noise: n for sde and dance, CPS std for cps
  double kl_std = 0.0;  // std that divides the KL: without sqrt(-dt), as the published code
  double dt = 0.0;      // s_next - s < 0
};

// a: noise level, 0 gives an ode step. s_cap replaces s where s == 1 (to 1e-6) in sde's denominator
// (sigmas[1] of the schedule).
FlowCoefficients flow_coefficients(FlowNoise noise, double s, double s_next, double a,
                                   double s_cap);

struct FlowLossArgs {
  double clip_low = 1e-4;
  double clip_high = 1e-4;
  double kl_beta = 0.0;
  bool exact_kl = false;  // divide by 2 n^2 (the Gaussian KL) instead of 2 std^2
};

namespace cpu {

// x, v, next, mean [B, D] contiguous; z is drawn from keys[b] (f32 normal, element i = block i/4).
// log_prob [B]: mean over D of the Gaussian log-density (sde, dance), -mean((x'-mean)^2) (cps);
// 0 for ode. mean is optional. keys has B entries; unused for ode.
void flow_step(const FlowCoefficients& c, const Tensor& x, const Tensor& v, const RandomKey* keys,
               const Tensor& next, const Tensor& log_prob, const Tensor& mean);

// Log-probability of a stored step: x, v, next [B, D] -> log_prob [B]. The same arithmetic in the
// same order as flow_step, so equal v give equal bits.
void flow_log_prob(const FlowCoefficients& c, const Tensor& x, const Tensor& v, const Tensor& next,
                   const Tensor& log_prob);

// Per-sample loss [B] (policy + kl_beta * kl) and its gradient dv [B, D] (gradient of loss[b] with
// respect to v[b]); policy loss max(-A r, -A clip(r, 1-lo, 1+hi)), r = exp(logp - old_log_prob).
// v_ref (reference velocity) is needed when kl_beta != 0. ratio, kl [B] are outputs (kl 0 without
// v_ref). ode steps are an Error.
void flow_loss(const FlowCoefficients& c, const Tensor& x, const Tensor& v, const Tensor& next,
               const Tensor& old_log_prob, const Tensor& advantage, const Tensor& v_ref,
               const FlowLossArgs& args, const Tensor& loss, const Tensor& ratio, const Tensor& kl,
               const Tensor& dv);

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::flow_step) flow_step;
decltype(cpu::flow_log_prob) flow_log_prob;
decltype(cpu::flow_loss) flow_loss;
}  // namespace cuda
}  // namespace parlo
