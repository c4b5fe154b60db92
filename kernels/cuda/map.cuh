// One loop for all element-wise kernels: out[i] = f(in_0[i], in_1[i], ...) in f32, 16 bytes an
// access where every operand is aligned. Floor: bytes of all operands once.
#pragma once

#include "kernels/cuda/common.cuh"

namespace parlo::cuda {

constexpr int kMapThreads = 256;

template <int N, class F, class T, class... X>
__global__ void __launch_bounds__(kMapThreads) map_kernel(F f, int64_t n, T* out, const X*... in) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kMapThreads * N;
  int64_t i = (static_cast<int64_t>(blockIdx.x) * kMapThreads + threadIdx.x) * N;
  for (; i + N <= n; i += step) {
    const auto one = [&](const Pack<X, N>&... x) {
      Pack<T, N> y;
#pragma unroll
      for (int k = 0; k < N; ++k) y.v[k] = from_f32<T>(f(to_f32(x.v[k])...));
      store_pack<N>(out + i, y);
    };
    one(load_pack<N>(in + i)...);
  }
  for (; i < n; ++i) out[i] = from_f32<T>(f(to_f32(in[i])...));  // the last, part pack: one thread
}

inline bool is_aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

template <class F, class T, class... X>
void map(const char* name, F f, const Tensor& out, int64_t n, T* y, const X*... x) {
  const bool packed = (is_aligned(y) && ... && is_aligned(x));
  const auto run = [&]<int N>(std::integral_constant<int, N>) {
    launch({name, blocks_for(n, kMapThreads * N), kMapThreads, out.device()},
           map_kernel<N, F, T, X...>, f, n, y, x...);
  };
  // By the widest type: with f32 among bf16 operands a pack is 4.
  constexpr int kWidest = static_cast<int>(std::max({sizeof(T), sizeof(X)...}));
  if (packed) {
    run(std::integral_constant<int, 16 / kWidest>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
}

}  // namespace parlo::cuda
