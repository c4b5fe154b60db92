#include "kernels/random.h"
#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {

// Box-Muller repeats the CPU's operations one by one: not two ulp, the same bits.
TEST_CASE("gpu: uniform and normal draws are the CPU's bits") {
  for (const uint64_t seed : {uint64_t{0}, uint64_t{7}, uint64_t{0xfedcba9876543210}}) {
    for (const int64_t n : {0, 1, 2, 3, 4, 5, 63, 1023, 4096, 100003}) {
      INFO(n, " values of key ", seed);
      const RandomKey key(seed);
      const Tensor want = Tensor::empty({n}), got = gpu_output({n});
      cpu::random_uniform(key, want);
      cuda::random_uniform(key, got);
      CHECK(same_bits(got.to(Device{}), want));
      cpu::random_normal(key, want);
      cuda::random_normal(key, got);
      CHECK(same_bits(got.to(Device{}), want));
    }
  }
}

TEST_CASE("gpu: draws off alignment, and in bf16") {
  const int64_t n = 1003;
  const RandomKey key(5);
  const Tensor want = Tensor::empty({n}), room = gpu_output({n + 1}),
               half = gpu_output({n}, DType::bf16);
  cpu::random_normal(key, want);
  cuda::random_normal(key, room.slice(0, 1, n + 1));
  cuda::random_normal(key, half);
  CHECK(same_bits(room.slice(0, 1, n + 1).to(Device{}), want));
  CHECK(std::isnan(room.to_vector()[0]));
  CHECK(same_bits(half.to(Device{}), want.to(DType::bf16)));
}

TEST_CASE("gpu: draws stop at the end") {
  for (const int64_t n : {1, 4, 6, 1003}) {
    const Tensor room = gpu_output({n + 4});
    cuda::random_uniform(RandomKey(5), room.slice(0, 0, n));
    for (int64_t i = n; i < n + 4; ++i) CHECK(std::isnan(room.to_vector()[static_cast<size_t>(i)]));
  }
}

TEST_CASE("gpu: draws into what does not fit are refused") {
  const Tensor wide = Tensor::zeros({4}, DType::f64, kGpu);
  CHECK(contains(message_of([&] { cuda::random_normal(RandomKey(1), wide); }),
                 "random_normal: expected dtype f32 or bf16"));
  CHECK(contains(message_of([&] { cuda::random_uniform(RandomKey(1), {}); }), "missing"));
}

}  // namespace parlo::test
