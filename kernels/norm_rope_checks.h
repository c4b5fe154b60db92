// Checks of norm_rope's operands, the same on every device.
#pragma once

#include "kernels/checks.h"
#include "kernels/norm_rope.h"

namespace parlo {

inline void check_head_rows(const char* function, const char* name, const Tensor& t,
                            const Tensor& x) {
  CHECK(t.defined() && t.rank() == 4 && t.shape() == x.shape() && t.dtype() == x.dtype() &&
            (t.numel() == 0 || t.strides()[3] == 1),
        function, ": ", name, " has shape ", t.defined() ? to_string(t.shape()) : "(nothing)",
        ", expected [B, T, H, D] as x, in its dtype, with unit stride");
}

// Angles have the dtype given.
inline void check_norm_rope(const char* function, const Tensor& x, const NormRope& p, DType weights,
                            DType angles) {
  check_head_rows(function, "x", x, x);
  const int64_t d = x.dim(3);
  CHECK(d % 2 == 0 && d <= kMostHeadColumns, function, ": heads have ", d,
        " columns, expected an even number up to ", kMostHeadColumns);
  if (p.weight) check_operand(function, "weight", p.weight, weights, d);
  CHECK(p.cos.defined() == p.sin.defined(), function, ": expected both cos and sin, or neither");
  if (!p.cos) return;
  check_operand(function, "cos", p.cos, angles, x.dim(1) * (d / 2));
  check_operand(function, "sin", p.sin, angles, x.dim(1) * (d / 2));
}

}  // namespace parlo
