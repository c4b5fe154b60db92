// RMS norm of a sum that is kept: both passes over a block of rows while it is in the cache.
#include <algorithm>
#include <vector>

#include "kernels/add_rms_norm_checks.h"
#include "kernels/cpu/checks.h"
#include "kernels/cpu/norm_rows.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

// Rows first .. + rows of the operands of a block.
template <class T>
NormBlock<T> block_of(const Tensor& sum, const NormParams& p, const Tensor& rstd,
                      const NormShape& shape, int64_t first, int64_t rows) {
  NormBlock<T> b;
  b.x = sum.data<T>() + first * shape.columns;
  b.gain = data_or_null<T>(p.weight);
  b.rows = rows, b.columns = shape.columns, b.eps = p.eps;
  b.rstd = rstd.data<T>() + first;
  return b;
}

// body(first, rows, index) for blocks of rows.
template <class Body>
int64_t for_blocks(const NormShape& shape, Body&& body) {
  const int64_t rows = row_grain(shape.columns), blocks = ceil_div(shape.rows, rows);
  parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i * rows, std::min(rows, shape.rows - i * rows), i);
  });
  return blocks;
}

}  // namespace

void add_rms_norm(const Tensor& x, const Tensor& residual, const NormParams& p, const Tensor& sum,
                  const Tensor& y, const Tensor& rstd) {
  const NormShape shape = check_add_rms_norm(x, residual, p, sum, y, rstd);
  if (x.numel() == 0) return;
  visit_float(x.dtype(), "add_rms_norm", [&](auto type) {
    using T = decltype(type);
    for_blocks(shape, [&](int64_t first, int64_t rows, int64_t) {
      const int64_t at = first * shape.columns;
      const T *a = x.data<T>() + at, *b = residual.data<T>() + at;
      T* to = sum.data<T>() + at;
      for (int64_t i = 0; i < rows * shape.columns; ++i) to[i] = a[i] + b[i];
      NormBlock<T> block = block_of<T>(sum, p, rstd, shape, first, rows);
      block.y = y.data<T>() + at;
      norm_loops<T>().rms_norm(block);
    });
  });
}

void add_rms_norm_backward(const Tensor& sum, const NormParams& p, const Tensor& rstd,
                           const Tensor& dy, const Tensor& dsum, const Tensor& dx,
                           const Tensor& dweight) {
  const NormShape shape = check_add_rms_norm_backward(sum, p, rstd, dy, dsum, dx, dweight);
  if (dweight) dweight.fill(0);
  if (sum.numel() == 0) return;
  visit_float(sum.dtype(), "add_rms_norm_backward", [&](auto type) {
    using T = decltype(type);
    const int64_t C = shape.columns, count = ceil_div(shape.rows, row_grain(C));
    const Tensor partial = dweight ? Tensor::zeros({count, C}, sum.dtype()) : Tensor();
    for_blocks(shape, [&](int64_t first, int64_t rows, int64_t index) {
      NormBlock<T> block = block_of<T>(sum, p, rstd, shape, first, rows);
      block.dy = dy.data<T>() + first * C;
      block.dx = dx ? dx.data<T>() + first * C : nullptr;
      block.dy_xhat = partial ? partial.data<T>() + index * C : nullptr;
      norm_loops<T>().rms_norm_backward(block);
      if (!dx || !dsum) return;
      const T* d = dsum.data<T>() + first * C;
      for (int64_t i = 0; i < rows * C; ++i) block.dx[i] += d[i];
    });
    if (!dweight) return;
    std::vector<double> total(static_cast<size_t>(C));
    add_rows(partial.data<T>(), count, C, total.data());
    for (int64_t c = 0; c < C; ++c)
      dweight.data<T>()[c] = static_cast<T>(total[static_cast<size_t>(c)]);
  });
}

}  // namespace parlo::cpu
