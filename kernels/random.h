// Fills from a key: element i is drawn from block i / 4 of the key, word i % 4, so a tensor is the
// same bits for any thread count and any split. f32 (f64 gets the same f32 values).
#pragma once

#include "tensor/philox.h"
#include "tensor/tensor.h"

namespace parlo {
namespace cpu {

// Uniform in (0, 1).
void random_uniform(RandomKey key, const Tensor& out);
// Standard normal by Box-Muller on words (0, 1) and (2, 3) of a block.
void random_normal(RandomKey key, const Tensor& out);

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::random_uniform) random_uniform;
decltype(cpu::random_normal) random_normal;
}  // namespace cuda

}  // namespace parlo
