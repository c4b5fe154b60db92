// The tile of a block of conv_gemm.cu: rows of 64 bytes of K in shared memory, 16-byte chunks
// XOR-ed with the row, and its products: bf16 by mma.sync, f32 by FMAs.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/ptx.cuh"

namespace parlo::cuda {

constexpr int kConvThreads = 256, kConvPositions = 128;
constexpr int kConvRowBytes = 64, kConvChunks = kConvRowBytes / 16;  // of a tile's row, in a stage
constexpr int kConvSumRow = kConvPositions + 8;  // floats: rows end up in other banks

// Byte of a 16-byte chunk in a tile: 8 rows below each other meet every bank once.
__device__ __forceinline__ int conv_chunk(int row, int chunk) {
  return row * kConvRowBytes + ((chunk ^ (row >> 1 & 3)) << 4);
}

// The products of a stage. Warps share the tile: at kM = 128 two rows of four warps.
template <int kM, class T>
struct ConvTile;

template <int kM>
struct ConvTile<kM, bf16> {
  static constexpr int kDown = kM == 128 ? 2 : 1, kAcross = 8 / kDown;
  static constexpr int kRows = kM / kDown, kColumns = kConvPositions / kAcross;
  float acc[kRows / 16][kColumns / 8][4] = {};

  static __device__ __forceinline__ int row() {
    return static_cast<int>(threadIdx.x) / kWarp / kAcross * kRows;
  }
  static __device__ __forceinline__ int column() {
    return static_cast<int>(threadIdx.x) / kWarp % kAcross * kColumns;
  }

  __device__ __forceinline__ void multiply(const unsigned char* stage) {
    const int lane = threadIdx.x % kWarp;
    const int a0 = conv_chunk(row() + lane % 16, lane / 16);
    const int b0 = conv_chunk(column() + lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
    for (int step = 0; step < kConvChunks / 2; ++step) {
      uint32_t fa[kRows / 16][4];
#pragma unroll
      for (int m = 0; m < kRows / 16; ++m) {
        ptx::ldmatrix_x4(fa[m], stage + (a0 ^ (step * 32)) + m * 16 * kConvRowBytes);
      }
#pragma unroll
      for (int n = 0; n < kColumns / 8; n += 2) {
        uint32_t fb[4];
        ptx::ldmatrix_x4(fb,
                         stage + kM * kConvRowBytes + (b0 ^ (step * 32)) + n * 8 * kConvRowBytes);
#pragma unroll
        for (int m = 0; m < kRows / 16; ++m) {
          ptx::mma_bf16(acc[m][n], fa[m], fb[0], fb[1]);
          ptx::mma_bf16(acc[m][n + 1], fa[m], fb[2], fb[3]);
        }
      }
    }
  }

  __device__ __forceinline__ void put(float* tile) const {
    const int lane = threadIdx.x % kWarp;
    float* at = tile + (row() + lane / 4) * kConvSumRow + column() + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) {
#pragma unroll
      for (int n = 0; n < kColumns / 8; ++n) {
        const auto& d = acc[m][n];
        store_pack<2>(at + m * 16 * kConvSumRow + n * 8, Pack<float, 2>{{d[0], d[1]}});
        store_pack<2>(at + (m * 16 + 8) * kConvSumRow + n * 8, Pack<float, 2>{{d[2], d[3]}});
      }
    }
  }
};

// A thread has every 16th row and column.
template <int kM>
struct ConvTile<kM, float> {
  static constexpr int kRows = kM / 16, kColumns = kConvPositions / 16;
  float acc[kRows][kColumns] = {};

  __device__ __forceinline__ void multiply(const unsigned char* stage) {
    const int row = threadIdx.x / 16, column = threadIdx.x % 16;
#pragma unroll
    for (int chunk = 0; chunk < kConvChunks; ++chunk) {
      Pack<float, 4> a[kRows];
#pragma unroll
      for (int i = 0; i < kRows; ++i) a[i] = chunk_of(stage, row + i * 16, chunk);
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const auto b = chunk_of(stage + kM * kConvRowBytes, column + j * 16, chunk);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
#pragma unroll
          for (int k = 0; k < 4; ++k) acc[i][j] = fmaf(a[i].v[k], b.v[k], acc[i][j]);
        }
      }
    }
  }

  __device__ __forceinline__ void put(float* tile) const {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        tile[(threadIdx.x / 16 + i * 16) * kConvSumRow + threadIdx.x % 16 + j * 16] = acc[i][j];
      }
    }
  }

 private:
  static __device__ __forceinline__ Pack<float, 4> chunk_of(const unsigned char* tile, int row,
                                                            int chunk) {
    return load_pack<4>(reinterpret_cast<const float*>(tile + conv_chunk(row, chunk)));
  }
};

}  // namespace parlo::cuda
