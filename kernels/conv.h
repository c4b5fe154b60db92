// 2-D convolution, NCHW, weights [O, I, kh, kw], f32 and f64; im2col + matmul.
#pragma once

#include "tensor/tensor.h"

namespace parlo {

struct Conv2dArgs {
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t groups = 1;
};

namespace cpu {

// y [B, O, (H + 2p - kh)/s + 1, (W + 2p - kw)/s + 1]; bias [O] optional.
void conv2d(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y,
            const Conv2dArgs& args);
// Writes the gradients that are defined.
void conv2d_backward(const Tensor& x, const Tensor& w, const Tensor& dy, const Tensor& dx,
                     const Tensor& dw, const Tensor& dbias, const Conv2dArgs& args);

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::conv2d) conv2d;
decltype(cpu::conv2d_backward) conv2d_backward;
}  // namespace cuda
}  // namespace parlo
