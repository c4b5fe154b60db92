// Convolution of images, x [B, I, H, W] with w [O, I / groups, kh, kw], and of volumes,
// x [B, I, D, H, W] with w [O, I / groups, kd, kh, kw]; an image is a volume of depth 1.
//   y[b, o, p] = bias[o] + residual[b, o, p] + sum over i, k of w[o, i, k] x[b, i, p stride + k -
//   before]
// with zeros or the nearest element of x where that lies outside. y is
// [B, O, (D + before + after - kd) / stride + 1, ...]. f32 and f64 on a CPU, f32 and bf16 on a GPU.
#pragma once

#include <array>

#include "tensor/tensor.h"

namespace parlo {

struct Conv2dArgs {
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t groups = 1;
};

// What a window meets outside of x.
enum class Border { zero, replicate };

// Of depth, height and width.
using ConvAxes = std::array<int64_t, 3>;

struct Conv3dArgs {
  ConvAxes stride{1, 1, 1};
  ConvAxes before{0, 0, 0}, after{0, 0, 0};  // padding
  Border border = Border::zero;
  int64_t groups = 1;
};

inline Conv3dArgs as_conv3d(const Conv2dArgs& a) {
  const ConvAxes padding{0, a.padding, a.padding};
  return {{1, a.stride, a.stride}, padding, padding, Border::zero, a.groups};
}

// A frame sees only itself and frames before it: all the padding in time goes to the front. k is
// the size of the kernel, odd in height and width.
inline Conv3dArgs causal_conv3d(int64_t k, const ConvAxes& stride = {1, 1, 1},
                                Border border = Border::replicate) {
  return {stride, {k - 1, k / 2, k / 2}, {0, k / 2, k / 2}, border, 1};
}

namespace cpu {

// bias [O] and residual, of y's shape, are optional; x may have any strides, y is contiguous.
void conv3d(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& residual,
            const Tensor& y, const Conv3dArgs& args);
// Writes the gradients that are defined. That of residual is dy.
void conv3d_backward(const Tensor& x, const Tensor& w, const Tensor& dy, const Tensor& dx,
                     const Tensor& dw, const Tensor& dbias, const Conv3dArgs& args);

void conv2d(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y,
            const Conv2dArgs& args);
void conv2d_backward(const Tensor& x, const Tensor& w, const Tensor& dy, const Tensor& dx,
                     const Tensor& dw, const Tensor& dbias, const Conv2dArgs& args);

}  // namespace cpu

// The same on a GPU: kernels/cuda. An x whose channels lie side by side (a permuted
// [B, D, H, W, I]) is read as it lies; others are first copied to that order, an image at a time.
namespace cuda {
decltype(cpu::conv3d) conv3d;
decltype(cpu::conv3d_backward) conv3d_backward;
decltype(cpu::conv2d) conv2d;
decltype(cpu::conv2d_backward) conv2d_backward;
}  // namespace cuda
}  // namespace parlo
