// What the decode attention kernels share: operands, the keys a block owns, and partial results.
//
// Keys are cut into splits of kSplitKeys, from the start of a prefix and from the start of a
// sequence's own keys. A block owns one split of one key head for a tile of query rows: those of
// all sequences of a group for the prefix, of one sequence for its own keys. Its warps take the
// steps of the split in turn and are merged in order; a last kernel merges the splits in order. So
// a row is summed the same way for any batch, group and room.
#pragma once

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/ptx.cuh"

namespace parlo::cuda {

constexpr int kSplitKeys = 256;
constexpr int kDecodeWarps = 4, kDecodeThreads = kDecodeWarps * kWarp;

// The maximum of a row's scores, base 2, and the sum of 2^(score - maximum).
struct SoftmaxPart {
  float top, sum;
};

// Rows of a cache or of one operand, and whether they can be read 16 bytes an access.
template <class T>
struct DecodeRowsOf {
  T* data;
  int64_t b, t, h;
  bool packed;

  __device__ T* head(int batch, int head) const { return data + batch * b + head * h; }
};

// The prefixes, or the own keys of all sequences: `units` of them, each read by `group` sequences.
template <class T>
struct DecodeKeys {
  DecodeRowsOf<const T> k, v;
  const int64_t* lengths;  // own: before the current tokens. Prefix: or null, all keys are used
  int room, units, group;
  bool own;
  int splits;  // of the room
  int tiles;   // of the rows of a unit; set by decode_blocks, as prefix_blocks

  __device__ int64_t length(int unit) const { return lengths ? lengths[unit] : room; }
  // Keys seen by query i and those before it.
  __device__ int seen(int unit, int i) const {
    const int64_t n = length(unit);
    if (n < 0) return 0;
    return static_cast<int>(own ? min(n + i + 1, int64_t{room}) : min(n, int64_t{room}));
  }
};

template <class T>
struct DecodeOperands {
  int tq, heads, kv_heads, d;
  float scale2;  // scale / ln 2
  DecodeRowsOf<const T> q;
  DecodeKeys<T> prefix, own;
  int64_t prefix_blocks;
  int64_t rows;        // B Tq H
  float* acc;          // [splits of prefix and own, rows, pitch]: sums of 2^(score - top) v
  SoftmaxPart* parts;  // [splits, rows]
  int pitch;

  // Rows of a sequence that share a key head: row r is query r / repeat() of head r % repeat().
  __device__ int repeat() const { return heads / kv_heads; }
  bool packed() const {
    return q.packed && own.k.packed && own.v.packed &&
           (prefix.units == 0 || (prefix.k.packed && prefix.v.packed));
  }
};

// What a block owns: keys [first, first + kSplitKeys), rows [row, row + count) of a unit.
template <class T>
struct DecodeBlock {
  DecodeKeys<T> keys;
  int unit, kv_head, first, row, count;
  int split;  // among those of prefix and own keys
  int tq, repeat, heads;

  __device__ int query(int r) const { return (row + r) / repeat % tq; }
  // Among B Tq H.
  __device__ int64_t index(int r) const {
    const int64_t token = int64_t{unit} * keys.group * tq + (row + r) / repeat;
    return token * heads + kv_head * repeat + (row + r) % repeat;
  }
  // Keys [first, seen(r)) of this block are seen by row r; never more than by the last.
  __device__ int seen(int r) const {
    return r < count ? min(keys.seen(unit, query(r)), first + kSplitKeys) : 0;
  }
  __device__ int end() const { return min(keys.seen(unit, tq - 1), first + kSplitKeys); }
  __device__ const T* queries(const DecodeOperands<T>& f, int r) const {
    const int64_t token = int64_t{unit} * keys.group * tq + (row + r) / repeat;
    return f.q.data + token / tq * f.q.b + token % tq * f.q.t +
           int64_t{kv_head * repeat + (row + r) % repeat} * f.q.h;
  }
};

// Tiles that share keys are neighbours, then the heads of the same tokens.
template <int kRows, class T>
__device__ __forceinline__ DecodeBlock<T> decode_block(const DecodeOperands<T>& f) {
  int64_t block = blockIdx.x;
  const bool own = block >= f.prefix_blocks;
  if (own) block -= f.prefix_blocks;
  DecodeBlock<T> b;
  b.keys = own ? f.own : f.prefix;
  b.tq = f.tq, b.repeat = f.repeat(), b.heads = f.heads;
  b.row = static_cast<int>(block % b.keys.tiles) * kRows;
  block /= b.keys.tiles;
  b.kv_head = static_cast<int>(block % f.kv_heads);
  block /= f.kv_heads;
  const int split = static_cast<int>(block % b.keys.splits);
  b.unit = static_cast<int>(block / b.keys.splits);
  b.first = split * kSplitKeys;
  b.split = split + (own ? f.prefix.splits : 0);
  b.count = min(kRows, b.keys.group * f.tq * b.repeat - b.row);
  return b;
}

// Merges the warps' parts of the block's rows in order; they lie in shared memory. A row without
// keys has top = -infinity, and sums of 0. All threads call it.
template <int kRows, int DP, class T>
__device__ __forceinline__ void store_parts(const DecodeOperands<T>& f, const DecodeBlock<T>& b,
                                            const SoftmaxPart (&parts)[kDecodeWarps][kRows],
                                            const float (&acc)[kDecodeWarps][kRows][DP]) {
  __syncthreads();
  constexpr int kPacks = DP / 4;
  for (int i = threadIdx.x; i < b.count * kPacks; i += kDecodeThreads) {
    const int r = i / kPacks, c = i % kPacks * 4;
    float top = -INFINITY;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) top = fmaxf(top, parts[w][r].top);
    const float base = top == -INFINITY ? 0.0f : top;
    float sum = 0;
    Pack<float, 4> total{};
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      const float share = ptx::ex2(parts[w][r].top - base);
      sum = fmaf(share, parts[w][r].sum, sum);
      const Pack<float, 4> x = load_pack<4>(&acc[w][r][c]);
#pragma unroll
      for (int k = 0; k < 4; ++k) total.v[k] = fmaf(share, x.v[k], total.v[k]);
    }
    const int64_t at = b.split * f.rows + b.index(r);
    if (c < f.d) store_pack<4>(f.acc + at * f.pitch + c, total);
    if (c == 0) f.parts[at] = {top, sum};
  }
}

// --- host ---

// Blocks of kernels that take tiles of `rows`; sets what depends on it.
template <class T>
unsigned decode_blocks(DecodeOperands<T>& f, int rows) {
  int64_t blocks = 0;
  for (DecodeKeys<T>* keys : {&f.prefix, &f.own}) {
    keys->tiles =
        static_cast<int>(ceil_div(int64_t{keys->group} * f.tq * (f.heads / f.kv_heads), rows));
    blocks += int64_t{keys->units} * keys->splits * f.kv_heads * keys->tiles;
    if (!keys->own) f.prefix_blocks = blocks;
  }
  CHECK(blocks < int64_t{1} << 31, "decode_attention: ", blocks, " blocks, expected below 2^31");
  return static_cast<unsigned>(blocks);
}

// Fill acc and parts of every split that has keys. By tensor cores, for packed heads of D <= 128:
// rows and heads on 16 bytes, D a multiple of 8. By FMA, for all.
void decode_by_mma(DecodeOperands<bf16> f, Device device);
void decode_by_fma(DecodeOperands<float> f, Device device);
void decode_by_fma(DecodeOperands<bf16> f, Device device);

}  // namespace parlo::cuda
