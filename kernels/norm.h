// Layer, RMS and group norm over contiguous rows; statistics in f32 (f64 for f64).
//   layer_norm: y = (x - mean) * rstd * weight + bias, then * (1 + scale) + shift (modulation)
//   rms_norm:   y = x * rstd * weight,  rstd = 1 / sqrt(mean(x^2) + eps)
// x, y, dx, dy [R, C]. weight, bias [C] optional. scale, shift [G, C] optional with R % G == 0: row
// r uses group r / (R / G) (adaLN: G = batch, R / G = tokens). scale and shift may have a row
// stride. mean, rstd [R] are outputs of the forward, inputs of the backward.
#pragma once

#include "kernels/matmul.h"
#include "tensor/tensor.h"

namespace parlo {

struct NormParams {
  Tensor weight, bias;
  Tensor scale, shift;
  double eps = 1e-6;
  Activation activation = Activation::none;  // of y; group norm only, none or silu
};

// Gradients to write; undefined tensors are skipped. Parameter gradients are summed over rows in a
// fixed order. dscale, dshift [G, C] contiguous.
struct NormGrads {
  Tensor dx;
  Tensor dweight, dbias;
  Tensor dscale, dshift;
};

namespace cpu {

void layer_norm(const Tensor& x, const NormParams& p, const Tensor& y, const Tensor& mean,
                const Tensor& rstd);
void layer_norm_backward(const Tensor& x, const NormParams& p, const Tensor& mean,
                         const Tensor& rstd, const Tensor& dy, const NormGrads& grads);

// Only weight and eps of p are used.
void rms_norm(const Tensor& x, const NormParams& p, const Tensor& y, const Tensor& rstd);
void rms_norm_backward(const Tensor& x, const NormParams& p, const Tensor& rstd, const Tensor& dy,
                       const NormGrads& grads);

// x, y [B, C, S] (S = all spatial positions), statistics over each of `groups` channel groups:
// mean, rstd [B, groups]; weight, bias [C]. With silu y = silu(x * rstd * ...), and the backward
// takes dy through it, computing its argument again. On a GPU y may also be rows of channels
// [B, S, C], seen as [B, C, S], where C is a multiple of 8: the order that convolutions read.
void group_norm(const Tensor& x, int64_t groups, const NormParams& p, const Tensor& y,
                const Tensor& mean, const Tensor& rstd);
void group_norm_backward(const Tensor& x, int64_t groups, const NormParams& p, const Tensor& mean,
                         const Tensor& rstd, const Tensor& dy, const NormGrads& grads);

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::layer_norm) layer_norm;
decltype(cpu::layer_norm_backward) layer_norm_backward;
decltype(cpu::rms_norm) rms_norm;
decltype(cpu::rms_norm_backward) rms_norm_backward;
decltype(cpu::group_norm) group_norm;
decltype(cpu::group_norm_backward) group_norm_backward;
}  // namespace cuda
}  // namespace parlo
