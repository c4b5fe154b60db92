// Rotary position embedding on x [B, T, H, D]; cos, sin [T, D/2], f32 (f64 for f64).
//   pairs: (x[2i], x[2i+1]) rotated by angle i (FLUX, original Llama)
//   halves: (x[i], x[i + D/2]) rotated by angle i (Hugging Face Llama)
#pragma once

#include "tensor/tensor.h"

namespace parlo {

enum class RopeStyle { pairs, halves };

namespace cpu {

// inverse rotates by the negative angle: that is the backward. May alias.
void rope(const Tensor& x, const Tensor& cos, const Tensor& sin, RopeStyle style, bool inverse,
          const Tensor& y);

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::rope) rope;
}  // namespace cuda
}  // namespace parlo
