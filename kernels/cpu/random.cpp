// Keyed fills: element i comes from word i % 4 of block i / 4, whoever draws it.
#include "kernels/random.h"

#include "kernels/cpu/checks.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/random_isa.h"
#include "kernels/cpu/random_fill.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

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
  PARLO_ISA_TABLE(random).uniform(key.bits(), static_cast<uint64_t>(first), out, n);
}

void fill_normal(RandomKey key, int64_t first, float* out, int64_t n) {
  PARLO_ISA_TABLE(random).normal(key.bits(), static_cast<uint64_t>(first), out, n);
}

void random_uniform(RandomKey key, const Tensor& out) {
  random_fill("random_uniform", fill_uniform, key, out);
}

void random_normal(RandomKey key, const Tensor& out) {
  random_fill("random_normal", fill_normal, key, out);
}

}  // namespace parlo::cpu
