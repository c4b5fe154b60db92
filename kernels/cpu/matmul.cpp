// Batched matmul: checks, broadcast of the leading axes, one gemm a batch entry.
#include "kernels/matmul.h"

#include <algorithm>

#include "kernels/cpu/gemm.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

void check_operand(const char* name, const Tensor& t, const Tensor& c) {
  CHECK(t.defined(), "matmul: ", name, " is undefined");
  CHECK(t.rank() >= 2, "matmul: ", name, " has shape ", t.shape(), ", expected at least 2 axes");
  CHECK(t.dtype() == c.dtype(), "matmul: ", name, " is ", dtype_name(t.dtype()), ", c is ",
        dtype_name(c.dtype()), "; convert with Tensor::to");
  CHECK(t.dim(-1) <= 1 || t.strides()[-1] == 1, "matmul: the last axis of ", name, " with shape ",
        t.shape(), " has stride ", t.strides()[-1], ", expected 1; call contiguous()");
  CHECK(t.rank() <= c.rank(), "matmul: ", name, " has shape ", t.shape(),
        ", c has fewer axes: ", c.shape());
  for (int i = 3; i <= t.rank(); ++i) {
    CHECK(t.dim(-i) == 1 || t.dim(-i) == c.dim(-i), "matmul: leading axes of ", name,
          " with shape ", t.shape(), " do not broadcast to c with shape ", c.shape());
  }
}

void check_sizes(const Tensor& a, bool trans_a, const Tensor& b, bool trans_b, const Tensor& c) {
  const int64_t m = a.dim(trans_a ? -1 : -2), k = a.dim(trans_a ? -2 : -1);
  const int64_t n = b.dim(trans_b ? -2 : -1), k_of_b = b.dim(trans_b ? -1 : -2);
  CHECK(k == k_of_b, "matmul: a has shape ", a.shape(), trans_a ? " (transposed)" : "",
        ", b has shape ", b.shape(), trans_b ? " (transposed)" : "", ": inner sizes ", k, " and ",
        k_of_b, " differ");
  CHECK(c.dim(-2) == m && c.dim(-1) == n, "matmul: c has shape ", c.shape(), ", expected (..., ", m,
        ", ", n, ")");
}

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

int64_t batch_count(const Tensor& t) {
  int64_t count = 1;
  for (int i = 3; i <= t.rank(); ++i) count *= t.dim(-i);
  return count;
}

// Do all rows of t, over all leading axes, lie at one distance from each other?
bool rows_are_uniform(const Tensor& t, int64_t* distance) {
  *distance = t.dim(-2) > 1 ? t.strides()[-2] : 0;
  int64_t rows = t.dim(-2);
  for (int i = 3; i <= t.rank(); ++i) {
    if (t.dim(-i) == 1) continue;
    if (rows == 1) *distance = t.strides()[-i];
    if (t.strides()[-i] != rows * *distance) return false;
    rows *= t.dim(-i);
  }
  return true;
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
  const int64_t batches = batch_count(c);
  int64_t a_distance = 0, c_distance = 0;
  if (batches > 1 && !trans_a && batch_count(b) == 1 && batch_count(a) == batches &&
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
  CHECK(c.defined(), "matmul: c is undefined");
  check_operand("c", c, c);
  check_operand("a", a, c);
  check_operand("b", b, c);
  check_sizes(a, trans_a, b, trans_b, c);
  if (c.numel() == 0) return;
  visit_float(c.dtype(), "matmul", [&](auto zero) {
    using T = decltype(zero);
    run<T>(a, trans_a, b, trans_b, c, static_cast<T>(alpha), static_cast<T>(beta));
  });
}

}  // namespace parlo::cpu
