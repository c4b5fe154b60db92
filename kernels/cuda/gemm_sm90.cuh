// Pieces of gemm_sm90.cu: the tile, the walk over tiles, the ring of stages with its producer and
// its consumers. A thread has rows g and g + 8 of its warp's 16, and of every 8 columns a pair.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/matmul.h"

namespace parlo::cuda {

constexpr int kMostSegments = 8;  // of one launch: what fits into a kernel's 4 KiB of parameters

// How the right side lies: [N, K]; [K, N]; or [2 F, K], of which a tile has as many rows of the
// first half as of the second, so that a thread has both values of a column.
enum class RightSide { plain, turned, halves };

// Columns of sums.
template <int Columns, RightSide Right>
struct HopperGemmTile {
  static constexpr bool kWide = Columns > 128;
  // Two warpgroups multiply, then comes the warp that loads; a whole warpgroup where it must give
  // registers to the others.
  static constexpr int kGroup = 128, kThreads = 2 * kGroup + (kWide ? kGroup : kWarp);
  static constexpr bool kTurned = Right == RightSide::turned, kGlu = Right == RightSide::halves;
  static constexpr int kRows = 128, kColumns = kGlu ? Columns / 2 : Columns;  // of y
  static constexpr int kDepth = 64, kSums = Columns / 2;                      // a thread
  // Rows of 128 bytes, as TMA swizzles them: K of the left side; K of the right side as well or,
  // turned, parts of 64 columns. A box of halves brings both.
  static constexpr int kLeft = kRows * 128, kPart = kDepth * 128, kRight = Columns * 128;
  static constexpr int kStage = kLeft + kRight;
  // Two blocks of narrow tiles share a multiprocessor: one's way out runs under the other's
  // products.
  static constexpr int kBlocks = kWide ? 1 : 2, kStages = kWide ? 4 : 3;
  static constexpr int kShared = kStages * kStage + 1024;  // and to align
};

// Rows [first, end) with a low-rank term.
struct HopperSegment {
  int first, end, rank;
  float scale;
  __device__ __forceinline__ bool meets(int row) const { return first < row + 128 && row < end; }
};

struct HopperGemmMaps {
  TensorMap x, w, down[kMostSegments], up[kMostSegments];
};
struct HopperGemmOperands {
  int rows, columns, depth;
  int row_tiles, column_tiles;
  Activation activation;
  bf16* y;
  const bf16* bias;  // or null, like the next two
  const bf16* residual;
  bf16* pre;
  const bf16* gate;  // or null; row i has the gate (gate_first + i) / gate_rows
  int64_t gate_stride;
  int gate_rows, gate_first;
  int segments;
  HopperSegment segment[kMostSegments];
  HopperGemmMaps maps;
};

template <class Tile>
struct HopperGemmBarriers {
  uint64_t full[Tile::kStages], empty[Tile::kStages];
};

// Where in the ring a side is, and the parity of its round.
template <class Tile>
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage < Tile::kStages) return;
    stage = 0, parity ^= 1;
  }
};

// First row and column of a tile. Tiles that run at a time form a patch of kTall rows of tiles, so
// that both operands stay in the L2.
struct TileCorner {
  int row, column;
};
template <class Tile>
__device__ __forceinline__ TileCorner tile_corner(const HopperGemmOperands& f, int64_t tile) {
  constexpr int kTall = 16;
  const int64_t patch = int64_t{kTall} * f.column_tiles;
  const int top = static_cast<int>(tile / patch) * kTall, tall = min(kTall, f.row_tiles - top);
  const int within = static_cast<int>(tile % patch);
  return {(top + within % tall) * Tile::kRows, within / tall * Tile::kColumns};
}

