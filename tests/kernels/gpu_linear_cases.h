// Cases of linear on a GPU and their reference, the CPU in f64.
#pragma once

#include <vector>

#include "kernels/cuda/linear_path.h"
#include "kernels/matmul.h"
#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {

constexpr Activation kActivations[] = {Activation::none, Activation::gelu_tanh,
                                       Activation::gelu_erf, Activation::quick_gelu,
                                       Activation::silu};

struct LinearCase {
  Tensor x, w, bias, residual, a, b;
  std::vector<LowRankRows> rows;  // in place of a and b
  RowGate gate;
  Activation activation = Activation::none;
  double scale = 1;
  bool keep = true;  // pre-activation
};

struct LinearResult {
  Tensor y, pre;
  std::vector<Tensor> down;
};

// Outputs that a kernel has not written.
inline Tensor nans_for(const LinearCase& c, int64_t rows, int64_t columns) {
  return Tensor::full({rows, columns}, std::nan(""), c.x.dtype(), c.x.device());
}

// A case's low-rank terms with room for what they keep.
struct CaseTerms {
  LowRank low;
  std::vector<LowRankRows> rows;
  std::vector<Tensor> down;

  explicit CaseTerms(const LinearCase& c) : low{c.a, c.b, c.scale, Tensor()}, rows(c.rows) {
    if (c.a) down.push_back(low.down = nans_for(c, c.x.dim(0), c.a.dim(0)));
    for (LowRankRows& s : rows) {
      down.push_back(s.low_rank.down = nans_for(c, s.rows, s.low_rank.a.dim(0)));
    }
  }
  template <class Args>
  void join(Args& args) const {
    if (low.a) args.low_rank = &low;
    args.low_rank_rows = rows;
  }
};

template <class Linear>
LinearResult run_linear(Linear&& linear, const LinearCase& c) {
  LinearResult r;
  r.y = nans_for(c, c.x.dim(0), c.w.dim(0));
  LinearArgs args;
  const CaseTerms terms(c);
  terms.join(args);
  r.down = terms.down;
  if (c.keep) args.pre_activation = r.pre = r.y.clone();
  args.bias = c.bias, args.residual = c.residual, args.gate = c.gate;
  args.activation = c.activation;
  linear(c.x, c.w, r.y, args);
  return r;
}

// On the CPU in f64.
inline LinearCase reference(const LinearCase& c) {
  LinearCase r = c;
  for (Tensor* t : {&r.x, &r.w, &r.bias, &r.residual, &r.a, &r.b, &r.gate.values}) {
    if (*t) *t = t->to(Device{}).to(DType::f64);
  }
  for (LowRankRows& s : r.rows) {
    for (Tensor* t : {&s.low_rank.a, &s.low_rank.b}) *t = t->to(Device{}).to(DType::f64);
  }
  return r;
}

// By each path that there is for the dtype.
inline void compare(const LinearCase& c, double limit) {
  using Path = cuda::LinearPath;
  const LinearResult want = run_linear(cpu::linear, reference(c));
  for (const Path path : {Path::automatic, Path::hopper, Path::library}) {
    if (path != Path::automatic && c.x.dtype() != DType::bf16) continue;
    INFO("path ", static_cast<int>(path));
    const cuda::UseLinearPath use(path);
    const LinearResult got = run_linear(cuda::linear, c);
    check_close(got.y, want.y, limit);
    if (c.keep) check_close(got.pre, want.pre, limit);
    for (size_t i = 0; i < want.down.size(); ++i) check_close(got.down[i], want.down[i], limit);
  }
}

inline LinearCase linear_case(int64_t rows, int64_t n, int64_t k, int64_t rank, DType dtype,
                              DType weight) {
  const auto random = [&](const Shape& shape, uint32_t seed, double scale = 1) {
    return on_gpu(random_tensor(shape, seed, dtype, scale));
  };
  LinearCase c;
  c.x = random({rows, k}, 1);
  c.w = random({n, k}, 2, 0.2).to(weight);
  c.bias = random({n}, 3);
  c.residual = random({rows, n}, 4);
  if (rank > 0) {
    c.a = random({rank, k}, 5, 0.2), c.b = random({n, rank}, 6, 0.2);
    c.scale = 1.5;
  }
  return c;
}

// An adapter for rows [first, first + rows) of a case.
inline LowRankRows adapter_rows(const LinearCase& c, int64_t first, int64_t rows, int64_t rank,
                                uint32_t seed, double scale) {
  const DType dtype = c.x.dtype();
  return {first,
          rows,
          {on_gpu(random_tensor({rank, c.x.dim(1)}, seed, dtype, 0.2)),
           on_gpu(random_tensor({c.w.dim(0), rank}, seed + 1, dtype, 0.2)), scale, Tensor()}};
}

}  // namespace parlo::test
