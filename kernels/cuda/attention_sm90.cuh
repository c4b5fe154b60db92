// Pieces of attention_sm90.cu: the tile in shared memory, products by wgmma, softmax of a
// warpgroup's 64 rows in its accumulators, and the way out. A thread has rows g and g + 8 of its
// warp's 16.
#pragma once

#include <optional>

#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/hopper.h"

namespace parlo::cuda {

template <int D>
struct HopperTile {
  static constexpr int kGroup = 128, kThreads = 3 * kGroup;  // threads of a warpgroup, of a block
  static constexpr int kRows = 128, kKeys = 128, kStages = D == 64 ? 4 : 2;
  // A tile of 128 rows lies in parts of 64 columns: rows of 128 bytes, as TMA swizzles them.
  static constexpr int kParts = D / 64, kPartBytes = 128 * 128, kBytes = kParts * kPartBytes;
  static constexpr int kShared = (1 + 2 * kStages) * kBytes + 1024;  // and to align
};

// One for each tensor of an operand.
struct TensorMapPair {
  TensorMap first, second;

  __device__ const TensorMap* of(int part) const { return part == 0 ? &first : &second; }
};

// Tiles of K or of V on their way from the producer to both consumers.
template <int D>
struct KeyRing {
  uint64_t full[HopperTile<D>::kStages], empty[HopperTile<D>::kStages];
};
template <int D>
struct HopperBarriers {
  uint64_t queries;
  KeyRing<D> k, v;
};

template <int D, int kRows = HopperTile<D>::kRows>
__device__ __forceinline__ void load_parts(unsigned char* to, const TensorMap* map, uint64_t* full,
                                           int first, int head, int b) {
  constexpr int kParts = D / 64, kPartBytes = kRows * 128;
  ptx::mbar_arrive_expect_tx(full, kParts * kPartBytes);
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    ptx::tma_load(to + part * kPartBytes, map, full, part * 64, first, head, b);
  }
}

// s = 64 rows of the query tile times the key tile of 2 N rows.
template <int D, int N>
__device__ __forceinline__ void issue_scores(float (&s)[N], uint32_t queries, uint32_t keys) {
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    const uint32_t part = step / 4, at = step % 4 * 32;
    ptx::wgmma(s, ptx::descriptor(queries + part * HopperTile<D>::kPartBytes + at, 16, 1024),
               ptx::descriptor(keys + part * (2 * N * 128) + at, 16, 1024), step > 0);
  }
  ptx::wgmma_commit();
}

// o += p times the tile of values, whose 16 K rows are the products' k.
template <int D, int K>
__device__ __forceinline__ void issue_values(float (&o)[D / 2], const uint32_t (&p)[K][4],
                                             uint32_t values) {
#pragma unroll
  for (int step = 0; step < K; ++step) {
    ptx::wgmma(o, p[step], ptx::descriptor(values + step * (16 * 128), K * (16 * 128), 1024), true);
  }
  ptx::wgmma_commit();
}

// Rows of hidden keys become zeros: they may be NaN, which a factor of zero would not hide. Both
// consumers call it, 256 threads.
template <int D>
__device__ __forceinline__ void clear_hidden(unsigned char* tile, const uint8_t* mask, int keys,
                                             int from) {
  const int consumer = static_cast<int>(threadIdx.x) - HopperTile<D>::kGroup;
  const int row = consumer / 2, j = from + row;
  if (j >= keys || (mask && mask[j] == 0)) {
#pragma unroll
    for (int chunk = 0; chunk < D / 16; ++chunk) {
      const int part = chunk / 4, at = consumer % 2 * 4 + chunk % 4;
      store_pack<4>(reinterpret_cast<uint32_t*>(tile + part * HopperTile<D>::kPartBytes +
                                                row * 128 + at * 16),
                    Pack<uint32_t, 4>{});
    }
  }
  ptx::fence_proxy_async();
  ptx::bar_sync(5, 2 * HopperTile<D>::kGroup);
}

// Of a thread's two rows: running maximum of the scores, this thread's part of the sum, and by how
// much the last step scaled the sums down.
struct HopperSoftmax {
  float top[2], sum[2], fall[2];
};

// Scores of column `limit` and beyond, for each of the two rows, become -infinity.
__device__ __forceinline__ void hide_columns(float (&s)[64], const int (&limit)[2]) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    if (i / 4 * 8 + t * 2 + i % 2 >= limit[i / 2 % 2]) s[i] = -INFINITY;
  }
}

// s -> 2^(scale2 (s - top)); scale2 > 0.
__device__ __forceinline__ void softmax_step(float (&s)[64], HopperSoftmax& x, float scale2) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float top = x.top[h];
#pragma unroll
    for (int n = 0; n < 16; ++n) top = fmaxf(top, fmaxf(s[n * 4 + h * 2], s[n * 4 + h * 2 + 1]));
    top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
    top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
    // Before the first key everything is -infinity, and so is what the difference would be.
    const float base = top == -INFINITY ? 0.0f : top * scale2;
    x.fall[h] = ptx::ex2(fmaf(x.top[h], scale2, -base));
    x.top[h] = top;
    float sum = x.sum[h] * x.fall[h];
