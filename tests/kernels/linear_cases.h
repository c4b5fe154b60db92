// Cases of linear on the CPU and their reference, plain loops in f64.
#pragma once

#include "tests/plain_activation.h"
#include "tests/support.h"

namespace parlo::test {

struct HostLinearCase {
  Tensor x, w, bias, residual, a, b;
  Activation activation = Activation::none;
  double scale = 1;
};

struct HostLinearResult {
  Tensor y, pre, down;
};

inline double at(const Tensor& t, int64_t i, int64_t j) {
  return t.data<double>()[i * t.dim(1) + j];
}

inline Tensor times_transposed(const Tensor& x, const Tensor& w) {
  const Tensor out = Tensor::zeros({x.dim(0), w.dim(0)}, DType::f64);
  for (int64_t i = 0; i < x.dim(0); ++i) {
    for (int64_t j = 0; j < w.dim(0); ++j) {
      double sum = 0;
      for (int64_t k = 0; k < x.dim(1); ++k) sum += at(x, i, k) * at(w, j, k);
      out.data<double>()[i * w.dim(0) + j] = sum;
    }
  }
  return out;
}

inline HostLinearResult reference(const HostLinearCase& c) {
  const Tensor x = c.x.to(DType::f64);
  const Tensor y = times_transposed(x, c.w.to(DType::f64));
  HostLinearResult r{y, Tensor(), Tensor()};
  if (c.a) {
    r.down = times_transposed(x, c.a.to(DType::f64));
    const Tensor up = times_transposed(r.down, c.b.to(DType::f64));
    for (int64_t i = 0; i < y.numel(); ++i) y.data<double>()[i] += c.scale * up.data<double>()[i];
  }
  r.pre = Tensor::empty_like(y);
  for (int64_t i = 0; i < y.numel(); ++i) {
    double& v = y.data<double>()[i];
    if (c.bias) v += c.bias.to_vector()[i % y.dim(1)];
    r.pre.data<double>()[i] = v;
    v = plain_activation(c.activation, v);
    if (c.residual) v += c.residual.to(DType::f64).data<double>()[i];
  }
  return r;
}

inline HostLinearResult run_linear(const HostLinearCase& c) {
  HostLinearResult r;
  r.y = Tensor::full({c.x.dim(0), c.w.dim(0)}, std::nan(""), c.x.dtype());
  r.pre = Tensor::full(r.y.shape(), std::nan(""), c.x.dtype());
  LinearArgs args;
  LowRank low{c.a, c.b, c.scale, Tensor()};
  if (c.a) {
    low.down = r.down = Tensor::full({c.x.dim(0), c.a.dim(0)}, std::nan(""), c.x.dtype());
    args.low_rank = &low;
  }
  args.bias = c.bias, args.residual = c.residual, args.pre_activation = r.pre;
  args.activation = c.activation;
  cpu::linear(c.x, c.w, r.y, args);
  return r;
}

inline HostLinearCase linear_case(int64_t rows, int64_t n, int64_t k, int64_t rank, DType dtype,
                                  DType weight) {
  HostLinearCase c;
  c.x = random_tensor({rows, k}, 1, dtype);
  c.w = random_tensor({n, k}, 2, dtype, 0.2).to(weight);
  c.bias = random_tensor({n}, 3, dtype);
  c.residual = random_tensor({rows, n}, 4, dtype);
  if (rank > 0) {
    c.a = random_tensor({rank, k}, 5, dtype, 0.2);
    c.b = random_tensor({n, rank}, 6, dtype, 0.2);
    c.scale = 1.5;
  }
  return c;
}

inline void compare(const HostLinearCase& c, double limit) {
  const HostLinearResult got = run_linear(c), want = reference(c);
  check_close(got.y.to(DType::f64), want.y, limit);
  check_close(got.pre.to(DType::f64), want.pre, limit);
  if (c.a) check_close(got.down.to(DType::f64), want.down, limit);
}

}  // namespace parlo::test
