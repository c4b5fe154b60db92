// A vector of 16 floats with GCC's vector extensions: one zmm under AVX-512, two ymm under AVX2.
// Operators + - * / and comparisons work on it. Only for files compiled per instruction set.
#pragma once

#include <immintrin.h>
#include <cstdint>

namespace parlo::cpu {
namespace {

typedef float Vec __attribute__((vector_size(64)));
typedef int32_t VecI __attribute__((vector_size(64)));
constexpr int kLanes = 16;

[[maybe_unused]] inline Vec load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
[[maybe_unused]] inline void store(float* p, Vec v) {
  __builtin_memcpy(p, &v, sizeof v);
}
[[maybe_unused]] inline Vec broadcast(float x) {
  return Vec{} + x;
}
// First n lanes (n < 16), the rest zero.
[[maybe_unused]] inline Vec load_part(const float* p, int64_t n) {
  Vec v = {};
  __builtin_memcpy(&v, p, static_cast<size_t>(n) * sizeof(float));
  return v;
}
[[maybe_unused]] inline void store_part(float* p, Vec v, int64_t n) {
  __builtin_memcpy(p, &v, static_cast<size_t>(n) * sizeof(float));
}
// Lanes added in a fixed tree.
[[maybe_unused]] inline float sum_lanes(Vec v) {
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) v[i] += v[i + width];
  return v[0];
}

}  // namespace
}  // namespace parlo::cpu
