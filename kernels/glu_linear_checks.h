// Checks of glu_linear's operands and its linear part, the same on every device.
#pragma once

#include "kernels/glu_checks.h"
#include "kernels/glu_linear.h"
#include "kernels/matmul_checks.h"

namespace parlo {

// What makes h.
inline LinearArgs linear_args_of(const GluLinearArgs& args) {
  LinearArgs linear;
  linear.bias = args.bias, linear.low_rank = args.low_rank;
  linear.low_rank_rows = args.low_rank_rows;
  return linear;
}

inline void check_glu_linear_output(const char* name, const Tensor& t, const Shape& shape,
                                    DType dtype) {
  check_shape("glu_linear", name, t, shape);
  CHECK(t.is_contiguous() && t.dtype() == dtype, "glu_linear: ", name, " is ",
        dtype_name(t.dtype()), t.is_contiguous() ? "" : " and not contiguous",
        ", expected contiguous ", dtype_name(dtype));
}

inline void check_glu_linear(const Tensor& x, const Tensor& w, const Tensor& y,
                             const GluLinearArgs& args) {
  check_linear_inputs(x, w, linear_args_of(args));
  const int64_t rows = x.dim(0), n = w.dim(0);
  CHECK(n % 2 == 0, "glu_linear: w has shape ", w.shape(), ", expected [2 F, K]");
  check_glu_linear_output("y", y, {rows, n / 2}, x.dtype());
  if (args.halves) check_glu_linear_output("halves", args.halves, {rows, n}, x.dtype());
}

}  // namespace parlo