// The producer: stages of every tile of this block, as the consumers free their places.
template <class Tile>
__device__ __forceinline__ void feed(unsigned char* ring, HopperGemmBarriers<Tile>& bars,
                                     const HopperGemmOperands& f) {
  RingPlace<Tile> at;
  const auto load = [&](const TensorMap* left, const TensorMap* right, int k, int row, int column) {
    uint64_t* const full = &bars.full[at.stage];
    unsigned char* const to = ring + at.stage * Tile::kStage;
    ptx::mbar_wait(&bars.empty[at.stage], at.parity ^ 1);
    ptx::mbar_arrive_expect_tx(full, Tile::kStage);
    ptx::tma_load(to, left, full, k, row, 0, 0);
    if constexpr (Tile::kTurned) {
#pragma unroll
      for (int i = 0; i < Tile::kColumns / 64; ++i) {
        ptx::tma_load(to + Tile::kLeft + i * Tile::kPart, right, full, column + i * 64, k, 0, 0);
      }
    } else {
      ptx::tma_load(to + Tile::kLeft, right, full, k, column, 0, 0);
    }
    at.advance();
  };
  const int64_t tiles = int64_t{f.row_tiles} * f.column_tiles;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const TileCorner c = tile_corner<Tile>(f, tile);
    for (int s = 0; s < f.segments; ++s) {
      if (!f.segment[s].meets(c.row)) continue;
      for (int k = 0; k < f.segment[s].rank; k += Tile::kDepth) {
        load(&f.maps.down[s], &f.maps.up[s], k, c.row - f.segment[s].first, c.column);
      }
    }
    for (int k = 0; k < f.depth; k += Tile::kDepth) load(&f.maps.x, &f.maps.w, k, c.row, c.column);
  }
}

// d += 64 rows of the left side of a stage times its right side, 16 of K.
template <class Tile>
__device__ __forceinline__ void multiply(float (&d)[Tile::kSums], uint32_t stage, int group,
                                         int step) {
  const uint32_t left = stage + group * (64 * 128), right = stage + Tile::kLeft;
  const uint64_t b = Tile::kTurned ? ptx::descriptor(right + step * (16 * 128), Tile::kPart, 1024)
                                   : ptx::descriptor(right + step * 32, 16, 1024);
  ptx::wgmma<Tile::kTurned>(d, ptx::descriptor(left + step * 32, 16, 1024), b, true);
}

// The sums of a thread's two rows times their segments' scales; rows without a segment start at 0.
template <int N>
__device__ __forceinline__ void scale_low_rank(float (&d)[N], const HopperGemmOperands& f,
                                               int row) {
  float scale[2] = {0, 0};
  for (int s = 0; s < f.segments; ++s) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int r = row + h * 8;
      if (f.segment[s].first <= r && r < f.segment[s].end) scale[h] = f.segment[s].scale;
    }
  }
#pragma unroll
  for (int i = 0; i < N; ++i) d[i] = scale[i / 2 % 2] == 0 ? 0 : d[i] * scale[i / 2 % 2];
}

// One consumer: the sums of its 64 rows of a tile.
template <class Tile>
__device__ __forceinline__ void consume(float (&d)[Tile::kSums], RingPlace<Tile>& at, uint32_t ring,
                                        HopperGemmBarriers<Tile>& bars, const HopperGemmOperands& f,
                                        int row, int group) {
  const int lane = threadIdx.x % kWarp;
  const auto release = [&](int stage) {
    if (lane == 0) ptx::mbar_arrive(&bars.empty[stage]);
  };
#pragma unroll
  for (int i = 0; i < Tile::kSums; ++i) d[i] = 0;
  bool low_rank = false;
  for (int s = 0; s < f.segments; ++s) {
    if (!f.segment[s].meets(row)) continue;
    low_rank = true;
    for (int k = 0; k < f.segment[s].rank; k += Tile::kDepth) {
      const int steps = min(4, (f.segment[s].rank - k + 15) / 16);
      ptx::mbar_wait(&bars.full[at.stage], at.parity);
#pragma unroll 1
      for (int i = 0; i < steps; ++i) {
        ptx::wgmma_fence();
        multiply<Tile>(d, ring + at.stage * Tile::kStage, group, i);
        ptx::wgmma_commit();
        ptx::wgmma_wait<0>();
      }
      release(at.stage);
      at.advance();
    }
  }
  if (low_rank) scale_low_rank(d, f, row + group * 64 + threadIdx.x / kWarp % 4 * 16 + lane / 4);
  const auto start = [&] {  // the products of a whole stage; returns it
    ptx::mbar_wait(&bars.full[at.stage], at.parity);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) multiply<Tile>(d, ring + at.stage * Tile::kStage, group, i);
    ptx::wgmma_commit();
    const int stage = at.stage;
    at.advance();
    return stage;
  };
  int before = start();
  for (int k = Tile::kDepth; k < f.depth; k += Tile::kDepth) {
    const int now = start();
    ptx::wgmma_wait<1>();  // the stage before, while this one goes on
    release(before);
    before = now;
  }
  ptx::wgmma_wait<0>();
  release(before);
}

}  // namespace parlo::cuda
