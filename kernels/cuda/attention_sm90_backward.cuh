// Pieces of attention_sm90_backward.cu: tiles in shared memory, the producer, and what turns scores
// into their gradients in a warpgroup's accumulators. A thread has rows g and g + 8 of its warp's
// 16 rows, and in them the columns 8 n + 2 t and the next.
#pragma once

#include "kernels/cuda/attention_sm90.cuh"

namespace parlo::cuda {

// Rows are keys (kKeys: of K and V) or queries (of Q and dOut); the other side passes by in stages.
template <int D, bool kKeys>
struct HopperBackwardTile {
  static constexpr int kGroup = 128, kThreads = 3 * kGroup, kRows = 128;
  // Two sums of D = 128 leave registers for half as many columns.
  static constexpr int kOther = kKeys && D == 128 ? 64 : 128;
  static constexpr int kStages = kOther == 128 && D == 128 ? 2 : 4;
  static constexpr int kRowBytes = kRows * D * 2, kOtherBytes = kOther * D * 2;
  static constexpr int kFloats = kKeys ? 2 * kOther : 0;  // lse2, then delta, of a stage's queries
  static constexpr int kStageBytes = 2 * kOtherBytes;
  static constexpr int kStatistics = 2 * kRowBytes + kStages * kStageBytes;   // where they start
  static constexpr int kShared = kStatistics + kStages * kFloats * 4 + 1024;  // and to align
};

template <int D, bool kKeys>
struct BackwardBarriers {
  static constexpr int kStages = HopperBackwardTile<D, kKeys>::kStages;
  uint64_t rows, full[kStages], empty[kStages];
};

struct BackwardMaps {
  TensorMapPair rows[2], other[2];
};

// lse2, then delta, of N queries of a head from `from` on; zeros at and beyond `end`.
template <int N>
__device__ __forceinline__ void copy_statistics(float* to, const AttentionBackwardOperands<bf16>& f,
                                                int b, int head, int from, int end) {
  const int64_t at = (int64_t{b} * f.s.heads + head) * f.s.tq;
#pragma unroll
  for (int k = 0; k < 2 * N / kWarp; ++k) {
    const int c = k * kWarp + static_cast<int>(threadIdx.x) % kWarp, i = from + c % N;
    to[c] = i < end ? (c < N ? f.lse2 : f.delta)[at + i] : 0;
  }
}

// The tiles on both sides of a pass, and which of the rows' a block owns.
template <int D, bool kKeys>
struct BackwardTiles {
  TokenTiles<HopperBackwardTile<D, kKeys>::kRows> rows;
  TokenTiles<HopperBackwardTile<D, kKeys>::kOther> other;
  int mine;

  __host__ __device__ static BackwardTiles of(const AttentionBackwardOperands<bf16>& f) {
    using Tile = HopperBackwardTile<D, kKeys>;
    const auto &rows = kKeys ? f.k : f.q, &other = kKeys ? f.q : f.k;
    return {TokenTiles<Tile::kRows>::of(rows, kKeys ? f.s.tk : f.s.tq),
            TokenTiles<Tile::kOther>::of(other, kKeys ? f.s.tq : f.s.tk), 0};
  }
};

// The producer, a warp: the block's own rows, then the stages as the consumers free them.
template <int D, bool kKeys>
__device__ __forceinline__ void feed_backward(
    unsigned char* shared, BackwardBarriers<D, kKeys>& bars,
    const AttentionBackwardOperands<bf16>& f, const BackwardMaps& maps,
    const BackwardTiles<D, kKeys>& tiles, const AttentionWalk& walk, const AttentionBlock& block) {
  using Tile = HopperBackwardTile<D, kKeys>;
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int i = 0; i < 2 && lane == 0; ++i) {
    load_parts<D>(shared + i * Tile::kRowBytes, maps.rows[i].of(tiles.rows.part(tiles.mine)),
                  &bars.rows, tiles.rows.row(tiles.mine), block.head, block.b);
  }
  for (int step = 0, tile = 0, head = kKeys ? walk.head : walk.kv_head;
       step < walk.heads * walk.tiles; ++step) {
    const int place = step % Tile::kStages, parity = (step / Tile::kStages & 1) ^ 1;
    const int at = walk.skip + tile;
    ptx::mbar_wait(&bars.empty[place], parity);
    unsigned char* stage = shared + 2 * Tile::kRowBytes + place * Tile::kStageBytes;
#pragma unroll
    for (int i = 0; i < 2 && lane == 0; ++i) {
      load_parts<D, Tile::kOther>(stage + i * Tile::kOtherBytes,
                                  maps.other[i].of(tiles.other.part(at)), &bars.full[place],
                                  tiles.other.row(at), head, block.b);
    }
    if constexpr (kKeys) {
      float* to = reinterpret_cast<float*>(shared + Tile::kStatistics) + place * Tile::kFloats;
      copy_statistics<Tile::kOther>(to, f, block.b, head, tiles.other.first(at),
                                    tiles.other.end(at));
    }
    __syncwarp();
    if (kKeys && lane == 0) ptx::mbar_arrive(&bars.full[place]);
    if (++tile == walk.tiles) tile = 0, ++head;
  }
}

// Calls fn(i, statistic of its query) for each score of a thread: statistics of its two rows, or of
// the tile's columns.
template <bool kKeys, int N, class Fn>
__device__ __forceinline__ void with_statistics(const float (&rows)[2], const float* columns,
                                                Fn fn) {
#pragma unroll
  for (int n = 0; n < N / 4; ++n) {
    Pack<float, 2> column{};
    if constexpr (kKeys) column = load_pack<2>(columns + n * 8 + threadIdx.x % 4 * 2);
#pragma unroll
    for (int i = 0; i < 4; ++i) fn(n * 4 + i, kKeys ? column.v[i % 2] : rows[i / 2]);
  }
}

// x of hidden pairs becomes zero, whatever it was. Rows are the warp's, from `row` of those from
// `first` on; columns start with `from`.
template <bool kKeys, int N>
__device__ __forceinline__ void hide_pairs(float (&x)[N], const AttentionSizes& size,
                                           const uint8_t* mask, int keys, int first, int from,
                                           int row) {
  // Nothing to hide in most tiles: all keys are there, and it is off the diagonal. Rows of hidden
  // keys may hold anything.
  const int key = kKeys ? first + 63 : from + 2 * N - 1, query = kKeys ? from : first;
  if ((kKeys || (!mask && key < keys)) && !(size.causal && key > query + size.shift())) return;
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < N / 32; ++half) {
    const auto seen = seen_pairs<kKeys>(size, mask, keys, first, from + half * 64);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint64_t bits = seen(row + g + h * 8) >> (t * 2);
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (!(bits >> (n * 8 + i) & 1)) x[half * 32 + n * 4 + h * 2 + i] = 0;
        }
      }
    }
  }
}

}  // namespace parlo::cuda