#pragma unroll
    for (int n = 0; n < 16; ++n) {
#pragma unroll
      for (int i = n * 4 + h * 2; i < n * 4 + h * 2 + 2; ++i) {
        s[i] = ptx::ex2(fmaf(s[i], scale2, -base));
        sum += s[i];
      }
    }
    x.sum[h] = sum;
  }
}

template <int K>
__device__ __forceinline__ void pack_scores(uint32_t (&p)[K][4], const float (&s)[8 * K]) {
#pragma unroll
  for (int i = 0; i < 4 * K; ++i) p[i / 4][i % 4] = pack_bf16(s[i * 2], s[i * 2 + 1]);
}

template <int D>
__device__ __forceinline__ void scale_rows(float (&o)[D / 2], const float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < D / 2; ++i) o[i] *= factor[i / 2 % 2];
}

// x times a factor for each of the two rows (zeros where that is 0, whatever x is) to a warp's 16
// rows, from `row` of the tile on, of a head below `end`; through the tile, whose rows no product
// reads any more.
template <int D>
__device__ __forceinline__ void store_sums(const float (&x)[D / 2], const float (&factor)[2],
                                           unsigned char* tile, int row, const TokenRows<bf16>& to,
                                           int b, int head, int first, int end, int d) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < D / 2; i += 2) {
    const int chunk = i / 4, h = i / 2 % 2;
    unsigned char* part = tile + chunk / 8 * HopperTile<D>::kPartBytes;
    *reinterpret_cast<uint32_t*>(part + chunk_at<64>(row + g + h * 8, chunk % 8) + t * 4) =
        factor[h] == 0 ? 0 : pack_bf16(x[i] * factor[h], x[i + 1] * factor[h]);
  }
  __syncwarp();
#pragma unroll
  for (int part = 0; part < D / 64; ++part) {
    store_rows<64, 16, 64>(tile + part * HopperTile<D>::kPartBytes, row, to, b, head, first, end, d,
                           part * 64);
  }
}

// o and lse of a warp's 16 rows, from `row` of the block's on, below `end`. They pass through the
// warp's rows of the query tile, which no product of the warpgroup reads any more.
template <int D>
__device__ __forceinline__ void finish(float (&o)[D / 2], const HopperSoftmax& x, unsigned char* q,
                                       const AttentionForwardOperands<bf16>& f,
                                       const AttentionBlock& block, int first, int end, int row) {
  const AttentionSizes& size = f.s;
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  float factor[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float sum = x.sum[h];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    factor[h] = sum == 0 ? 0 : 1 / sum;  // no keys
    const int i = first + row + g + h * 8;
    if (t == 0 && i < end) {
      f.lse[(int64_t{block.b} * size.heads + block.head) * size.tq + i] =
          sum == 0 ? -INFINITY : fmaf(x.top[h], size.scale, logf(sum));
    }
  }
  store_sums<D>(o, factor, q, row, f.out, block.b, block.head, first, end, size.d);
}

// --- host ---

// Rows of one operand as TMA reads them, in boxes of `rows` rows of a part of a tile.
inline TensorMapArgs map_of(const HeadRows<const bf16>& x, int64_t batch, int64_t tokens,
                            int64_t heads, int64_t d, uint32_t rows) {
  const auto n = [](int64_t i) { return static_cast<uint64_t>(i); };
  // An axis of one may have any stride.
  const auto stride = [&](int64_t size, int64_t of) { return n(size > 1 ? of : d); };
  return {x.data,
          {n(d), n(tokens), n(heads), n(batch)},
          {stride(tokens, x.t), stride(heads, x.h), stride(batch, x.b)},
          {64, rows, 1, 1}};
}

// The tensors of one operand, or twice its only one; nothing where TMA cannot read them.
template <int kRows>
std::optional<TensorMapPair> maps_of(const TokenRows<const bf16>& x, int64_t batch, int rows,
                                     int64_t heads, int64_t d) {
  const int split = TokenTiles<kRows>::of(x, rows).split;
  const TensorMapArgs first = map_of(x.part[0], batch, split, heads, d, kRows);
  if (!fits_tensor_map(first)) return {};
  const TensorMap map = tensor_map(first);
  if (split == rows) return TensorMapPair{map, map};
  const TensorMapArgs second = map_of(x.part[1], batch, rows - split, heads, d, kRows);
  if (!fits_tensor_map(second)) return {};
  return TensorMapPair{map, tensor_map(second)};
}

}  // namespace parlo::cuda
