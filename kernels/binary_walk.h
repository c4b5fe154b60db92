// How out = a (op) b walks its strided operands. Both backends.
#pragma once

#include "kernels/checks.h"

namespace parlo {

struct BinaryWalk {
  Shape shape, a, b;  // strides in elements; out is contiguous
};

inline void check_binary(const Tensor& a, const Tensor& b, const Tensor& out) {
  check_output("binary", "out", out, out.dtype(), out.numel());
  check_shape("binary", "a", a, out.shape());
  check_shape("binary", "b", b, out.shape());
  CHECK(a.dtype() == out.dtype() && b.dtype() == out.dtype(),
        "binary: dtypes differ: ", dtype_name(a.dtype()), ", ", dtype_name(b.dtype()), " -> ",
        dtype_name(out.dtype()));
}

// Drops axes of size 1 and merges neighbours that both operands step through evenly.
inline BinaryWalk simplify_binary(const Shape& shape, const Shape& a, const Shape& b) {
  BinaryWalk w;
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] == 1) continue;
    const int last = w.shape.rank() - 1;
    if (last >= 0 && w.a[last] == shape[i] * a[i] && w.b[last] == shape[i] * b[i]) {
      w.shape[last] *= shape[i];
      w.a[last] = a[i];
      w.b[last] = b[i];
    } else {
      w.shape.push_back(shape[i]);
      w.a.push_back(a[i]);
      w.b.push_back(b[i]);
    }
  }
  if (w.shape.rank() == 0) w = {{1}, {0}, {0}};
  return w;
}

}  // namespace parlo
