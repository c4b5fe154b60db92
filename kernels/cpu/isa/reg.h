// One hardware register of floats: zmm under AVX-512 (16 lanes), ymm under AVX2 (8). For kernels
// that count registers; see vec.h for code that does not. Only for files compiled per instruction
// set. Every multiply-add is explicit, so that all forms of a kernel round alike.
#pragma once

#include <immintrin.h>
#include <cstdint>

namespace parlo::cpu {
namespace {

#ifdef PARLO_AVX512
using Reg = __m512;
constexpr int kRegLanes = 16;

inline Reg reg_zero() {
  return _mm512_setzero_ps();
}
inline Reg reg_set(float x) {
  return _mm512_set1_ps(x);
}
inline Reg reg_load(const float* p) {
  return _mm512_loadu_ps(p);
}
inline void reg_store(float* p, Reg v) {
  _mm512_storeu_ps(p, v);
}
inline Reg reg_fma(Reg a, Reg b, Reg c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline __mmask16 reg_mask(int64_t n) {
  return static_cast<__mmask16>((1u << n) - 1);
}
// The first n lanes, 0 < n < kRegLanes; the rest is zero or stays as it is in memory.
inline Reg reg_load_part(const float* p, int64_t n) {
  return _mm512_maskz_loadu_ps(reg_mask(n), p);
}
inline Reg reg_load_part_or(const float* p, int64_t n, Reg rest) {
  return _mm512_mask_loadu_ps(rest, reg_mask(n), p);
}
inline float reg_sum(Reg v) {
  return _mm512_reduce_add_ps(v);
}
// NaN is not kept.
inline float reg_max_lane(Reg v) {
  return _mm512_reduce_max_ps(v);
}
inline void reg_store_part(float* p, Reg v, int64_t n) {
  _mm512_mask_storeu_ps(p, reg_mask(n), v);
}
#else
using Reg = __m256;
constexpr int kRegLanes = 8;

inline Reg reg_zero() {
  return _mm256_setzero_ps();
}
inline Reg reg_set(float x) {
  return _mm256_set1_ps(x);
}
inline Reg reg_load(const float* p) {
  return _mm256_loadu_ps(p);
}
inline void reg_store(float* p, Reg v) {
  _mm256_storeu_ps(p, v);
}
inline Reg reg_fma(Reg a, Reg b, Reg c) {
  return _mm256_fmadd_ps(a, b, c);
}
inline __m256i reg_mask(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline Reg reg_load_part(const float* p, int64_t n) {
  return _mm256_maskload_ps(p, reg_mask(n));
}
inline Reg reg_load_part_or(const float* p, int64_t n, Reg rest) {
  return _mm256_blendv_ps(rest, _mm256_maskload_ps(p, reg_mask(n)),
                          _mm256_castsi256_ps(reg_mask(n)));
}
inline float reg_sum(Reg v) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
// NaN is not kept.
inline float reg_max_lane(Reg v) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
inline void reg_store_part(float* p, Reg v, int64_t n) {
  _mm256_maskstore_ps(p, reg_mask(n), v);
}
#endif

// Any n: none, part or all of the register.
inline Reg reg_load_upto(const float* p, int64_t n) {
  if (n >= kRegLanes) return reg_load(p);
  return n > 0 ? reg_load_part(p, n) : reg_zero();
}
inline void reg_store_upto(float* p, Reg v, int64_t n) {
  if (n >= kRegLanes) {
    reg_store(p, v);
  } else if (n > 0) {
    reg_store_part(p, v, n);
  }
}

}  // namespace
}  // namespace parlo::cpu
