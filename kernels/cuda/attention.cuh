// What the attention kernels share: operands by pointer and strides, which keys a query sees, and
// the launchers of the kernels by dtype.
//
// A block owns one tile of rows (queries, or keys in a backward) of one head and walks the other
// side in tiles in ascending order. Tile sizes depend on D alone and no sums cross blocks, so
// results are the same bits alone, in any batch, and on every run.
#pragma once

#include "kernels/cuda/common.cuh"

#include <limits>

#include "kernels/attention_checks.h"
#include "kernels/cuda/map.cuh"

namespace parlo::cuda {

constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// Sizes and masks of one call.
struct AttentionSizes {
  int tq, tk, heads, kv_heads, d;
  bool causal;
  float scale;
  const int64_t* key_lengths;  // [B] or null
  const uint8_t* key_mask;     // [B, Tk] or null

  // Query i sees keys j <= i + shift() when causal.
  __device__ int shift() const { return tk - tq; }
  __device__ int keys(int b) const {
    if (!key_lengths) return tk;
    const int64_t n = key_lengths[b];
    return n < 0 ? 0 : (n < tk ? static_cast<int>(n) : tk);
  }
  // Keys below this are all that the queries up to `query` of a sample with n keys may see.
  __device__ int keys_until(int n, int query) const {
    const int seen = causal ? query + shift() + 1 : n;
    return seen < 0 ? 0 : (seen < n ? seen : n);
  }
  __device__ const uint8_t* mask_of(int b) const {
    return key_mask ? key_mask + int64_t{b} * tk : nullptr;
  }
};

// Rows of one [B, T, H, D] tensor, D contiguous. Without padding, which g++ 12 clears wrongly in
// arrays of a struct.
template <class T>
struct HeadRows {
  T* data;
  int64_t b, t, h;

  __device__ T* row(int batch, int head, int i) const {
    return data + batch * b + head * h + i * t;
  }
};

// Rows of one operand, in one tensor or two: row `split` is the first of the second, if there is
// one, and else beyond all rows.
template <class T>
struct TokenRows {
  HeadRows<T> part[2];
  int split;
  bool packed;  // every row starts on 16 bytes and is a multiple of them

  __device__ T* row(int batch, int head, int i) const {
    return i < split ? part[0].row(batch, head, i) : part[1].row(batch, head, i - split);
  }
};

// Tiles of kRows rows of an operand; each lies in one of its tensors, as a tensor map does.
template <int kRows>
struct TokenTiles {
  int split, rows;  // of the first tensor, of both

  template <class T>
  __host__ __device__ static TokenTiles of(const TokenRows<T>& x, int rows) {
    return {x.split < rows ? x.split : rows, rows};
  }
  // Tiles that hold the first n rows; the tile of row i.
  __host__ __device__ int until(int n) const {
    return n <= split ? (n + kRows - 1) / kRows : first_tiles() + (n - split + kRows - 1) / kRows;
  }
  __device__ int holding(int i) const {
    return i < split ? i / kRows : first_tiles() + (i - split) / kRows;
  }
  __device__ int part(int tile) const { return tile * kRows < split ? 0 : 1; }
  // The first row of a tile, counted in its tensor and in both; the end of its tensor's rows.
  __device__ int row(int tile) const {
    return (part(tile) == 0 ? tile : tile - first_tiles()) * kRows;
  }
  __device__ int first(int tile) const { return row(tile) + (part(tile) == 0 ? 0 : split); }
  __device__ int end(int tile) const { return part(tile) == 0 ? split : rows; }
  __host__ __device__ int first_tiles() const { return (split + kRows - 1) / kRows; }
};

template <class T>
struct AttentionForwardOperands {
  AttentionSizes s;
  TokenRows<const T> q, k, v;
  TokenRows<T> out;
  float* lse;  // [B, H, Tq]
};

template <class T>
struct AttentionBackwardOperands {
  AttentionSizes s;
  TokenRows<const T> q, k, v, out, dout;
  TokenRows<T> dq, dk, dv;
  const float* lse;
  float *lse2, *delta;  // [B, H, Tq]: lse / ln 2; sum of dout * out
};

// Which tile of which head a block owns. Blocks of one head are neighbours, so that its rows stay
// in the L2.
struct AttentionBlock {
  int tile, head, b;
};
__device__ __forceinline__ AttentionBlock attention_block(int tiles, int heads) {
  const int block = static_cast<int>(blockIdx.x), other = block / tiles;
  return {block % tiles, other % heads, other / heads};
}

// Bit j: key first + j is below n and not masked. Called by whole warps.
__device__ __forceinline__ uint64_t visible_keys(const uint8_t* mask, int first, int n) {
  if (!mask && first + 64 <= n) return ~uint64_t{0};
  const int lane = threadIdx.x % kWarp;
  const auto seen = [&](int j) { return j < n && (!mask || mask[j] != 0); };
  const uint32_t low = __ballot_sync(kAllLanes, seen(first + lane));
  const uint32_t high = __ballot_sync(kAllLanes, seen(first + kWarp + lane));
  return static_cast<uint64_t>(high) << 32 | low;
}
// The lowest `count` bits of word.
__device__ __forceinline__ uint64_t low_bits(uint64_t word, int count) {
  if (count >= 64) return word;
  return count <= 0 ? 0 : word & ((uint64_t{1} << count) - 1);
}

// Bit c of (r): row r and column c of a tile of scores see each other. `visible` has a bit for each
// key. Rows are queries, or keys (kKeys). When causal, row r sees the columns below limit + r, or,
// as a key, is seen by those from there on.
template <bool kKeys>
struct SeenPairs {
  uint64_t visible;
  bool causal;
  int limit;

