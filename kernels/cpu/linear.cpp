// linear: y = activation(x w' + bias + scale (x a') b') + residual.
#include <cmath>
#include <type_traits>

#include "kernels/cpu/gemm.h"
#include "kernels/matmul.h"
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

void check_contiguous(const char* name, const Tensor& t, const Shape& shape, DType dtype) {
  check_shape("linear", name, t, shape);
  CHECK(t.is_contiguous(), "linear: ", name, " is not contiguous, call contiguous() first");
  CHECK(t.dtype() == dtype, "linear: ", name, " is ", dtype_name(t.dtype()), ", expected ",
        dtype_name(dtype), "; convert with Tensor::to");
}

void check_args(const Tensor& x, const Tensor& w, const Tensor& y, const LinearArgs& args) {
  CHECK(x.defined() && w.defined() && y.defined(), "linear: x, w or y is undefined");
  CHECK(x.rank() == 2 && w.rank() == 2, "linear: x has shape ", x.shape(), " and w ", w.shape(),
        ", expected (rows, K) and (N, K)");
  const int64_t rows = x.dim(0), k = x.dim(1), n = w.dim(0);
  const DType dtype = x.dtype();
  check_contiguous("x", x, {rows, k}, dtype);
  const bool widened = dtype == DType::f32 && w.dtype() == DType::bf16;
  check_contiguous("w", w, {n, k}, widened ? DType::bf16 : dtype);
  check_contiguous("y", y, {rows, n}, dtype);
  if (args.bias) check_shape("linear", "bias", args.bias, {n});
  if (args.pre_activation)
    check_contiguous("pre_activation", args.pre_activation, {rows, n}, dtype);
  if (args.residual) check_contiguous("residual", args.residual, {rows, n}, dtype);
  if (!args.low_rank) return;
  const LowRank& low = *args.low_rank;
  CHECK(low.a.defined() && low.b.defined(), "linear: low rank a or b is undefined");
  CHECK(low.a.rank() == 2, "linear: low rank a has shape ", low.a.shape(), ", expected (r, K)");
  const int64_t r = low.a.dim(0);
  check_shape("linear", "low rank a", low.a, {r, k});
  check_shape("linear", "low rank b", low.b, {n, r});
  if (low.down) check_contiguous("low rank down", low.down, {rows, r}, dtype);
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

}  // namespace

void linear(const Tensor& x, const Tensor& w, const Tensor& y, const LinearArgs& args) {
  check_args(x, w, y, args);
  if (y.numel() == 0 && !args.low_rank) return;
  const DType dtype = x.dtype();
  LinearArgs ready = args;
  if (args.bias) ready.bias = args.bias.to(dtype).contiguous();
  if (args.residual && args.residual.raw() == y.raw()) ready.residual = args.residual.clone();
  LowRank low;
  if (args.low_rank) {
    low = *args.low_rank;
    low.a = low.a.to(dtype).contiguous(), low.b = low.b.to(dtype).contiguous();
    if (!low.down) low.down = Tensor::empty({x.dim(0), low.a.dim(0)}, dtype);
    ready.low_rank = &low;
  }
  visit_float(dtype, "linear", [&](auto zero) {
    if constexpr (std::is_same_v<decltype(zero), float>) {
      linear_f32(x, w, y, ready);
    } else {
      linear_plain(x, w, y, ready);
    }
  });
}

}  // namespace parlo::cpu
