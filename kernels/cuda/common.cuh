// What kernels share: types, 16-byte packs, sums over warps and blocks in a fixed order.
// Tensors of kernels are f32 or bf16; sums and all maths are f32.
#pragma once

#include "tensor/cuda/launch.cuh"

#include <string_view>
#include <type_traits>

#include "kernels/checks.h"
#include "tensor/tensor.h"

namespace parlo::cuda {

using bf16 = __nv_bfloat16;

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// --- host ---

// The device pointer of an operand; null when it is undefined. T may be bf16, const or not.
template <class T>
T* pointer(const Tensor& t) {
  using Plain = std::remove_const_t<T>;
  if (!t.defined()) return nullptr;
  if constexpr (std::is_same_v<Plain, bf16>) {
    return reinterpret_cast<T*>(t.data<bf16_t>());
  } else {
    return t.data<Plain>();
  }
}

// Calls fn with a float or a bf16; any other dtype is an Error naming the function.
template <class Fn>
decltype(auto) visit_dtype_gpu(DType dtype, std::string_view function, Fn&& fn) {
  if (dtype == DType::f32) return fn(float{});
  if (dtype == DType::bf16) return fn(bf16{});
  throw Error(parlo::concat(function, ": expected dtype f32 or bf16 on a GPU, got ",
                            dtype_name(dtype), "; convert with Tensor::to"));
}

// Every defined tensor must live where the first does.
template <class... Rest>
void check_same_device(std::string_view function, const Tensor& first, const Rest&... rest) {
  const auto check = [&](const Tensor& t) {
    CHECK(!t.defined() || t.device() == first.device(), function, ": operands lie on ",
          to_string(first.device()), " and on ", to_string(t.device()),
          "; move them with Tensor::to");
  };
  (check(rest), ...);
}

// --- device ---

__device__ __forceinline__ float to_f32(float x) {
  return x;
}
__device__ __forceinline__ float to_f32(bf16 x) {
  return __bfloat162float(x);
}
template <class T>
__device__ __forceinline__ T from_f32(float x) {
  if constexpr (std::is_same_v<T, bf16>) {
    return __float2bfloat16_rn(x);
  } else {
    return x;
  }
}

// N values that move in one access; the address is a multiple of their size.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};
// Values in 16 bytes, the widest access.
template <class T>
constexpr int kPack = 16 / static_cast<int>(sizeof(T));

template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <int N, class T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T, N>& x) {
  *reinterpret_cast<Pack<T, N>*>(p) = x;
}

// combine(a, b) of all lanes, the same value in every lane.
template <class T, class Combine>
__device__ __forceinline__ T over_warp(T x, Combine combine) {
#pragma unroll
  for (int o = kWarp / 2; o > 0; o /= 2) x = combine(x, __shfl_xor_sync(kAllLanes, x, o));
  return x;
}
// The same over a block of Threads. All threads call it; a second call needs no barrier of the
// caller's in between.
template <int Threads, class T, class Combine>
__device__ __forceinline__ T over_block(T x, Combine combine) {
  static_assert(Threads % kWarp == 0 && Threads <= 1024);
  constexpr int kWarps = Threads / kWarp;
  x = over_warp(x, combine);
  if constexpr (kWarps == 1) return x;
  SMEM(T, partial, [kWarps]);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) partial[threadIdx.x / kWarp] = x;
  __syncthreads();
  T result = partial[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) result = combine(result, partial[w]);
  return result;
}

// T: float or double.
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
  return over_warp(x, [](T a, T b) { return a + b; });
}
template <int Threads, class T>
__device__ __forceinline__ T block_sum(T x) {
  return over_block<Threads>(x, [](T a, T b) { return a + b; });
}
__device__ __forceinline__ float warp_max(float x) {
  return over_warp(x, [](float a, float b) { return fmaxf(a, b); });
}
template <int Threads>
__device__ __forceinline__ float block_max(float x) {
  return over_block<Threads>(x, [](float a, float b) { return fmaxf(a, b); });
}

}  // namespace parlo::cuda
