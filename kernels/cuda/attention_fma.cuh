// Tiles of the f32 attention kernels: plain FMA, no tf32, so that f32 agrees with the CPU. A block
// of 16 x 16 threads; thread (y, x) has rows y + 16 r of a product, and columns x + 16 c of scores
// or 4 x + 64 c .. + 3 of values. The rows of a half-warp are its own: what it writes to them in
// shared memory only it reads. DP is D rounded up; columns beyond D are zeros that the loads write.
#pragma once

#include "kernels/cuda/attention.cuh"

#include "kernels/cuda/ptx.cuh"

namespace parlo::cuda {

constexpr int kFmaSide = 16, kFmaThreads = kFmaSide * kFmaSide;

// Rows in shared memory are 4 floats longer, so that 16-byte reads of 8 rows meet every bank once.
template <int kColumns>
constexpr int kFmaRow = kColumns + 4;
// Rows of scores: the two rows that a warp writes at a time meet different banks.
template <int kColumns>
constexpr int kScoreRow = kColumns % 32 == 0 ? kColumns + 16 : kColumns;

// Rows [first, first + kRows) of a head by cp.async in the open group; zeros where valid(row) is
// false: what is hidden may hold anything.
template <int DP, int kRows, class Valid>
__device__ __forceinline__ void load_floats(float* tile, const TokenRows<const float>& x, int b,
                                            int head, int first, int d, Valid valid) {
  const auto load = [&]<int N>(std::integral_constant<int, N>) {
    constexpr int kPacks = DP / N, kStep = kFmaThreads / kPacks > 0 ? kFmaThreads / kPacks : 1;
    const int c = threadIdx.x % kPacks * N;
    const bool used = c < d;
#pragma unroll 1
    for (int r = threadIdx.x / kPacks; r < kRows; r += kStep) {
      const bool inside = used && valid(first + r);
      ptx::cp_async<N * 4>(tile + r * kFmaRow<DP> + c,
                           inside ? x.row(b, head, first + r) + c : x.part[0].data, inside);
    }
  };
  if (x.packed) {
    load(std::integral_constant<int, 4>{});
  } else {
    load(std::integral_constant<int, 1>{});
  }
}

// s[r][c] = row y + 16 r of a times row x + 16 c of b.
template <int DP, int kR, int kC>
__device__ __forceinline__ void dot_rows(float (&s)[kR][kC], const float* a, const float* b) {
  const int x = threadIdx.x % kFmaSide, y = threadIdx.x / kFmaSide;
#pragma unroll
  for (int r = 0; r < kR; ++r) {
#pragma unroll
    for (int c = 0; c < kC; ++c) s[r][c] = 0;
  }
#pragma unroll 4
  for (int k = 0; k < DP; k += 4) {
    Pack<float, 4> fa[kR], fb[kC];
#pragma unroll
    for (int r = 0; r < kR; ++r) fa[r] = load_pack<4>(a + (y + r * kFmaSide) * kFmaRow<DP> + k);
#pragma unroll
    for (int c = 0; c < kC; ++c) fb[c] = load_pack<4>(b + (x + c * kFmaSide) * kFmaRow<DP> + k);
#pragma unroll
    for (int r = 0; r < kR; ++r) {
#pragma unroll
      for (int c = 0; c < kC; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s[r][c] = fmaf(fa[r].v[i], fb[c].v[i], s[r][c]);
      }
    }
  }
}

// s into rows of p [.., kColumns], for add_rows of the same half-warp after a __syncwarp.
template <int kColumns, int kR, int kC>
__device__ __forceinline__ void put_scores(float* p, const float (&s)[kR][kC]) {
  const int x = threadIdx.x % kFmaSide, y = threadIdx.x / kFmaSide;
#pragma unroll
  for (int r = 0; r < kR; ++r) {
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      p[(y + r * kFmaSide) * kScoreRow<kColumns> + x + c * kFmaSide] = s[r][c];
    }
  }
}

// acc[r][c] += row y + 16 r of p [.., kColumns] times b [kColumns, DP], columns 4 x + 64 c .. + 3.
template <int DP, int kColumns, int kR>
__device__ __forceinline__ void add_rows(Pack<float, 4> (&acc)[kR][DP / 64], const float* p,
                                         const float* b) {
  const int x = threadIdx.x % kFmaSide, y = threadIdx.x / kFmaSide;
#pragma unroll 2
  for (int k = 0; k < kColumns; k += 4) {
    Pack<float, 4> fp[kR];
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      fp[r] = load_pack<4>(p + (y + r * kFmaSide) * kScoreRow<kColumns> + k);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int c = 0; c < DP / 64; ++c) {
        const auto fb = load_pack<4>(b + (k + i) * kFmaRow<DP> + x * 4 + c * 64);
#pragma unroll
        for (int r = 0; r < kR; ++r) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            acc[r][c].v[j] = fmaf(fp[r].v[i], fb.v[j], acc[r][c].v[j]);
          }
        }
      }
    }
  }
}

// acc[r] times factor[r], zeros where that is 0, to rows first + y + 16 r of a head, below `end`.
template <int DP, int kR>
__device__ __forceinline__ void store_floats(const Pack<float, 4> (&acc)[kR][DP / 64],
                                             const float (&factor)[kR], const TokenRows<float>& x,
                                             int b, int head, int first, int end, int d) {
#pragma unroll
  for (int r = 0; r < kR; ++r) {
    const int row = first + static_cast<int>(threadIdx.x) / kFmaSide + r * kFmaSide;
    if (row >= end) continue;
#pragma unroll
    for (int c = 0; c < DP / 64; ++c) {
      const int column = threadIdx.x % kFmaSide * 4 + c * 64;
      float* to = x.row(b, head, row) + column;
      Pack<float, 4> y = acc[r][c];
#pragma unroll
      for (int j = 0; j < 4; ++j) y.v[j] = factor[r] == 0 ? 0 : y.v[j] * factor[r];
      if (x.packed) {
        if (column < d) store_pack<4>(to, y);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (column + j < d) to[j] = y.v[j];
        }
      }
    }
  }
}

}  // namespace parlo::cuda
