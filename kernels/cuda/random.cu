// Fills from a key (kernels/random.h) on a GPU: one block of the key, four values, a thread; bf16
// gets the rounded f32 values. Floor: bytes of out; the ten rounds of Philox cost about as much.
#include "kernels/random.h"

#include "kernels/cuda/map.cuh"
#include "kernels/cuda/philox.cuh"

namespace parlo::cuda {
namespace {

constexpr int kThreads = 256;

template <bool kNormal, class T>
__global__ void __launch_bounds__(kThreads)
    random_kernel(uint64_t key, int64_t n, bool packed, T* out) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t b = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; b * 4 < n;
       b += step) {
    const auto block = static_cast<uint64_t>(b);
    const Draws d = kNormal ? draw_normal(key, block) : draw_uniform(key, block);
    if (packed && b * 4 + 4 <= n) {
      Pack<T, 4> p;
#pragma unroll
      for (int k = 0; k < 4; ++k) p.v[k] = from_f32<T>(d.v[k]);
      store_pack<4>(out + b * 4, p);
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (b * 4 + k < n) out[b * 4 + k] = from_f32<T>(d.v[k]);
      }
    }
  }
}

template <bool kNormal>
void fill(const char* name, RandomKey key, const Tensor& out) {
  check_output(name, "out", out, out.dtype(), out.numel());
  const int64_t n = out.numel();
  visit_dtype_gpu(out.dtype(), name, [&](auto type) {
    using T = decltype(type);
    T* to = pointer<T>(out);
    launch({name, blocks_for(ceil_div(n, 4), kThreads), kThreads, out.device()},
           random_kernel<kNormal, T>, key.bits(), n, is_aligned(to), to);
  });
}

}  // namespace

void random_uniform(RandomKey key, const Tensor& out) {
  fill<false>("random_uniform", key, out);
}

void random_normal(RandomKey key, const Tensor& out) {
  fill<true>("random_normal", key, out);
}

}  // namespace parlo::cuda
