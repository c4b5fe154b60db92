// Checks of glu's operands, the same on every device.
#pragma once

#include "kernels/checks.h"
#include "kernels/glu.h"

namespace parlo {

struct GluShape {
  int64_t rows = 0, columns = 0;  // of y
};

inline GluShape check_glu(const char* function, const Tensor& x, const Tensor& y) {
  CHECK(x.defined() && x.rank() == 2 && x.dim(1) % 2 == 0, function, ": x has shape ",
        x.defined() ? x.shape() : Shape{}, ", expected [rows, 2 F]");
  const GluShape s{x.dim(0), x.dim(1) / 2};
  check_operand(function, "x", x, x.dtype(), x.numel());
  check_shape(function, "y or dy", y, {s.rows, s.columns});
  check_operand(function, "y or dy", y, x.dtype(), s.rows * s.columns);
  return s;
}

}  // namespace parlo
