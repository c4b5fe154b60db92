// linear on a GPU: y = activation(x w' + bias + scale (x a') b') * gate + residual.
// On Hopper our own product does all of it in one pass where cuBLASLt cannot (gemm_sm90.h).
// Otherwise the base product is cuBLASLt's. Its epilogue adds a bias and applies the tanh GELU, and
// beta adds a residual; what it cannot do is one pass over y afterwards (linear_tail.h), the
// low-rank up-projection included. Between the two y is rounded once to its dtype. Rows of several
// adapters: consecutive ones that the Hopper product takes are one launch, others one product each.
// What takes a row depends on its own adapter, not on its neighbours.
#include "kernels/matmul.h"

#include "kernels/cuda/common.cuh"

#include <utility>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/linear_library.h"
#include "kernels/cuda/linear_parts.h"
#include "kernels/cuda/linear_tail.h"
#include "kernels/cuda/low_rank.h"
#include "kernels/elementwise.h"
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

}  // namespace

std::vector<LowRankRows> ready_parts(const Tensor& x, const LinearArgs& args) {
  std::vector<LowRankRows> parts = linear_parts(args, x.dim(0));
  for (LowRankRows& part : parts) {
    LowRank& low = part.low_rank;
    if (!low.a) continue;
    check_same_device("linear", x, low.a, low.b, low.down);
    const Tensor rows = x.slice(0, part.first, part.first + part.rows);
    low.a = low.a.to(x.dtype()).contiguous(), low.b = low.b.to(x.dtype()).contiguous();
    if (!low.down) low.down = Tensor::empty({part.rows, low.a.dim(0)}, x.dtype(), x.device());
    if (!low_rank_down(rows, low.a, low.down)) matmul(rows, false, low.a, true, low.down);
  }
  return parts;
}

void linear_library(const Tensor& x, const Tensor& w, const Tensor& y, LinearArgs args) {
  if (args.gate.values) {
    const RowGate gate = std::exchange(args.gate, {});
    Tensor residual = std::exchange(args.residual, {});
    if (residual.raw() == y.raw()) residual = residual.clone();
    linear_library(x, w, y, args);
    each_gate(gate, x.dim(0), [&](int64_t begin, int64_t end, const Tensor& gates) {
      const Tensor rows = y.slice(0, begin, end);
      gate_residual(residual.slice(0, begin, end), gates, rows, rows);
    });
    return;
  }
  const Tensor input = x.to(w.dtype());
  const GemmArgs g = base_product(input, w, y);
  if (try_epilogue(g, args)) return;
  if (args.residual && args.residual.raw() == y.raw()) args.residual = args.residual.clone();
  if (g.k == 0) {
    y.fill(0);
  } else {
    gemm(g);
  }
  if (const LowRank* low = args.low_rank) {
    if (linear_tail_low_rank(y, args)) return;
    matmul(low->down, false, low->b, true, y, low->scale, 1.0);
  }
  linear_tail(y, args);
}

void linear(const Tensor& x, const Tensor& w, const Tensor& y, const LinearArgs& args) {
  check_linear(x, w, y, args);
  check_same_device("linear", x, w, y, args.bias, args.pre_activation, args.residual,
                    args.gate.values);
  const DType dtype = x.dtype();
  visit_dtype_gpu(dtype, "linear", [](auto) {});
  LinearArgs ready = args;
  if (args.bias) ready.bias = args.bias.to(dtype).contiguous();
  const std::vector<LowRankRows> parts = ready_parts(x, args);
  if (y.numel() == 0) return;
  ready.low_rank = nullptr;
  run_linear_parts({x, w, y, false, ready}, parts, [](HopperProduct p, const LowRank* low) {
    p.args.low_rank = low;
    linear_library(p.x, p.w, p.y, p.args);
  });
}

void linear_backward(const Tensor& dy, const Tensor& w, const Tensor& dx,
                     std::span<const LowRankRows> terms) {
  check_linear_backward(dy, w, dx, terms);
  check_same_device("linear_backward", dy, w, dx);
  visit_dtype_gpu(dy.dtype(), "linear_backward", [](auto) {});
  LinearArgs args;
  args.low_rank_rows = terms;
  std::vector<LowRankRows> parts = linear_parts(args, dy.dim(0));
  for (LowRankRows& part : parts) {
    LowRank& low = part.low_rank;
    if (!low.a) continue;
    check_same_device("linear_backward", dy, low.a, low.down);
    low.b = low.a = low.a.to(dy.dtype()).contiguous();  // what `down` is multiplied by
  }
  if (dx.numel() == 0) return;
  run_linear_parts({dy, w.to(dy.dtype()), dx, true, {}}, parts,
                   [](const HopperProduct& p, const LowRank* low) {
                     matmul(p.x, false, p.w, false, p.y);
                     if (low) matmul(low->down, false, low->b, false, p.y, low->scale, 1.0);
                   });
}

}  // namespace parlo::cuda
