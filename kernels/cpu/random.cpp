// Keyed fills: element i comes from word i % 4 of block i / 4, whoever draws it.
#include "kernels/random.h"

#include <cmath>
#include <numbers>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/random_fill.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

// Box-Muller: radius from the first word, angle from the second.
void normal_pair(uint32_t radius_bits, uint32_t angle_bits, float* out) {
  const double radius = std::sqrt(-2 * std::log(double{uniform_from_bits(radius_bits)}));
  const double angle = 2 * std::numbers::pi * uniform_from_bits(angle_bits);
  out[0] = static_cast<float>(radius * std::cos(angle));
  out[1] = static_cast<float>(radius * std::sin(angle));
}

using Fill = void (*)(RandomKey, int64_t, float*, int64_t);

void random_fill(const char* name, Fill fill, RandomKey key, const Tensor& out) {
  check_output(name, "out", out, out.dtype(), out.numel());
  const int64_t n = out.numel();
  visit_float(out.dtype(), name, [&](auto type) {
    using T = decltype(type);
    T* to = out.data<T>();
    parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
      if constexpr (std::is_same_v<T, float>) {
        fill(key, begin, to + begin, end - begin);
      } else {
        float block[256];
        for (int64_t i = begin; i < end; i += 256) {
          const int64_t count = std::min<int64_t>(256, end - i);
          fill(key, i, block, count);
          for (int64_t k = 0; k < count; ++k) to[i + k] = block[k];
        }
      }
    });
  });
}

}  // namespace

void fill_uniform(RandomKey key, int64_t first, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i += 4) {
    const PhiloxBlock block = key.block(static_cast<uint64_t>(first + i) / 4);
    for (int64_t k = 0; k < std::min<int64_t>(4, n - i); ++k)
      out[i + k] = uniform_from_bits(block[static_cast<size_t>(k)]);
  }
}

void fill_normal(RandomKey key, int64_t first, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i += 4) {
    const PhiloxBlock block = key.block(static_cast<uint64_t>(first + i) / 4);
    float values[4];
    normal_pair(block[0], block[1], values);
    normal_pair(block[2], block[3], values + 2);
    std::copy_n(values, std::min<int64_t>(4, n - i), out + i);
  }
}

void random_uniform(RandomKey key, const Tensor& out) {
  random_fill("random_uniform", fill_uniform, key, out);
}

void random_normal(RandomKey key, const Tensor& out) {
  random_fill("random_normal", fill_normal, key, out);
}

}  // namespace parlo::cpu
