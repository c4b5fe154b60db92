// Checks of the flow step's operands (kernels/flow_step.h). Both backends.
#pragma once

#include "kernels/checks.h"
#include "kernels/flow_step.h"

namespace parlo {

// A sample's D elements are summed in blocks of this many.
inline constexpr int64_t kFlowBlock = 4096;

struct FlowShape {
  int64_t batch, size, blocks;  // [B, D], blocks per sample
};

inline FlowShape check_flow(std::string_view function, const Tensor& x, const Tensor& v) {
  CHECK(x.defined() && x.rank() >= 1, function, ": expected x [B, D]");
  check_operand(function, "x", x, x.dtype(), x.numel());
  check_operand(function, "v", v, x.dtype(), x.numel());
  const int64_t B = x.dim(0), D = B ? x.numel() / B : 0;
  CHECK(B == 0 || D > 0, function, ": samples of shape ", x.shape(), " are empty");
  return {B, D, ceil_div(D, kFlowBlock)};
}

// `statistics`: the dtype of values per sample.
inline FlowShape check_flow_step(const FlowCoefficients& c, const Tensor& x, const Tensor& v,
                                 const RandomKey* keys, const Tensor& next, const Tensor& log_prob,
                                 const Tensor& mean, DType statistics) {
  const FlowShape s = check_flow("flow_step", x, v);
  check_output("flow_step", "next", next, x.dtype(), x.numel());
  CHECK(next.raw() != x.raw() && next.raw() != v.raw(),
        "flow_step: next must not share the memory of x or v");
  check_output("flow_step", "log_prob", log_prob, statistics, s.batch);
  if (mean) check_output("flow_step", "mean", mean, x.dtype(), x.numel());
  CHECK(c.noise == FlowNoise::ode || keys || s.batch == 0,
        "flow_step: a noisy step needs one key per sample");
  return s;
}

inline FlowShape check_flow_log_prob(const Tensor& x, const Tensor& v, const Tensor& next,
                                     const Tensor& log_prob, DType statistics) {
  const FlowShape s = check_flow("flow_log_prob", x, v);
  check_operand("flow_log_prob", "next", next, x.dtype(), x.numel());
  check_output("flow_log_prob", "log_prob", log_prob, statistics, s.batch);
  return s;
}

inline FlowShape check_flow_loss(const FlowCoefficients& c, const Tensor& x, const Tensor& v,
                                 const Tensor& next, const Tensor& old_log_prob,
                                 const Tensor& advantage, const Tensor& v_ref,
                                 const FlowLossArgs& args, const Tensor& loss, const Tensor& ratio,
                                 const Tensor& kl, const Tensor& dv, DType statistics) {
  const char* name = "flow_loss";
  const FlowShape s = check_flow(name, x, v);
  CHECK(c.noise != FlowNoise::ode, name, ": an ode step has no probability to train");
  check_operand(name, "next", next, x.dtype(), x.numel());
  check_operand(name, "old_log_prob", old_log_prob, statistics, s.batch);
  check_operand(name, "advantage", advantage, statistics, s.batch);
  CHECK(args.kl_beta == 0 || v_ref.defined(), name, ": kl_beta ", args.kl_beta,
        " needs the reference velocity v_ref");
  if (v_ref) check_operand(name, "v_ref", v_ref, x.dtype(), x.numel());
  CHECK(args.kl_beta == 0 || c.std > 0, name,
        ": the last step has no noise, so its KL is undefined; train earlier steps");
  check_output(name, "loss", loss, statistics, s.batch);
  check_output(name, "ratio", ratio, statistics, s.batch);
  check_output(name, "kl", kl, statistics, s.batch);
  if (dv) check_output(name, "dv", dv, x.dtype(), x.numel());
  return s;
}

}  // namespace parlo
