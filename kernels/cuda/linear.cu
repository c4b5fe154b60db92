// linear on a GPU: y = activation(x w' + bias + scale (x a') b') + residual.
// The base product is cuBLASLt's. Its epilogue adds a bias and applies the tanh GELU, and beta adds
// a residual; what it cannot do is one pass over y afterwards (linear_tail.h), the low-rank
// up-projection included. Between the two y is rounded once to its dtype.
#include "kernels/matmul.h"

#include "kernels/cuda/common.cuh"

#include "kernels/cuda/blas.h"
#include "kernels/cuda/linear_tail.h"
#include "kernels/cuda/low_rank.h"
#include "kernels/matmul_checks.h"

namespace parlo::cuda {
namespace {

GemmArgs base_product(const Tensor& x, const Tensor& w, const Tensor& y) {
  GemmArgs g;
  g.device = y.device();
  g.in = x.dtype(), g.out = y.dtype();
  g.m = x.dim(0), g.n = w.dim(0), g.k = x.dim(1);
  g.a = x.raw(), g.b = w.raw(), g.c = y.raw();
  g.trans_b = true;
  g.a_row = g.b_row = g.k, g.c_row = g.n;
  return g;
}

// The whole of linear in one product, where the library can.
bool try_epilogue(GemmArgs g, const LinearArgs& args) {
  const bool plain = args.activation == Activation::none;
  // The library's tanh is an approximation that only bf16 hides.
  const bool gelu = args.activation == Activation::gelu_tanh && g.out == DType::bf16;
  if (args.low_rank || g.k == 0 || !(plain || gelu)) return false;
  if (plain ? args.pre_activation.defined() : args.residual.defined()) return false;
  if (args.bias) g.bias = args.bias.raw();
  if (args.residual) g.add = args.residual.raw(), g.beta = 1;
  g.gelu = gelu;
  if (args.pre_activation) g.aux = args.pre_activation.raw();
  return try_gemm(g);
}

// The operands as the kernels want them: contiguous, of x's dtype, `down` always there.
LowRank ready_low_rank(const LowRank& given, const Tensor& x) {
  LowRank low = given;
  low.a = low.a.to(x.dtype()).contiguous(), low.b = low.b.to(x.dtype()).contiguous();
  if (!low.down) low.down = Tensor::empty({x.dim(0), low.a.dim(0)}, x.dtype(), x.device());
  return low;
}

}  // namespace

void linear(const Tensor& x, const Tensor& w, const Tensor& y, const LinearArgs& args) {
  check_linear(x, w, y, args);
  check_same_device("linear", x, w, y, args.bias, args.pre_activation, args.residual);
  if (args.low_rank) {
    check_same_device("linear", x, args.low_rank->a, args.low_rank->b, args.low_rank->down);
  }
  const DType dtype = x.dtype();
  visit_dtype_gpu(dtype, "linear", [](auto) {});
  LinearArgs rest = args;
  LowRank low;
  if (args.low_rank) {
    low = ready_low_rank(*args.low_rank, x);
    rest.low_rank = &low;
    if (!low_rank_down(x, low.a, low.down)) matmul(x, false, low.a, true, low.down);
  }
  if (y.numel() == 0) return;
  if (args.bias) rest.bias = args.bias.to(dtype).contiguous();
  const Tensor input = x.to(w.dtype());
  const GemmArgs g = base_product(input, w, y);
  if (try_epilogue(g, rest)) return;
  if (args.residual && args.residual.raw() == y.raw()) rest.residual = args.residual.clone();
  if (g.k == 0) {
    y.fill(0);
  } else {
    gemm(g);
  }
  if (rest.low_rank) {
    if (linear_tail_low_rank(y, rest)) return;
    matmul(low.down, false, low.b, true, y, low.scale, 1.0);
  }
  linear_tail(y, rest);
}

}  // namespace parlo::cuda
