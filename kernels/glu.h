// Gated linear units over fused projections x [rows, 2 F] = [a | b]:
//   y = f(a) b [rows, F]
// SwiGLU with silu (Llama's MLP, gate first), GEGLU with gelu_erf or gelu_tanh. f32 and f64; on a
// GPU f32 and bf16. Contiguous.
#pragma once

#include "kernels/matmul.h"

namespace parlo {
namespace cpu {

void glu(Activation f, const Tensor& x, const Tensor& y);
// dx = [f'(a) b dy | f(a) dy], of the shape of x.
void glu_backward(Activation f, const Tensor& x, const Tensor& dy, const Tensor& dx);

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::glu) glu;
decltype(cpu::glu_backward) glu_backward;
}  // namespace cuda
}  // namespace parlo
