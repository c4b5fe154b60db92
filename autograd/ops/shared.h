// Small helpers of the ops: views of [..., C] tensors as the [R, C] the kernels take.
#pragma once

#include "tensor/tensor.h"

namespace parlo {

// What means, log-sums and losses of a tensor are kept in: f32 for all shorter types.
inline DType statistics_of(const Tensor& t) {
  return t.dtype() == DType::f64 ? DType::f64 : DType::f32;
}

// [..., C] as contiguous [R, C].
inline Tensor as_rows(const Tensor& x) {
  CHECK(x.rank() >= 1, "expected a tensor [..., C], got a scalar");
  const int64_t columns = x.dim(-1);
  int64_t rows = 1;
  for (int i = 0; i + 1 < x.rank(); ++i) rows *= x.dim(i);
  return x.reshape({rows, columns});
}

// Itself when the last axis has stride 1 (rows may be strided), else a contiguous copy.
inline Tensor unit_last_stride(const Tensor& x) {
  if (x.rank() == 0) return x;
  return x.strides()[-1] == 1 || x.dim(-1) == 1 ? x : x.contiguous();
}

}  // namespace parlo
