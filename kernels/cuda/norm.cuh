// What kernels over rows with parameters per column share: rows in registers, parameters and their
// gradients in f32 or bf16, blocks of rows inside one group, sums over those blocks in order.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/map.cuh"

namespace parlo::cuda {

// N values as floats, 16 bytes an access where N allows.
template <int N, class T>
__device__ __forceinline__ void load_floats(const T* p, float (&v)[N]) {
  constexpr int kAccess = N < kPack<T> ? N : kPack<T>;
#pragma unroll
  for (int i = 0; i < N; i += kAccess) {
    const Pack<T, kAccess> x = load_pack<kAccess>(p + i);
#pragma unroll
    for (int j = 0; j < kAccess; ++j) v[i + j] = to_f32(x.v[j]);
  }
}

template <int N>
__device__ __forceinline__ void store_floats(float* p, const float (&v)[N]) {
  constexpr int kAccess = N < kPack<float> ? N : kPack<float>;
#pragma unroll
  for (int i = 0; i < N; i += kAccess) {
    Pack<float, kAccess> x;
#pragma unroll
    for (int j = 0; j < kAccess; ++j) x.v[j] = v[i + j];
    store_pack<kAccess>(p + i, x);
  }
}

// N values of T in registers, as floats by at(). Eight of bf16 stay four words: split, each would
// have a register of its own, for half of the bytes in flight.
template <class T, int N>
struct RowPack {
  T v[N];
  __device__ __forceinline__ float at(int j) const { return to_f32(v[j]); }
};
template <>
struct [[gnu::may_alias]] alignas(16) RowPack<bf16, 8> {
  uint32_t words[4];
  __device__ __forceinline__ float at(int j) const {
    return __uint_as_float(j % 2 ? words[j / 2] & 0xffff0000u : words[j / 2] << 16);
  }
};
template <>
struct alignas(16) RowPack<float, 4> {
  float v[4];
  __device__ __forceinline__ float at(int j) const { return v[j]; }
};

template <int N, class T>
__device__ __forceinline__ RowPack<T, N> load_row_pack(const T* p) {
  return *reinterpret_cast<const RowPack<T, N>*>(p);
}

// --- parameters ---

// Values per column, [C] or a row for each group [G, C], in T or f32; null where there are none.
// The dtype is looked at in the kernel: one branch, the same for all threads, saves kernels for all
// combinations.
template <class T>
struct Parameter {
  const void* data = nullptr;
  int64_t stride = 0;  // between groups
  bool is_f32 = false;

  Parameter() = default;
  explicit Parameter(const Tensor& t) {
    if (!t) return;
    is_f32 = t.dtype() == DType::f32;
    data = is_f32 ? static_cast<const void*>(pointer<float>(t)) : pointer<T>(t);
    stride = t.rank() == 2 && t.dim(0) > 1 ? t.strides()[0] : 0;
  }

  bool packed() const {
    const int64_t size = is_f32 ? sizeof(float) : sizeof(T);
    return is_aligned(data) && stride * size % 16 == 0;
  }

  template <int N>
  __device__ __forceinline__ void load(int64_t group, int64_t column, float (&v)[N]) const {
    const int64_t at = group * stride + column;
    if (std::is_same_v<T, float> || is_f32) {
      load_floats(static_cast<const float*>(data) + at, v);
    } else {
      load_floats(static_cast<const T*>(data) + at, v);
    }
  }
  __device__ __forceinline__ float at(int64_t group, int64_t column) const {
    float v[1];
    load(group, column, v);
    return v[0];
  }
};

// A gradient of a parameter, contiguous; null where it is not asked for.
struct ParameterGrad {
  void* data = nullptr;
  bool is_f32 = false;

  ParameterGrad() = default;
  explicit ParameterGrad(const Tensor& t) {
    if (!t) return;
    is_f32 = t.dtype() == DType::f32;
    data = is_f32 ? static_cast<void*>(pointer<float>(t)) : pointer<bf16>(t);
  }

  __device__ __forceinline__ void store(int64_t i, float value) const {
    if (!data) return;
    if (is_f32) {
      static_cast<float*>(data)[i] = value;
    } else {
      static_cast<bf16*>(data)[i] = from_f32<bf16>(value);
    }
  }
};

// --- rows ---

// Blocks of at most `rows` rows inside one group. The split depends on the shape of a group alone:
// sums over it have the same bits in any batch.
struct RowBlocks {
  int64_t group_rows, rows, per_group, count;

  RowBlocks(int64_t groups, int64_t group_rows, int64_t rows)
      : group_rows(group_rows),
        rows(std::min(rows, group_rows)),
        per_group(ceil_div(group_rows, this->rows)),
        count(groups * per_group) {}

