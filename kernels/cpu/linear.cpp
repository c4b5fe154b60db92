// linear: y = activation(x w' + bias + scale (x a') b') * gate + residual.
#include <cmath>
#include <type_traits>

#include "kernels/cpu/gemm.h"
#include "kernels/elementwise.h"
#include "kernels/linear_rows.h"
#include "kernels/matmul_checks.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

template <class T>
T activate(Activation f, T x) {
  switch (f) {
    case Activation::none:
      return x;
    case Activation::gelu_tanh:
      return T(0.5) * x * (T(1) + std::tanh(T(0.7978845608028654) * (x + T(0.044715) * x * x * x)));
    case Activation::gelu_erf:
      return T(0.5) * x * (T(1) + std::erf(x * T(0.7071067811865476)));
    case Activation::quick_gelu:
      return x / (T(1) + std::exp(T(-1.702) * x));
    case Activation::silu:
      return x / (T(1) + std::exp(-x));
  }
  return x;
}

template <class T>
void epilogue(const Tensor& y, const LinearArgs& args) {
  const int64_t rows = y.dim(0), n = y.dim(1);
  T* out = y.data<T>();
  const T* bias = args.bias ? args.bias.data<T>() : nullptr;
  T* pre = args.pre_activation ? args.pre_activation.data<T>() : nullptr;
  const T* residual = args.residual ? args.residual.data<T>() : nullptr;
  parallel_for(rows, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, n)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t at = begin * n; at < end * n; ++at) {
                   T v = out[at];
                   if (bias) v += bias[at % n];
                   if (pre) pre[at] = v;
                   v = activate(args.activation, v);
                   out[at] = residual ? v + residual[at] : v;
                 }
               });
}

void linear_plain(const Tensor& x, const Tensor& w, const Tensor& y, const LinearArgs& args) {
  matmul(x, false, w, true, y);
  if (args.low_rank) {
    matmul(x, false, args.low_rank->a, true, args.low_rank->down);
    matmul(args.low_rank->down, false, args.low_rank->b, true, y, args.low_rank->scale, 1.0);
  }
  epilogue<double>(y, args);
}

void linear_f32(const Tensor& x, const Tensor& w, const Tensor& y, const LinearArgs& args) {
  const int64_t k = x.dim(1);
  Gemm<float> g;
  g.m = x.dim(0), g.n = w.dim(0), g.k = k;
  g.a = x.data<float>(), g.a_row = k;
  g.b_row = 1, g.b_col = k;
  g.c = y.data<float>(), g.c_row = g.n;
  GemmEpilogue e;
  if (const LowRank* low = args.low_rank) {
    e.down = low->down.data<float>(), e.low_a = low->a.data<float>();
    e.up = low->b.data<float>(), e.rank = low->b.dim(1);
    e.scale = static_cast<float>(low->scale);
  }
  if (args.bias) e.bias = args.bias.data<float>();
  if (args.pre_activation) e.pre_activation = args.pre_activation.data<float>();
  if (args.residual) e.residual = args.residual.data<float>();
  e.activation = args.activation;
  if (w.dtype() == DType::bf16) return gemm_bf16(g, w.data<bf16_t>(), &e);
  g.b = w.data<float>();
  gemm(g, &e);
}

// A batch of one adapter or none.
void linear_part(const Tensor& x, const Tensor& w, const Tensor& y, LinearArgs args, LowRank low) {
  const DType dtype = x.dtype();
  if (low.a) {
    low.a = low.a.to(dtype).contiguous(), low.b = low.b.to(dtype).contiguous();
    if (!low.down) low.down = Tensor::empty({x.dim(0), low.a.dim(0)}, dtype);
    args.low_rank = &low;
  }
  const Tensor residual = args.residual;
  if (args.gate.values) args.residual = Tensor();
  visit_float(dtype, "linear", [&](auto zero) {
    if constexpr (std::is_same_v<decltype(zero), float>) {
      linear_f32(x, w, y, args);
    } else {
      linear_plain(x, w, y, args);
    }
  });
  if (!args.gate.values) return;
  each_gate(args.gate, x.dim(0), [&](int64_t begin, int64_t end, const Tensor& gates) {
    const Tensor rows = y.slice(0, begin, end);
    gate_residual(residual.slice(0, begin, end), gates, rows, rows);
  });
}

}  // namespace

void linear(const Tensor& x, const Tensor& w, const Tensor& y, const LinearArgs& args) {
  check_linear(x, w, y, args);
  LinearArgs ready = args;
  if (args.bias) ready.bias = args.bias.to(x.dtype()).contiguous();
  if (args.residual && args.residual.raw() == y.raw()) ready.residual = args.residual.clone();
  for (const LowRankRows& part : linear_parts(args, x.dim(0))) {
    const int64_t begin = part.first, end = begin + part.rows;
    if (w.dim(0) == 0 && !part.low_rank.a) continue;
    linear_part(x.slice(0, begin, end), w, y.slice(0, begin, end),
                linear_args_of(ready, begin, end), part.low_rank);
  }
}

void linear_backward(const Tensor& dy, const Tensor& w, const Tensor& dx,
                     std::span<const LowRankRows> terms) {
  check_linear_backward(dy, w, dx, terms);
  matmul(dy, false, w.to(dy.dtype()), false, dx);
  for (const LowRankRows& s : terms) {
    const LowRank& low = s.low_rank;
    matmul(low.down, false, low.a.to(dy.dtype()), false, dx.slice(0, s.first, s.first + s.rows),
           low.scale, 1.0);
  }
}

}  // namespace parlo::cpu
