// Tiles of the bf16 attention kernels: rows of DP values in shared memory, 16-byte chunks XOR-ed
// with the row so that ldmatrix and 16-byte accesses meet no bank twice, and the two products of a
// warp by mma.sync. DP is D rounded up; the columns beyond D are zeros that the loads write.
#pragma once

#include "kernels/cuda/attention.cuh"

#include "kernels/cuda/fragment.cuh"

namespace parlo::cuda {

constexpr int kMmaWarps = 4, kMmaThreads = kMmaWarps * kWarp;

// Byte of a 16-byte chunk in a tile.
template <int DP>
__device__ __forceinline__ int chunk_at(int row, int chunk) {
  return row * (DP * 2) + ((chunk ^ (row & 7)) << 4);
}

// Rows [first, first + kRows) of a head into a tile; zeros where valid(row) is false: what is
// hidden may hold anything. Packed rows come by cp.async, in the open group; others at once.
template <int DP, int kRows, class Valid>
__device__ __forceinline__ void load_tile(unsigned char* tile, const TokenRows<const bf16>& x,
                                          int b, int head, int first, int d, Valid valid) {
  constexpr int kChunks = DP / 8, kStep = kMmaThreads / kChunks;
  const int chunk = threadIdx.x % kChunks;
  const bool used = chunk * 8 < d;
  int row = threadIdx.x / kChunks;
#pragma unroll 1
  for (int part = first < x.split ? 0 : 1; row < kRows; ++part) {
    const int begin = part == 0 ? first : first - x.split;
    const int end = part == 0 ? min(x.split - first, kRows) : kRows;
    const HeadRows<const bf16>& rows = x.part[part];
    const bf16* src = rows.row(b, head, begin + row) + chunk * 8;
#pragma unroll 1  // copies wait for nothing; unrolled, they cost registers that the products need
    for (; row < end; row += kStep, src += kStep * rows.t) {
      const bool inside = used && valid(first + row);
      unsigned char* dst = tile + chunk_at<DP>(row, chunk);
      if (x.packed) {
        ptx::cp_async<16>(dst, inside ? src : rows.data, inside);
      } else {
        Pack<bf16, 8> values;
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          values.v[k] = inside && chunk * 8 + k < d ? src[k] : from_f32<bf16>(0);
        }
        store_pack<8>(reinterpret_cast<bf16*>(dst), values);
      }
    }
  }
}

// The same rows of two operands, one tile after the other.
template <int DP, int kRows, class Valid>
__device__ __forceinline__ void load_pair(unsigned char* tiles, const TokenRows<const bf16>& x,
                                          const TokenRows<const bf16>& y, int b, int head,
                                          int first, int d, Valid valid) {
  load_tile<DP, kRows>(tiles, x, b, head, first, d, valid);
  load_tile<DP, kRows>(tiles + kRows * DP * 2, y, b, head, first, d, valid);
}

// s[m][n] += rows [row + 16 m, ..) of tile a times rows [8 n, ..) of tile b, over all columns.
template <int DP, int kM, int kN>
__device__ __forceinline__ void multiply_rows(float (&s)[kM][kN][4], const unsigned char* a,
                                              int row, const unsigned char* b) {
  // Chunk 2 step of a row is chunk 0 with its address bits flipped: one register for all steps.
  const int lane = threadIdx.x % kWarp;
  const int a0 = chunk_at<DP>(row + lane % 16, lane / 16);
  const int b0 = chunk_at<DP>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
  for (int step = 0; step < DP / 16; ++step) {
    uint32_t fa[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      ptx::ldmatrix_x4(fa[m], a + (a0 ^ (step * 32)) + m * 16 * DP * 2);
    }
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      uint32_t fb[4];
      ptx::ldmatrix_x4(fb, b + (b0 ^ (step * 32)) + n * 8 * DP * 2);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        ptx::mma_bf16(s[m][n], fa[m], fb[0], fb[1]);
        ptx::mma_bf16(s[m][n + 1], fa[m], fb[2], fb[3]);
      }
    }
  }
}