  struct Span {
    int64_t group, first, last;
  };
  __device__ __forceinline__ Span at(unsigned block) const {
    const unsigned group = block / static_cast<unsigned>(per_group);
    const int64_t first = group * group_rows + (block - group * per_group) * rows;
    const int64_t end = (group + 1) * group_rows;
    return {group, first, first + rows < end ? first + rows : end};
  }
};

// How a team of kTeam threads, part of a warp or a whole block, holds a row: thread t has the
// columns ((k * kTeam) + t) * kN .. + kN for k < kPacks. A row that does not fit (kWhole = false)
// passes through the registers in spans, once for every sum.
template <class T, int N, int Team, int Packs, bool Whole = true>
struct RowShape {
  using Type = T;
  static constexpr int kN = N, kTeam = Team, kPacks = Packs;
  static constexpr bool kWhole = Whole;
  static constexpr int kSpan = N * Team * Packs;
  static constexpr int kThreads = Team < 128 ? 128 : Team;
  static constexpr int kTeams = kThreads / Team;
  using Row = RowPack<T, N>[Packs];
};

// fn(k, column) for the packs of this thread in the span from column `start`.
template <class S, class Fn>
__device__ __forceinline__ void for_packs(int start, int columns, Fn&& fn) {
#pragma unroll
  for (int k = 0; k < S::kPacks; ++k) {
    const int column = start + (k * S::kTeam + static_cast<int>(threadIdx.x) % S::kTeam) * S::kN;
    if (column < columns) fn(k, column);
  }
}

template <class S>
__device__ __forceinline__ void load_span(typename S::Row& row, const typename S::Type* from,
                                          int start, int columns) {
  using P = RowPack<typename S::Type, S::kN>;
  for_packs<S>(start, columns,
               [&](int k, int column) { row[k] = *reinterpret_cast<const P*>(from + column); });
}

// fn(k, column) for all packs of this thread; load(start) brings a span unless the whole row is
// there.
template <class S, class Load, class Fn>
__device__ __forceinline__ void for_row(int columns, Load&& load, Fn&& fn) {
  if constexpr (S::kWhole) {
    for_packs<S>(0, columns, fn);
  } else {
    for (int start = 0; start < columns; start += S::kSpan) {
      load(start);
      for_packs<S>(start, columns, fn);
    }
  }
}

// Sum over a team, the same in each of its threads; every thread of the block calls it.
template <class S>
__device__ __forceinline__ float team_sum(float x) {
  if constexpr (S::kTeam > kWarp) {
    return block_sum<S::kTeam>(x);
  } else {
#pragma unroll
    for (int o = S::kTeam / 2; o > 0; o /= 2) x += __shfl_xor_sync(kAllLanes, x, o);
    return x;
  }
}

// Both sums at once: half of the barriers.
template <class S>
__device__ __forceinline__ void team_sums(float& a, float& b) {
  if constexpr (S::kTeam > kWarp) {
    constexpr int kWarps = S::kTeam / kWarp;
    SMEM(float, partial, [2][kWarps]);
    a = warp_sum(a), b = warp_sum(b);
    __syncthreads();  // an earlier call's sums were read
    if (threadIdx.x % kWarp == 0) {
      partial[0][threadIdx.x / kWarp] = a;
      partial[1][threadIdx.x / kWarp] = b;
    }
    __syncthreads();
    a = b = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) a += partial[0][w], b += partial[1][w];
  } else {
    a = team_sum<S>(a), b = team_sum<S>(b);
  }
}

// Calls fn with the first shape that holds a row of that many columns; the last one holds any, and
// alone needs no alignment.
template <class First, class... Rest, class Fn>
void visit_row_shape(int64_t columns, bool packed, Fn&& fn) {
  if constexpr (sizeof...(Rest) > 0) {
    if (!packed || First::kSpan < columns)
      return visit_row_shape<Rest...>(columns, packed, std::forward<Fn>(fn));
  }
  fn(First{});
}

// --- sums over blocks of rows ---

// P = sum dy xhat and Q = sum dy per column of each block of rows, [count, C] f32 or null, become
// gradients (null ones are skipped) as kernels/cpu/norm.cpp explains:
//   dscale = weight P + bias Q, dshift = Q, dweight = sum (1 + scale) P, dbias = sum (1 + scale) Q
struct ColumnSums {
  const float *P = nullptr, *Q = nullptr;
  int64_t per_group = 1, groups = 1;
  int columns = 0;
  Parameter<bf16> weight, bias, scale;  // bf16 or f32
  ParameterGrad dweight, dbias, dscale, dshift;
};
void combine(const char* name, const ColumnSums& sums, Device device);

}  // namespace parlo::cuda
