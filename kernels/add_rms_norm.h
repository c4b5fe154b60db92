// RMS norm behind a residual connection, and the sum for the next one (Llama):
//   sum = x + residual,  y = sum * rstd * weight,  rstd = 1 / sqrt(mean(sum^2) + eps)
// All [R, C] contiguous, rstd [R] as in kernels/norm.h; only weight and eps of p are used. The norm
// is that of the rounded sum: y has the bits of an addition and rms_norm.
#pragma once

#include "kernels/norm.h"

namespace parlo {
namespace cpu {

// sum may be x or residual.
void add_rms_norm(const Tensor& x, const Tensor& residual, const NormParams& p, const Tensor& sum,
                  const Tensor& y, const Tensor& rstd);
// dx, of x and residual alike, from dy and, where the sum went on, dsum.
// Undefined dx and dweight are skipped.
void add_rms_norm_backward(const Tensor& sum, const NormParams& p, const Tensor& rstd,
                           const Tensor& dy, const Tensor& dsum, const Tensor& dx,
                           const Tensor& dweight);

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::add_rms_norm) add_rms_norm;
decltype(cpu::add_rms_norm_backward) add_rms_norm_backward;
}  // namespace cuda
}  // namespace parlo
