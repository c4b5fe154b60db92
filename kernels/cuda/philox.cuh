// Draws of a key inside kernels (kernels/random.h): the CPU's bits. Philox is tensor/philox.h
// itself; the normal repeats the operations of kernels/cpu/isa/{random.cpp,regmath.h,regtrig.h} in
// their order, each rounded as there, so that noise does not depend on the device.
#pragma once

#include "kernels/cuda/common.cuh"
#include "tensor/philox.h"

namespace parlo::cuda {

struct Draws {
  float v[4];
};

// Words of block number `block` as uniforms in (0, 1).
__device__ __forceinline__ Draws draw_uniform(uint64_t key, uint64_t block) {
  const PhiloxBlock words = RandomKey(key).block(block);
  return {{uniform_from_bits(words[0]), uniform_from_bits(words[1]), uniform_from_bits(words[2]),
           uniform_from_bits(words[3])}};
}

// c[0] + c[1] x + ...
template <int N>
__device__ __forceinline__ float polynomial(float x, const float (&c)[N]) {
  float sum = c[N - 1];
#pragma unroll
  for (int i = N - 2; i >= 0; --i) sum = __fmaf_rn(sum, x, c[i]);
  return sum;
}

// reg_log for 2^-24 <= x < 1.
__device__ __forceinline__ float log_of_uniform(float x) {
  constexpr float kFit[] = {0.333333313f, -0.250008225f, 0.200012267f, -0.166233569f,
                            0.142017618f, -0.131601945f, 0.127615497f, -0.0763442963f};
  const int bits = __float_as_int(x), exponent = (bits - 0x3f3504f3) >> 23;
  const float f = __fsub_rn(__int_as_float(bits - (exponent << 23)), 1.0f);
  const float e = static_cast<float>(exponent), square = __fmul_rn(f, f);
  float y = __fmaf_rn(__fmul_rn(square, f), polynomial(f, kFit), __fmul_rn(e, -2.12194440e-4f));
  y = __fadd_rn(__fmaf_rn(square, -0.5f, y), f);
  return __fmaf_rn(e, 0.693359375f, y);
}

// Box-Muller: radius from the first, angle 2 pi u from the second.
__device__ __forceinline__ void normal_pair(float& first, float& second) {
  constexpr float kSin[] = {-1.6666654611e-1f, 8.3321608736e-3f, -1.9515295891e-4f};
  constexpr float kCos[] = {4.166664568298827e-2f, -1.388731625493765e-3f, 2.443315711809948e-5f};
  const float radius = __fsqrt_rn(__fmul_rn(-2.0f, log_of_uniform(first)));
  const float quarter = rintf(__fmul_rn(second, 4.0f));
  const float r = __fmul_rn(__fmaf_rn(quarter, -0.25f, second), 6.28318531f);
  const float square = __fmul_rn(r, r);
  const float s = __fmaf_rn(__fmul_rn(square, r), polynomial(square, kSin), r);
  const float c = __fmaf_rn(__fmul_rn(square, square), polynomial(square, kCos),
                            __fmaf_rn(square, -0.5f, 1.0f));
  const int turns = static_cast<int>(quarter);  // 0 to 4
  const float sine = turns & 1 ? c : s, cosine = turns & 1 ? s : c;
  first = __fmul_rn(radius, (turns + 1) & 2 ? -cosine : cosine);
  second = __fmul_rn(radius, turns & 2 ? -sine : sine);
}

__device__ __forceinline__ Draws draw_normal(uint64_t key, uint64_t block) {
  Draws d = draw_uniform(key, block);
  normal_pair(d.v[0], d.v[1]);
  normal_pair(d.v[2], d.v[3]);
  return d;
}

}  // namespace parlo::cuda
