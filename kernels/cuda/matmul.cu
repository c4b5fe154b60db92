// Batched matmul on a GPU: one product of blas.h for every run of batch entries at one distance;
// sums over many rows into few columns (gradients of low-rank factors) by low_rank.h.
// With trans_a the rows of op(a) are columns in memory, sizes of weights: there K may be cut into
// parts, and the order of a sum depends on all sizes. Otherwise it depends on N and K only.
#include "kernels/matmul.h"

#include "kernels/cuda/common.cuh"

#include <algorithm>
#include <vector>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/low_rank.h"
#include "kernels/elementwise.h"
#include "kernels/matmul_checks.h"

namespace parlo::cuda {
namespace {

// From row to row; the stride along an axis of size 1 says nothing.
int64_t row_distance(const Tensor& t) {
  return t.dim(-2) <= 1 ? std::max<int64_t>(1, t.dim(-1)) : t.strides()[-2];
}

// Rows that overlap (an expanded axis) are copied: the library asks for a distance of a row or
// more.
Tensor with_apart_rows(const Tensor& t) {
  return row_distance(t) < t.dim(-1) ? t.contiguous() : t;
}

// c = beta c: what is left of a product over nothing.
void scale(const Tensor& c, double beta) {
  if (beta == 0) return c.fill(0);
  const Tensor scaled = Tensor::empty(c.shape(), c.dtype(), c.device());
  scale_shift(beta, 0, c.contiguous(), scaled);
  c.copy_from(scaled);
}

// Leading axes that step through the operands together.
struct Axis {
  int64_t size, a, b, c;
};

std::vector<Axis> leading_axes(const Tensor& a, const Tensor& b, const Tensor& c) {
  std::vector<Axis> axes;
  for (int i = 3; i <= c.rank(); ++i) {
    const auto step = [i](const Tensor& t) {
      return i <= t.rank() && t.dim(-i) != 1 ? t.strides()[-i] : 0;
    };
    const Axis next{c.dim(-i), step(a), step(b), step(c)};
    if (next.size == 1) continue;
    if (!axes.empty()) {
      Axis& last = axes.back();
      if (last.size * last.a == next.a && last.size * last.b == next.b &&
          last.size * last.c == next.c) {
        last.size *= next.size;
        continue;
      }
    }
    axes.push_back(next);
  }
  return axes;
}

// The longest axis goes to the library as its batch, the others are loops here.
void run(GemmArgs g, std::vector<Axis> axes) {
  if (!axes.empty()) {
    const auto longest = std::max_element(
        axes.begin(), axes.end(), [](const Axis& x, const Axis& y) { return x.size < y.size; });
    g.batch = longest->size;
    g.a_step = longest->a, g.b_step = longest->b, g.c_step = longest->c;
    axes.erase(longest);
  }
  int64_t count = 1;
  for (const Axis& axis : axes) count *= axis.size;
  const auto in_size = static_cast<int64_t>(dtype_size(g.in));
  const auto out_size = static_cast<int64_t>(dtype_size(g.out));
  for (int64_t i = 0; i < count; ++i) {
    GemmArgs one = g;
    int64_t rest = i, a = 0, b = 0, c = 0;
    for (const Axis& axis : axes) {
      const int64_t at = rest % axis.size;
      rest /= axis.size;
      a += at * axis.a, b += at * axis.b, c += at * axis.c;
    }
    one.a = static_cast<const char*>(g.a) + a * in_size;
    one.b = static_cast<const char*>(g.b) + b * in_size;
    one.c = static_cast<char*>(g.c) + c * out_size;
    gemm(one);
  }
}

void multiply(const Tensor& a, bool trans_a, const Tensor& b, bool trans_b, const Tensor& c,
              double alpha, double beta) {
  GemmArgs g;
  g.device = c.device();
  g.in = a.dtype(), g.out = c.dtype();
  g.m = c.dim(-2), g.n = c.dim(-1), g.k = a.dim(trans_a ? -2 : -1);
  g.a = a.raw(), g.b = b.raw(), g.c = c.raw();
  g.trans_a = trans_a, g.trans_b = trans_b;
  g.a_row = row_distance(a), g.b_row = row_distance(b), g.c_row = row_distance(c);
  g.alpha = static_cast<float>(alpha), g.beta = static_cast<float>(beta);
  const int64_t batches = matmul_batches(c);
  g.split_k = trans_a && batches == 1;
  if (g.split_k && !trans_b && a.rank() == 2 && b.rank() == 2 && c.rank() == 2 &&
      low_rank_gradient(a, b, c, g.alpha, g.beta)) {
    return;
  }
  int64_t a_distance = 0, c_distance = 0;
  if (batches > 1 && !trans_a && matmul_batches(b) == 1 && matmul_batches(a) == batches &&
      rows_are_uniform(a, &a_distance) && rows_are_uniform(c, &c_distance) &&
      a_distance >= a.dim(-1)) {
    g.m *= batches, g.a_row = a_distance, g.c_row = c_distance;
    return gemm(g);
  }
  run(g, leading_axes(a, b, c));
}

}  // namespace

void matmul(const Tensor& a, bool trans_a, const Tensor& b, bool trans_b, const Tensor& c,
            double alpha, double beta) {
  check_matmul(a, trans_a, b, trans_b, c);
  check_same_device("matmul", c, a, b);
  visit_dtype_gpu(c.dtype(), "matmul", [](auto) {});
  if (c.numel() == 0) return;
  if (a.dim(trans_a ? -2 : -1) == 0) return scale(c, beta);
  multiply(with_apart_rows(a), trans_a, with_apart_rows(b), trans_b, c, alpha, beta);
}

}  // namespace parlo::cuda
