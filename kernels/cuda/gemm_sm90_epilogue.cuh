// The way out of gemm_sm90.cu's accumulators, which lie as in gemm_sm90.cuh: bias, pre-activation,
// activation, residual, y. Lanes exchange words so that memory sees 16 bytes an access.
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

// 64 bytes of each of a warp's 16 rows at a time, 16 a lane: fn(words of the quad's four chunks,
// offset of the lane's 16 bytes, inside the matrix?, first accumulator).
template <int N, class Fn>
__device__ __forceinline__ void each_chunk(const HopperGemmOperands& f, TileCorner at, Fn&& fn) {
  const int lane = threadIdx.x % kWarp, column = at.column + lane % 4 * 8;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = at.row + lane / 4 + h * 8;
    const int64_t offset = static_cast<int64_t>(row) * f.columns + column;
#pragma unroll
    for (int j = 0; j < N / 16; ++j) {
      fn(offset + j * 32, row < f.rows && column + j * 32 < f.columns, j * 16 + h * 2);
    }
  }
}

template <int N>
__device__ __forceinline__ void store_sums(const float (&d)[N], const HopperGemmOperands& f,
                                           TileCorner at, bf16* to) {
  each_chunk<N>(f, at, [&](int64_t offset, bool inside, int first) {
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = pack_bf16(d[first + i * 4], d[first + i * 4 + 1]);
    transpose_quad(v);
    if (inside) store_pack<4>(reinterpret_cast<uint32_t*>(to + offset), {v[0], v[1], v[2], v[3]});
  });
}

template <int N>
__device__ __forceinline__ void add_residual(float (&d)[N], const HopperGemmOperands& f,
                                             TileCorner at) {
  each_chunk<N>(f, at, [&](int64_t offset, bool inside, int first) {
    Words x = load_words(f.residual + offset, inside);
    transpose_quad(x.v);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      d[first + i * 4] += low_f32(x.v[i]);
      d[first + i * 4 + 1] += high_f32(x.v[i]);
    }
  });
}

template <int N>
__device__ __forceinline__ void add_bias(float (&d)[N], const HopperGemmOperands& f,
                                         TileCorner at) {
  const int column = at.column + threadIdx.x % 4 * 2;
#pragma unroll
  for (int j = 0; j < N / 4; ++j) {
    if (column + j * 8 >= f.columns) break;
    const uint32_t b = *reinterpret_cast<const uint32_t*>(f.bias + column + j * 8);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      d[j * 4 + h * 2] += low_f32(b);
      d[j * 4 + h * 2 + 1] += high_f32(b);
    }
  }
}

// From the sums to y; at: the corner of the warp's 16 rows.
template <int N>
__device__ __forceinline__ void finish_tile(float (&d)[N], const HopperGemmOperands& f,
                                            TileCorner at) {
  if (f.bias != nullptr) add_bias(d, f, at);
  if (f.pre != nullptr) store_sums(d, f, at, f.pre);
  activate_all(f.activation, d);
  if (f.residual != nullptr) add_residual(d, f, at);
  store_sums(d, f, at, f.y);
}

}  // namespace parlo::cuda
