// The way out of gemm_sm90.cu's accumulators, which lie as in gemm_sm90.cuh: bias, pre-activation,
// activation, gate, residual, y; or of two halves y = activation(one) * the other. Lanes exchange
// words so that memory sees 16 bytes an access.
#pragma once

#include "kernels/cuda/activate_all.cuh"
#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/gemm_sm90.cuh"

namespace parlo::cuda {

// Lane t of four has words t of four chunks, and then the four words of chunk t; or back.
__device__ __forceinline__ void transpose_quad(uint32_t (&v)[4]) {
#pragma unroll
  for (int bit = 1; bit < 4; bit *= 2) {
    const bool upper = threadIdx.x & bit;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & bit) continue;
      const uint32_t got = __shfl_xor_sync(kAllLanes, upper ? v[i] : v[i | bit], bit);
      upper ? v[i] = got : v[i | bit] = got;
    }
  }
}

// 64 bytes of each of a warp's 16 rows at a time, 16 a lane: fn(row and column of the lane's eight
// values, inside the matrix?, first of the quad's accumulators there).
template <int N, class Fn>
__device__ __forceinline__ void each_chunk(const HopperGemmOperands& f, TileCorner at, Fn&& fn) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = at.row + lane / 4 + h * 8;
#pragma unroll
    for (int j = 0; j < N / 16; ++j) {
      const int column = at.column + j * 32 + lane % 4 * 8;
      fn(row, column, row < f.rows && column < f.columns, j * 16 + h * 2);
    }
  }
}

template <int N>
__device__ __forceinline__ void store_sums(const float (&d)[N], const HopperGemmOperands& f,
                                           TileCorner at, bf16* to, int64_t stride) {
  each_chunk<N>(f, at, [&](int row, int column, bool inside, int first) {
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = pack_bf16(d[first + i * 4], d[first + i * 4 + 1]);
    transpose_quad(v);
    bf16* const p = to + row * stride + column;
    if (inside) store_pack<4>(reinterpret_cast<uint32_t*>(p), {v[0], v[1], v[2], v[3]});
  });
}

// By pairs and with a branch each: 16 bytes an access would need the registers of some sums.
template <int N>
__device__ __forceinline__ void multiply_gate(float (&d)[N], const HopperGemmOperands& f,
                                              TileCorner at) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = min(at.row + lane / 4 + h * 8, f.rows - 1);
    const bf16* const gate = f.gate + (f.gate_first + row) / f.gate_rows * f.gate_stride;
#pragma unroll
    for (int j = 0; j < N / 4; ++j) {
      const int column = at.column + j * 8 + lane % 4 * 2;
      if (column >= f.columns) break;
      const uint32_t word = *reinterpret_cast<const uint32_t*>(gate + column);
      d[j * 4 + h * 2] *= low_f32(word);
      d[j * 4 + h * 2 + 1] *= high_f32(word);
    }
  }
}

template <int N>
__device__ __forceinline__ void add_residual(float (&d)[N], const HopperGemmOperands& f,
                                             TileCorner at) {
  each_chunk<N>(f, at, [&](int row, int column, bool inside, int first) {
    Words x = load_words(f.residual + int64_t{row} * f.columns + column, inside);
    transpose_quad(x.v);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      d[first + i * 4] += low_f32(x.v[i]);
      d[first + i * 4 + 1] += high_f32(x.v[i]);
    }
  });
}

template <int N>
__device__ __forceinline__ void add_bias(float (&d)[N], const HopperGemmOperands& f, TileCorner at,
                                         const bf16* bias) {
#pragma unroll
  for (int j = 0; j < N / 4; ++j) {
    const int column = at.column + j * 8 + static_cast<int>(threadIdx.x) % 4 * 2;
    const bool inside = column < f.columns;
    const uint32_t b = inside ? *reinterpret_cast<const uint32_t*>(bias + column) : 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      d[j * 4 + h * 2] += low_f32(b);
      d[j * 4 + h * 2 + 1] += high_f32(b);
    }
  }
}

template <int I, int N>
__device__ __forceinline__ auto half_of(float (&d)[N]) -> float (&)[N / 2] {
  return *reinterpret_cast<float(*)[N / 2]>(d + I * (N / 2));
}

template <int N>
__device__ __forceinline__ void finish_halves(float (&d)[N], const HopperGemmOperands& f,
                                              TileCorner at) {
  float(&a)[N / 2] = half_of<0>(d), (&b)[N / 2] = half_of<1>(d);
  if (f.bias != nullptr) add_bias(a, f, at, f.bias), add_bias(b, f, at, f.bias + f.columns);
  if (f.pre != nullptr) {
    store_sums(a, f, at, f.pre, 2 * int64_t{f.columns});
    store_sums(b, f, at, f.pre + f.columns, 2 * int64_t{f.columns});
  }
  activate_all(f.activation, a);
#pragma unroll
  for (int i = 0; i < N / 2; ++i) a[i] *= b[i];
  store_sums(a, f, at, f.y, f.columns);
}

// From the sums to y; at: the corner of the warp's 16 rows.
template <class Tile>
__device__ __forceinline__ void finish_tile(float (&d)[Tile::kSums], const HopperGemmOperands& f,
                                            TileCorner at) {
  if constexpr (Tile::kGlu) {
    finish_halves(d, f, at);
  } else {
    if (f.bias != nullptr) add_bias(d, f, at, f.bias);
    if (f.pre != nullptr) store_sums(d, f, at, f.pre, f.columns);
    activate_all(f.activation, d);
    if (f.gate != nullptr) multiply_gate(d, f, at);
    if (f.residual != nullptr) add_residual(d, f, at);
    store_sums(d, f, at, f.y, f.columns);
  }
}

}  // namespace parlo::cuda
