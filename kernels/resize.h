// Resizing of images [B, C, H, W], volumes [B, C, D, H, W] or lines [B, C, W], an axis at a time:
// every axis is a linear map y[i] = sum over k of w[i, k] x[first(i) + k], with s = in / out,
//   nearest   x[floor(i s)]
//   bilinear  between the two elements around max((i + 0.5) s - 0.5, 0), the last one repeated
//   bicubic   over four elements around (i + 0.5) s - 0.5, a = -0.75, clamped at the ends
// as torch.nn.functional.interpolate with align_corners false. With antialias the triangle or the
// cubic (a = -0.5) is stretched by s where s > 1 and its weights sum to 1, as in PIL.
#pragma once

#include "tensor/tensor.h"

namespace parlo {

enum class Interpolation { nearest, bilinear, bicubic };

struct ResizeArgs {
  Interpolation mode = Interpolation::nearest;
  bool antialias = false;  // not of nearest
};

namespace cpu {

// The sizes are those of x and y, both contiguous, f32 or f64.
void resize(const Tensor& x, const Tensor& y, const ResizeArgs& args);
void resize_backward(const Tensor& dy, const Tensor& dx, const ResizeArgs& args);

}  // namespace cpu

// The same on a GPU, f32 or bf16: kernels/cuda. Only nearest, whose places are computed there, can
// be part of a captured graph: the weights of the others are copied from the host.
namespace cuda {
decltype(cpu::resize) resize;
decltype(cpu::resize_backward) resize_backward;
}  // namespace cuda
}  // namespace parlo
