#include "bench/measure.h"

#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu/isa/isa.h"
#include "tensor/parallel.h"

namespace parlo::bench {
namespace {

constexpr int kSteps = 400, kChains = 10;

// Ten independent chains cover a latency of four cycles on two units.
#define PARLO_CHAINS(constraint)                                                        \
  asm volatile(                                                                         \
      "vfmadd213ps %11,%10,%0\n vfmadd213ps %11,%10,%1\n vfmadd213ps %11,%10,%2\n"      \
      "vfmadd213ps %11,%10,%3\n vfmadd213ps %11,%10,%4\n vfmadd213ps %11,%10,%5\n"      \
      "vfmadd213ps %11,%10,%6\n vfmadd213ps %11,%10,%7\n vfmadd213ps %11,%10,%8\n"      \
      "vfmadd213ps %11,%10,%9\n"                                                        \
      : "+" constraint(a0), "+" constraint(a1), "+" constraint(a2), "+" constraint(a3), \
        "+" constraint(a4), "+" constraint(a5), "+" constraint(a6), "+" constraint(a7), \
        "+" constraint(a8), "+" constraint(a9)                                          \
      : constraint(factor), constraint(term))

typedef float Wide __attribute__((vector_size(64)));
typedef float Narrow __attribute__((vector_size(32)));

__attribute__((target("avx512f"))) void wide_slice() {
  Wide factor = Wide{} + 0.999f, term = Wide{} + 1e-4f;
  Wide a0 = term, a1 = term, a2 = term, a3 = term, a4 = term, a5 = term, a6 = term, a7 = term,
       a8 = term, a9 = term;
  for (int i = 0; i < kSteps; ++i) PARLO_CHAINS("v");
}

void narrow_slice() {
  Narrow factor = Narrow{} + 0.999f, term = Narrow{} + 1e-4f;
  Narrow a0 = term, a1 = term, a2 = term, a3 = term, a4 = term, a5 = term, a6 = term, a7 = term,
         a8 = term, a9 = term;
  for (int i = 0; i < kSteps; ++i) PARLO_CHAINS("x");
}

}  // namespace

double fma_probe(int threads, double duration) {
  const bool wide = cpu::isa() == cpu::Isa::avx512;
  const double slice_flops = 2.0 * kSteps * kChains * (wide ? 16 : 8);
  // A first guess of 100 GFLOP/s a thread; the rate needs no exact duration.
  const auto slices = static_cast<int64_t>(std::max(1.0, duration * 100e9 / slice_flops));
  const double time = seconds([&] {
    parallel_for(threads, 1, [&](int64_t, int64_t) {
      for (int64_t i = 0; i < slices; ++i) wide ? wide_slice() : narrow_slice();
    });
  });
  return slice_flops * static_cast<double>(slices) * threads / time;
}

double copy_probe(int64_t bytes) {
  static std::vector<char> from, to;
  from.resize(static_cast<size_t>(bytes), 1);
  to.resize(static_cast<size_t>(bytes));
  constexpr int kCopies = 4;
  const double time = seconds([&] {
    for (int i = 0; i < kCopies; ++i) {
      std::memcpy(to.data(), from.data(), from.size());
      benchmark::ClobberMemory();
    }
  });
  return 2.0 * static_cast<double>(bytes) * kCopies / time;
}

Tensor random(const Shape& shape) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  const Tensor t = Tensor::empty(shape);
  for (float& x : t.span<float>()) x = normal(engine);
  return t;
}

}  // namespace parlo::bench
