// Rows in packs: element i of a row belongs to the same thread whether or not 16-byte accesses are
// possible, so that a row gives the same bits wherever it lies.
#pragma once

#include "kernels/cuda/map.cuh"

namespace parlo::cuda {

// Whether rows of n elements at all these pointers consist of whole aligned packs.
template <class T, class... P>
bool is_packed(int64_t n, const T* first, const P*... rest) {
  return n % kPack<T> == 0 && (is_aligned(first) && ... && is_aligned(rest));
}

inline int64_t power_of_two_from(int64_t n) {
  int64_t p = 1;
  while (p < n) p *= 2;
  return p;
}

__device__ __forceinline__ double to_f32(double x) {  // sums of f64 partial sums stay f64
  return x;
}

// Elements [i, i + N) of a row of n > i, `pad` beyond its end. Packed: in one access, n being whole
// packs. Known to the compiler, as a branch in between would keep it from starting the next load
// before this one has come.
template <bool Packed, int N, class T>
__device__ __forceinline__ Pack<T, N> load_inside(const T* row, int64_t i, int64_t n,
                                                  float pad = 0) {
  if constexpr (Packed) {
    return load_pack<N>(row + i);
  } else {
    Pack<T, N> p;
#pragma unroll
    for (int k = 0; k < N; ++k) p.v[k] = i + k < n ? row[i + k] : static_cast<T>(pad);
    return p;
  }
}
// The same for any i.
template <bool Packed, int N, class T>
__device__ __forceinline__ Pack<T, N> load_some(const T* row, int64_t i, int64_t n, float pad = 0) {
  if constexpr (Packed) {
    Pack<T, N> p;
#pragma unroll
    for (int k = 0; k < N; ++k) p.v[k] = static_cast<T>(pad);
    if (i < n) p = load_pack<N>(row + i);
    return p;
  } else {
    return load_inside<false, N>(row, i, n, pad);
  }
}

template <int N, class T, class F>
__device__ __forceinline__ void unpack(F (&x)[N], const Pack<T, N>& p) {
#pragma unroll
  for (int k = 0; k < N; ++k) x[k] = to_f32(p.v[k]);
}

template <bool Packed, int N, class T>
__device__ __forceinline__ void load_row(float (&x)[N], const T* row, int64_t i, int64_t n,
                                         float pad = 0) {
  unpack(x, load_some<Packed, N>(row, i, n, pad));
}

template <bool Packed, int N, class T>
__device__ __forceinline__ void store_row(T* row, int64_t i, int64_t n, const float (&x)[N]) {
  if constexpr (Packed) {
    Pack<T, N> p;
#pragma unroll
    for (int k = 0; k < N; ++k) p.v[k] = from_f32<T>(x[k]);
    if (i < n) store_pack<N>(row + i, p);
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (i + k < n) row[i + k] = from_f32<T>(x[k]);
    }
  }
}

// use(load(i), i) for i, i + step, ... below n, in that order; Batch loads are on their way at a
// time.
template <int Batch, class Load, class Use>
__device__ __forceinline__ void for_batches(int64_t i, int64_t n, int64_t step, Load load,
                                            Use use) {
  for (; i + (Batch - 1) * step < n; i += Batch * step) {
    decltype(load(i)) loaded[Batch];
#pragma unroll
    for (int u = 0; u < Batch; ++u) loaded[u] = load(i + u * step);
#pragma unroll
    for (int u = 0; u < Batch; ++u) use(loaded[u], i + u * step);
  }
  for (; i < n; i += step) use(load(i), i);
}

// Calls run(true or false, as a constant).
template <class Run>
void with_packing(bool packed, Run run) {
  packed ? run(std::true_type{}) : run(std::false_type{});
}

// A row belongs to one warp, eight to a block, or to a whole block.
constexpr int kRowThreads = 256;
template <int Threads>
constexpr int kRowsPerBlock = Threads == kWarp ? kRowThreads / kWarp : 1;

template <int Threads>
__device__ __forceinline__ int64_t row_of_thread() {
  return static_cast<int64_t>(blockIdx.x) * kRowsPerBlock<Threads> +
         (Threads == kWarp ? threadIdx.x / kWarp : 0);
}
template <int Threads>
__device__ __forceinline__ int thread_of_row() {
  return static_cast<int>(threadIdx.x % Threads);
}
template <int Threads>
__device__ __forceinline__ float row_sum(float x) {
  if constexpr (Threads == kWarp) {
    return warp_sum(x);
  } else {
    return block_sum<Threads>(x);
  }
}
template <int Threads>
__device__ __forceinline__ float row_max(float x) {
  if constexpr (Threads == kWarp) {
    return warp_max(x);
  } else {
    return block_max<Threads>(x);
  }
}
template <int Threads>
Launch over_rows(const char* name, int64_t rows, Device device) {
  return {name, static_cast<unsigned>(ceil_div(rows, kRowsPerBlock<Threads>)), kRowThreads, device};
}

// Sum of exp(x - max) over what a thread has seen, shifted by its maximum so far. Of exp only the
// error relative to the row's largest matters, and __expf keeps that below 2^-22.
struct ExpSum {
  float max = -INFINITY, sum = 0;

  template <int N>
  __device__ void add(const float (&x)[N]) {
    float top = max;
#pragma unroll
    for (int k = 0; k < N; ++k) top = fmaxf(top, x[k]);
    const float shift = top == -INFINITY ? 0 : top;  // hidden logits: exp(-inf - 0) = 0
    sum *= __expf(max - shift);
#pragma unroll
    for (int k = 0; k < N; ++k) sum += __expf(x[k] - shift);
    max = top;
  }
  // The whole row's; a row of -inf alone gives NaN, as it has no distribution.
  template <int Threads>
  __device__ ExpSum over_row() const {
    const float top = row_max<Threads>(max);
    return {top, row_sum<Threads>(sum * __expf(max - top))};
  }
};

}  // namespace parlo::cuda
