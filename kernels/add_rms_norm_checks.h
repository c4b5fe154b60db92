// Checks of the operands of add_rms_norm and its backward that both backends make.
#pragma once

#include "kernels/add_rms_norm.h"
#include "kernels/norm_checks.h"

namespace parlo {

inline NormShape check_add_rms_norm(const Tensor& x, const Tensor& residual, const NormParams& p,
                                    const Tensor& sum, const Tensor& y, const Tensor& rstd) {
  const char* name = "add_rms_norm";
  const NormShape shape = check_norm(name, x, {p.weight, {}, {}, {}, p.eps});
  check_operand(name, "residual", residual, x.dtype(), x.numel());
  check_output(name, "sum", sum, x.dtype(), x.numel());
  check_output(name, "y", y, x.dtype(), x.numel());
  if (x.numel() > 0) check_output(name, "rstd", rstd, statistics_dtype(x), shape.rows);
  return shape;
}

inline NormShape check_add_rms_norm_backward(const Tensor& sum, const NormParams& p,
                                             const Tensor& rstd, const Tensor& dy,
                                             const Tensor& dsum, const Tensor& dx,
                                             const Tensor& dweight) {
  const char* name = "add_rms_norm_backward";
  const NormShape shape = check_norm(name, sum, {p.weight, {}, {}, {}, p.eps});
  check_operand(name, "dy", dy, sum.dtype(), sum.numel());
  if (dsum) check_operand(name, "dsum", dsum, sum.dtype(), sum.numel());
  check_grads(name, sum, shape, {dx, dweight, {}, {}, {}});
  if (sum.numel() > 0) check_operand(name, "rstd", rstd, statistics_dtype(sum), shape.rows);
  return shape;
}

}  // namespace parlo
