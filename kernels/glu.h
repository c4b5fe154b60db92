// Gated linear units: y = f(a) * b. SwiGLU: f = silu (Llama); GEGLU: f = gelu_tanh or gelu_erf
// (T5). a, b, y [R, F] with unit column stride; rows may be strided: the halves of a fused
// projection [R, 2F] are views of it.
#pragma once

#include "kernels/matmul.h"
#include "tensor/tensor.h"

namespace parlo {
namespace cpu {

void glu(Activation f, const Tensor& a, const Tensor& b, const Tensor& y);
// da = f'(a) * b * dy, db = f(a) * dy; undefined outputs are skipped. They may be a and b.
void glu_backward(Activation f, const Tensor& a, const Tensor& b, const Tensor& dy,
                  const Tensor& da, const Tensor& db);

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::glu) glu;
decltype(cpu::glu_backward) glu_backward;
}  // namespace cuda
}  // namespace parlo
