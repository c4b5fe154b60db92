// y = f(gate) * up of [gate | up] = x w' + bias + low rank (kernels/glu_linear.h) on a GPU. In bf16
// on Hopper our own product does it in its way out (gemm_sm90.h): no halves in memory unless they
// are asked for. Elsewhere they are, in a tensor of their own if need be, and glu follows linear.
#include "kernels/glu_linear.h"

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/linear_library.h"
#include "kernels/cuda/linear_parts.h"
#include "kernels/glu.h"
#include "kernels/glu_linear_checks.h"

namespace parlo::cuda {
namespace {

void glu_library(const HopperProduct& p, const LowRank* low) {
  Tensor halves = p.args.pre_activation;
  if (!halves) halves = Tensor::empty({p.x.dim(0), p.w.dim(0)}, p.y.dtype(), p.y.device());
  LinearArgs args;
  args.bias = p.args.bias, args.low_rank = low;
  linear_library(p.x, p.w, halves, args);
  glu(p.args.activation, glu_half(halves, 0), glu_half(halves, 1), p.y);
}

}  // namespace

void glu_linear(Activation f, const Tensor& x, const Tensor& w, const Tensor& y,
                const GluLinearArgs& args) {
  check_glu_linear(x, w, y, args);
  check_same_device("glu_linear", x, w, y, args.bias, args.halves);
  visit_dtype_gpu(x.dtype(), "glu_linear", [](auto) {});
  const std::vector<LowRankRows> parts = ready_parts(x, linear_args_of(args));
  if (y.numel() == 0) return;
  LinearArgs ready;
  if (args.bias) ready.bias = args.bias.to(x.dtype()).contiguous();
  ready.activation = f, ready.pre_activation = args.halves;
  run_linear_parts({x, w, y, false, ready, true}, parts, glu_library);
}

}  // namespace parlo::cuda