// acc[m][n] += p[m], rounded to bf16, times the rows of tile b: its columns 8 (chunk + n), ..
template <int DP, int kM, int kP, int kN>
__device__ __forceinline__ void multiply_columns(float (&acc)[kM][kN][4],
                                                 const float (&p)[kM][kP][4],
                                                 const unsigned char* b, int chunk = 0) {
  const int lane = threadIdx.x % kWarp;
  const int b0 = chunk_at<DP>(lane % 16, chunk + lane / 16);
#pragma unroll
  for (int step = 0; step < kP / 2; ++step) {
    uint32_t fa[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      const auto &left = p[m][step * 2], &right = p[m][step * 2 + 1];
      fa[m][0] = pack_bf16(left[0], left[1]), fa[m][1] = pack_bf16(left[2], left[3]);
      fa[m][2] = pack_bf16(right[0], right[1]), fa[m][3] = pack_bf16(right[2], right[3]);
    }
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      uint32_t fb[4];
      ptx::ldmatrix_x4_trans(fb, b + (b0 ^ (n * 16)) + step * 16 * DP * 2);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        ptx::mma_bf16(acc[m][n], fa[m], fb[0], fb[1]);
        ptx::mma_bf16(acc[m][n + 1], fa[m], fb[2], fb[3]);
      }
    }
  }
}

// x becomes `value` where bit (column) of bits_of(row) is 0; the warp's rows start with `row`.
template <int kM, int kN, class Bits>
__device__ __forceinline__ void hide(float (&x)[kM][kN][4], int row, float value, Bits bits_of) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint64_t bits = bits_of(row + m * 16 + g + h * 8) >> (t * 2);
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        if (!(bits >> (n * 8) & 1)) x[m][n][h * 2] = value;
        if (!(bits >> (n * 8) & 2)) x[m][n][h * 2 + 1] = value;
      }
    }
  }
}

// acc, times a factor for rows 0 .. 7 and 8 .. 15 (zeros where that is 0), into 16 rows of a tile
// that this warp owns.
template <int DP, int kN>
__device__ __forceinline__ void put_rows(unsigned char* tile, int row, const float (&acc)[kN][4],
                                         float upper, float lower) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int n = 0; n < kN; ++n) {
    *reinterpret_cast<uint32_t*>(tile + chunk_at<DP>(row + g, n) + t * 4) =
        upper == 0 ? 0 : pack_bf16(acc[n][0] * upper, acc[n][1] * upper);
    *reinterpret_cast<uint32_t*>(tile + chunk_at<DP>(row + g + 8, n) + t * 4) =
        lower == 0 ? 0 : pack_bf16(acc[n][2] * lower, acc[n][3] * lower);
  }
}

// Rows [row, row + kRows) of a tile, put there by this warp, to rows first + row .. of a head,
// below `end`; the tile's columns are the head's from `column` on.
template <int DP, int kRows, int kColumns>
__device__ __forceinline__ void store_rows(const unsigned char* tile, int row,
                                           const TokenRows<bf16>& x, int b, int head, int first,
                                           int end, int d, int column = 0) {
  constexpr int kChunks = kColumns / 8;
  for (int i = threadIdx.x % kWarp; i < kRows * kChunks; i += kWarp) {
    const int r = row + i / kChunks, chunk = i % kChunks, c = column + chunk * 8;
    if (first + r >= end || c >= d) continue;
    const auto* src = reinterpret_cast<const bf16*>(tile + chunk_at<DP>(r, chunk));
    bf16* dst = x.row(b, head, first + r) + c;
    if (x.packed) {
      store_pack<8>(dst, load_pack<8>(src));
    } else {
      for (int k = 0; k < 8 && c + k < d; ++k) dst[k] = src[k];
    }
  }
}

}  // namespace parlo::cuda
