// Checks of matmul's and linear's operands, the same on every device.
#pragma once

#include "kernels/matmul.h"

namespace parlo {

// On a GPU bf16 operands may have a product in f32.
inline bool widens(const Tensor& t, const Tensor& c) {
  return c.device().kind == Device::Kind::cuda && t.dtype() == DType::bf16 &&
         c.dtype() == DType::f32;
}

inline void check_matmul_operand(const char* name, const Tensor& t, const Tensor& c) {
  CHECK(t.defined(), "matmul: ", name, " is undefined");
  CHECK(t.rank() >= 2, "matmul: ", name, " has shape ", t.shape(), ", expected at least 2 axes");
  CHECK(t.dtype() == c.dtype() || widens(t, c), "matmul: ", name, " is ", dtype_name(t.dtype()),
        ", c is ", dtype_name(c.dtype()), "; convert with Tensor::to");
  CHECK(t.dim(-1) <= 1 || t.strides()[-1] == 1, "matmul: the last axis of ", name, " with shape ",
        t.shape(), " has stride ", t.strides()[-1], ", expected 1; call contiguous()");
  CHECK(t.rank() <= c.rank(), "matmul: ", name, " has shape ", t.shape(),
        ", c has fewer axes: ", c.shape());
  for (int i = 3; i <= t.rank(); ++i) {
    CHECK(t.dim(-i) == 1 || t.dim(-i) == c.dim(-i), "matmul: leading axes of ", name,
          " with shape ", t.shape(), " do not broadcast to c with shape ", c.shape());
  }
}

inline void check_matmul(const Tensor& a, bool trans_a, const Tensor& b, bool trans_b,
                         const Tensor& c) {
  CHECK(c.defined(), "matmul: c is undefined");
  check_matmul_operand("c", c, c);
  check_matmul_operand("a", a, c);
  check_matmul_operand("b", b, c);
  CHECK(a.dtype() == b.dtype(), "matmul: a is ", dtype_name(a.dtype()), ", b is ",
        dtype_name(b.dtype()), "; convert with Tensor::to");
  const int64_t m = a.dim(trans_a ? -1 : -2), k = a.dim(trans_a ? -2 : -1);
  const int64_t n = b.dim(trans_b ? -2 : -1), k_of_b = b.dim(trans_b ? -1 : -2);
  CHECK(k == k_of_b, "matmul: a has shape ", a.shape(), trans_a ? " (transposed)" : "",
        ", b has shape ", b.shape(), trans_b ? " (transposed)" : "", ": inner sizes ", k, " and ",
        k_of_b, " differ");
  CHECK(c.dim(-2) == m && c.dim(-1) == n, "matmul: c has shape ", c.shape(), ", expected (..., ", m,
        ", ", n, ")");
}

// Entries of the leading axes.
inline int64_t matmul_batches(const Tensor& t) {
  int64_t count = 1;
  for (int i = 3; i <= t.rank(); ++i) count *= t.dim(-i);
  return count;
}

// Do all rows of t, over all leading axes, lie at one distance from each other?
inline bool rows_are_uniform(const Tensor& t, int64_t* distance) {
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

inline void check_linear_operand(const char* name, const Tensor& t, const Shape& shape,
                                 DType dtype) {
  check_shape("linear", name, t, shape);
  CHECK(t.is_contiguous(), "linear: ", name, " is not contiguous, call contiguous() first");
  CHECK(t.dtype() == dtype, "linear: ", name, " is ", dtype_name(t.dtype()), ", expected ",
        dtype_name(dtype), "; convert with Tensor::to");
}

inline void check_low_rank(const LowRank& low, int64_t rows, int64_t n, int64_t k, DType dtype) {
  CHECK(low.a.defined() && low.b.defined(), "linear: low rank a or b is undefined");
  CHECK(low.a.rank() == 2, "linear: low rank a has shape ", low.a.shape(), ", expected (r, K)");
  const int64_t r = low.a.dim(0);
  check_shape("linear", "low rank a", low.a, {r, k});
  check_shape("linear", "low rank b", low.b, {n, r});
  if (low.down) check_linear_operand("low rank down", low.down, {rows, r}, dtype);
}

// Segments of rows: sorted, apart, inside the batch.
template <class Segments>
void check_row_segments(const Segments& segments, int64_t rows) {
  int64_t end = 0;
  for (const auto& s : segments) {
    CHECK(s.first >= end && s.rows >= 0 && s.first + s.rows <= rows, "linear: low rank rows [",
          s.first, ", ", s.first + s.rows, ") are not sorted, overlap, or leave the ", rows,
          " rows of x");
    end = s.first + s.rows;
  }
}

inline void check_row_gate(const RowGate& gate, int64_t rows, int64_t n, DType dtype) {
  const Tensor& g = gate.values;
  CHECK(g.rank() == 2 && g.dim(1) == n && (n <= 1 || g.strides()[1] == 1) && gate.rows > 0 &&
            gate.first >= 0 && gate.first + rows <= g.dim(0) * gate.rows,
        "linear: gate has shape ", g.shape(), ", expected [G, ", n, "] with adjacent columns for ",
        rows, " rows, ", gate.rows, " a gate");
  CHECK(g.dtype() == dtype, "linear: gate is ", dtype_name(g.dtype()), ", expected ",
        dtype_name(dtype), "; convert with Tensor::to");
}

// All but y.
inline void check_linear_inputs(const Tensor& x, const Tensor& w, const LinearArgs& args) {
  CHECK(x.defined() && w.defined(), "linear: x or w is undefined");
  CHECK(x.rank() == 2 && w.rank() == 2, "linear: x has shape ", x.shape(), " and w ", w.shape(),
        ", expected (rows, K) and (N, K)");
  const int64_t rows = x.dim(0), k = x.dim(1), n = w.dim(0);
  const DType dtype = x.dtype();
  check_linear_operand("x", x, {rows, k}, dtype);
  const bool widened = dtype == DType::f32 && w.dtype() == DType::bf16;
  check_linear_operand("w", w, {n, k}, widened ? DType::bf16 : dtype);
  if (args.bias) check_shape("linear", "bias", args.bias, {n});
  if (args.pre_activation)
    check_linear_operand("pre_activation", args.pre_activation, {rows, n}, dtype);
  if (args.residual) check_linear_operand("residual", args.residual, {rows, n}, dtype);
  if (args.gate.values) {
    CHECK(args.residual.defined(), "linear: a gate without a residual");
    check_row_gate(args.gate, rows, n, dtype);
  }
  CHECK(!args.low_rank || args.low_rank_rows.empty(),
        "linear: a low rank of all rows and of some; expected one of them");
  if (args.low_rank) check_low_rank(*args.low_rank, rows, n, k, dtype);
  check_row_segments(args.low_rank_rows, rows);
  for (const LowRankRows& s : args.low_rank_rows) check_low_rank(s.low_rank, s.rows, n, k, dtype);
}

inline void check_linear(const Tensor& x, const Tensor& w, const Tensor& y,
                         const LinearArgs& args) {
  check_linear_inputs(x, w, args);
  CHECK(y.defined(), "linear: y is undefined");
  check_linear_operand("y", y, {x.dim(0), w.dim(0)}, x.dtype());
}

inline void check_linear_backward(const Tensor& dy, const Tensor& w, const Tensor& dx,
                                  std::span<const LowRankRows> terms) {
  CHECK(dy.defined() && w.defined() && dx.defined(), "linear_backward: dy, w or dx is undefined");
  CHECK(dy.rank() == 2 && w.rank() == 2, "linear_backward: dy has shape ", dy.shape(), " and w ",
        w.shape(), ", expected (rows, N) and (N, K)");
  const int64_t rows = dy.dim(0), n = dy.dim(1), k = w.dim(1);
  check_linear_operand("dy", dy, {rows, n}, dy.dtype());
  check_linear_operand("w", w, {n, k}, w.dtype());
  check_linear_operand("dx", dx, {rows, k}, dy.dtype());
  check_row_segments(terms, rows);
  for (const LowRankRows& s : terms) {
    const LowRank& low = s.low_rank;
    CHECK(low.a.defined() && low.a.rank() == 2 && low.down.defined(),
          "linear_backward: a term lacks a (r, K) or down (rows, r)");
    check_shape("linear_backward", "low rank a", low.a, {low.a.dim(0), k});
    check_linear_operand("low rank down", low.down, {s.rows, low.a.dim(0)}, dy.dtype());
  }
}

}  // namespace parlo
