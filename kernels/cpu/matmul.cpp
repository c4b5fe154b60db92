// Batched matmul: broadcast of the leading axes, one gemm a batch entry.
#include "kernels/matmul.h"

#include <algorithm>

#include "kernels/cpu/gemm.h"
#include "kernels/matmul_checks.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

// Offset of batch entry `index` of c's leading axes within t.
int64_t batch_offset(const Tensor& t, const Tensor& c, int64_t index) {
  int64_t offset = 0;
  for (int i = 3; i <= c.rank(); ++i) {
    const int64_t at = index % c.dim(-i);
    index /= c.dim(-i);
    if (i <= t.rank() && t.dim(-i) != 1) offset += at * t.strides()[-i];
  }
  return offset;
}

template <class T>
void run(const Tensor& a, bool trans_a, const Tensor& b, bool trans_b, const Tensor& c, T alpha,
         T beta) {
  Gemm<T> g;
  g.m = c.dim(-2), g.n = c.dim(-1), g.k = a.dim(trans_a ? -2 : -1);
  g.a = a.data<T>(), g.b = b.data<T>(), g.c = c.data<T>();
  g.a_row = a.strides()[-2], g.b_row = b.strides()[-2], g.c_row = c.strides()[-2];
  // The stride along an axis of size 1 says nothing.
  if (a.dim(-2) <= 1) g.a_row = std::max<int64_t>(1, a.dim(-1));
  if (b.dim(-2) <= 1) g.b_row = std::max<int64_t>(1, b.dim(-1));
  if (trans_a) std::swap(g.a_row, g.a_col);
  if (trans_b) std::swap(g.b_row, g.b_col);
  g.alpha = alpha, g.beta = beta;
  const int64_t batches = matmul_batches(c);
  int64_t a_distance = 0, c_distance = 0;
  if (batches > 1 && !trans_a && matmul_batches(b) == 1 && matmul_batches(a) == batches &&
      rows_are_uniform(a, &a_distance) && rows_are_uniform(c, &c_distance)) {
    g.m *= batches, g.a_row = a_distance, g.c_row = c_distance;
    return gemm(g);
  }
  if (batches == 1) return gemm(g);
  const int64_t flops = 2 * g.m * g.n * std::max<int64_t>(1, g.k);
  parallel_for(batches, std::max<int64_t>(1, 4000000 / flops), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Gemm<T> one = g;
      one.a += batch_offset(a, c, i);
      one.b += batch_offset(b, c, i);
      one.c += batch_offset(c, c, i);
      gemm(one);
    }
  });
}

}  // namespace

void matmul(const Tensor& a, bool trans_a, const Tensor& b, bool trans_b, const Tensor& c,
            double alpha, double beta) {
  check_matmul(a, trans_a, b, trans_b, c);
  if (c.numel() == 0) return;
  visit_float(c.dtype(), "matmul", [&](auto zero) {
    using T = decltype(zero);
    run<T>(a, trans_a, b, trans_b, c, static_cast<T>(alpha), static_cast<T>(beta));
  });
}

}  // namespace parlo::cpu
