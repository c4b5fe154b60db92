// Checks of the operands of rope that both backends make.
#pragma once

#include "kernels/checks.h"

namespace parlo {

inline void check_heads(std::string_view name, const Tensor& t) {
  CHECK(t.defined() && t.rank() == 4 && t.dim(3) % 2 == 0 && (t.strides()[3] == 1 || !t.numel()),
        "rope: ", name, " has shape ", t.defined() ? to_string(t.shape()) : "(nothing)",
        ", expected [B, T, H, D] with even D and unit stride");
}

// Angles have the dtype given.
inline void check_rope(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& y,
                       DType angles) {
  check_heads("x", x);
  check_heads("y", y);
  check_shape("rope", "y", y, x.shape());
  CHECK(x.dtype() == y.dtype() && !y.read_only(), "rope: y needs dtype ", dtype_name(x.dtype()),
        " and writable memory");
  const int64_t count = x.dim(1) * (x.dim(3) / 2);
  check_operand("rope", "cos", cos, angles, count);
  check_operand("rope", "sin", sin, angles, count);
}

}  // namespace parlo
