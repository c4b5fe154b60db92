// Operands of the 16 x 8 x 16 tensor-core product, taken straight from rows in memory.
//
// A warp's lane (g, t) = (lane / 4, lane % 4) holds rows g and g + 8 of A, column g of B, and of
// every 16 values along K the pairs at 2t and 2t + 8. Which values of K go where is free as long as
// A and B agree, so a lane takes neighbours: 16 bytes of its row are the pairs of two products.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/ptx.cuh"

namespace parlo::cuda {

using Words = Pack<uint32_t, 4>;  // 8 bf16, the lower half of a word first

__device__ __forceinline__ Words load_words(const bf16* p, bool inside) {
  if (!inside) return Words{};
  return load_pack<4>(reinterpret_cast<const uint32_t*>(p));
}

// Two values in a word, and out of it.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const uint32_t l = __bfloat16_as_ushort(__float2bfloat16_rn(low));
  return l | static_cast<uint32_t>(__bfloat16_as_ushort(__float2bfloat16_rn(high))) << 16;
}
__device__ __forceinline__ float low_f32(uint32_t x) {
  return __uint_as_float(x << 16);
}
__device__ __forceinline__ float high_f32(uint32_t x) {
  return __uint_as_float(x & 0xffff0000u);
}

// Halves of two words that belong side by side.
__device__ __forceinline__ uint32_t low_halves(uint32_t x, uint32_t y) {
  return (x & 0xffffu) | (y << 16);
}
__device__ __forceinline__ uint32_t high_halves(uint32_t x, uint32_t y) {
  return (x >> 16) | (y & 0xffff0000u);
}

}  // namespace parlo::cuda