  __device__ uint64_t operator()(int r) const {
    constexpr uint64_t kAll = ~uint64_t{0};
    if constexpr (kKeys) return visible >> r & 1 ? (causal ? ~low_bits(kAll, limit + r) : kAll) : 0;
    return causal ? low_bits(visible, limit + r) : visible;
  }
};
// For rows from `first` on, columns from `from` on.
template <bool kKeys>
__device__ __forceinline__ SeenPairs<kKeys> seen_pairs(const AttentionSizes& size,
                                                       const uint8_t* mask, int keys, int first,
                                                       int from) {
  if constexpr (kKeys) {
    return {visible_keys(mask, first, keys), size.causal, first - size.shift() - from};
  } else {
    return {visible_keys(mask, from, keys), size.causal, first + size.shift() + 1 - from};
  }
}

// What a block of the backward walks, whose rows are [first, end): `tiles` tiles of the queries of
// `heads` heads from `head` on, starting with tile `skip`; or, when its rows are queries of `head`,
// of the keys of kv_head.
struct AttentionWalk {
  int head, heads, kv_head, skip, tiles;
};
template <bool kKeys, int kOther>
__device__ __forceinline__ AttentionWalk attention_walk(const AttentionSizes& size,
                                                        const TokenTiles<kOther>& others, int head,
                                                        int first, int end, int keys) {
  const int group = size.heads / size.kv_heads;
  if constexpr (kKeys) {
    // Key j is seen by the queries from j - shift on; nobody sees keys at and beyond `keys`.
    const int from = size.causal ? others.holding(max(first - size.shift(), 0)) : 0;
    const int all = first < keys ? others.until(size.tq) : 0;
    return {head * group, group, head, from, max(all - from, 0)};
  } else {
    return {head, 1, head / group, 0, others.until(size.keys_until(keys, end - 1))};
  }
}

// --- host ---

template <class T>
HeadRows<T> head_rows(const Tensor& x) {
  return {pointer<T>(x), x.strides()[0], x.strides()[1], x.strides()[2]};
}
template <class T>
bool packed_rows(const Tensor& x) {
  bool packed = is_aligned(pointer<T>(x)) && x.dim(3) % kPack<T> == 0;
  for (int i = 0; i < 3; ++i) packed &= x.dim(i) <= 1 || x.strides()[i] % kPack<T> == 0;
  return packed;
}
// A tensor without rows is none.
template <class T>
TokenRows<T> token_rows(const Tokens& x) {
  if (x.second && x.first.dim(1) == 0) return token_rows<T>(x.second);
  const HeadRows<T> first = head_rows<T>(x.first);
  const bool packed = packed_rows<T>(x.first);
  if (!x.second || x.second.dim(1) == 0) {
    return {{first, {}}, std::numeric_limits<int>::max(), packed};
  }
  return {{first, head_rows<T>(x.second)},
          static_cast<int>(x.first.dim(1)),
          packed && packed_rows<T>(x.second)};
}

// Blocks of tiles of `rows` of n rows of every head.
inline unsigned attention_blocks(int64_t n, int64_t rows, int64_t heads) {
  const int64_t blocks = ceil_div(n, rows) * heads;
  CHECK(blocks < int64_t{1} << 31, "attention: ", blocks, " tiles of queries, expected below 2^31");
  return static_cast<unsigned>(blocks);
}

// Calls fn with D rounded up to what kernels are built for.
template <class Fn>
void visit_head_size(int64_t d, Fn&& fn) {
  if (d <= 64) {
    fn(std::integral_constant<int, 64>{});
  } else if (d <= 128) {
    fn(std::integral_constant<int, 128>{});
  } else {
    fn(std::integral_constant<int, 256>{});
  }
}

void attention_forward(const AttentionForwardOperands<float>& f, int64_t batch, Device device);
void attention_forward(const AttentionForwardOperands<bf16>& f, int64_t batch, Device device);
// The same by wgmma; false, and nothing done, where the GPU or the operands do not fit it.
bool attention_forward_sm90(const AttentionForwardOperands<bf16>& f, int64_t batch, Device device);
// They need lse2 and delta.
void attention_gradients(const AttentionBackwardOperands<float>& f, int64_t batch, Device device);
void attention_gradients(const AttentionBackwardOperands<bf16>& f, int64_t batch, Device device);
bool attention_gradients_sm90(const AttentionBackwardOperands<bf16>& f, int64_t batch,
                              Device device);

}  // namespace parlo::cuda
