// Attention backward in bf16 by mma.sync, for every GPU from sm_80 on; deterministic, no atomics.
//   P = 2^(scale2 q k' - lse2), dS = P (dout v' - delta): dv = P' dout, dk = scale dS' q, dq =
//   scale dS k
// Floor: 7 products of 2 D Tq Tk flops a head: 4 over tiles of keys (dk, dv) and 3 over tiles of
// queries (dq); scores are computed twice, which costs 2 of 7 products and buys a fixed order.
// One kernel for both: a block of 4 warps owns 64 rows of (K, V) or (Q, dOut), 16 a warp, and walks
// the other pair in tiles of 64, 32, 16 rows at D = 64, 128, 256, two of them in shared memory and
// one on its way. A warp computes S and dP with its own rows as rows: both lie in registers as the
// next product wants them. Shared memory 49, 65, 97 KiB. Grouped queries: the query heads of a key
// head follow one another in one walk. Limiter: ldmatrix traffic, 16 rows reuse each fragment once.
#include "kernels/cuda/attention_mma.cuh"

namespace parlo::cuda {
namespace {

template <int DP, bool kKeys>
struct BackwardTile {
  static constexpr int kRows = kMmaWarps * 16, kOther = DP <= 64 ? 64 : (DP <= 128 ? 32 : 16);
  // Columns of the gradients in registers; above 128, two accumulators are too many for a block.
  static constexpr int kColumns = kKeys && DP > 128 ? 128 : DP, kParts = DP / kColumns;
  static constexpr int kRowBytes = kRows * DP * 2, kOtherBytes = kOther * DP * 2;
  static constexpr int kStage = 2 * kOtherBytes + 2 * kOther * static_cast<int>(sizeof(float));
  static constexpr int kShared = 2 * kRowBytes + 2 * kStage;
};

// Statistics of the queries: of a thread's two rows, or of the columns of a tile.
struct QueryStatistics {
  float lse2[2], delta[2];
  const float* columns;  // lse2 [kOther], then delta [kOther]
};

// s, dp -> P, dS of the warp's 16 rows.
template <bool kKeys, int kN>
__device__ __forceinline__ void softmax_backward(float (&s)[1][kN][4], float (&dp)[1][kN][4],
                                                 const QueryStatistics& query, float scale2) {
#pragma unroll
  for (int n = 0; n < kN; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int c = n * 8 + threadIdx.x % 4 * 2 + i % 2;
      const float lse2 = kKeys ? query.columns[c] : query.lse2[i / 2];
      const float delta = kKeys ? query.columns[kN * 8 + c] : query.delta[i / 2];
      const float p = ptx::ex2(fmaf(s[0][n][i], scale2, -lse2));
      s[0][n][i] = p;
      dp[0][n][i] = p * (dp[0][n][i] - delta);
    }
  }
}

// Hidden pairs give zeros, whatever they were. Rows start with `first`, columns with `from`.
template <bool kKeys, int kN>
__device__ __forceinline__ void hide_pairs(float (&p)[1][kN][4], float (&ds)[1][kN][4],
                                           const AttentionSizes& size, const uint8_t* mask,
                                           int keys, int first, int from, int row) {
  // Nothing to hide in most tiles: all keys are there, and the warp is off the diagonal.
  const int key = kKeys ? first + row + 15 : from + kN * 8 - 1;
  const int query = kKeys ? from : first + row;
  const int last = kKeys ? first + 63 : key;
  if (!mask && last < keys && !(size.causal && key > query + size.shift())) return;
  const auto seen = seen_pairs<kKeys>(size, mask, keys, first, from);
  hide(ds, row, 0, seen);
  if constexpr (kKeys) hide(p, row, 0, seen);
}

// Rows are keys (kKeys: writes dk and dv) or queries (writes dq).
template <int DP, bool kKeys>
__global__ void __launch_bounds__(kMmaThreads)
    attention_bf16_backward_kernel(const AttentionBackwardOperands<bf16> f) {
  using Tile = BackwardTile<DP, kKeys>;
  constexpr int kN = Tile::kOther / 8, kC = Tile::kColumns / 8;
  SMEM_DYNAMIC(shared);
  const AttentionSizes& size = f.s;
  const int row = threadIdx.x / kWarp * 16, end = kKeys ? size.tk : size.tq;
  const int tiles = (end + Tile::kRows - 1) / Tile::kRows * Tile::kParts;
  const AttentionBlock block = attention_block(tiles, kKeys ? size.kv_heads : size.heads);
  const int first = block.tile / Tile::kParts * Tile::kRows, part = block.tile % Tile::kParts;
  const int keys = size.keys(block.b);
  const uint8_t* mask = size.mask_of(block.b);
  const int others = kKeys ? size.tq : size.tk;
  const auto walk = attention_walk<kKeys>(size, TokenTiles<Tile::kOther>{others, others},
                                          block.head, first, min(first + Tile::kRows, end), keys);
  const auto valid_key = [&](int j) { return j < keys && (!mask || mask[j] != 0); };
  const auto valid_query = [&](int i) { return i < size.tq; };
  const auto statistics_at = [&](int head) {
    return (int64_t{block.b} * size.heads + head) * size.tq;
  };
  const auto stage = [&](int step) {
    return shared + 2 * Tile::kRowBytes + step % 2 * Tile::kStage;
  };
  const auto load_other = [&](int step) {
    unsigned char* to = stage(step);
    const int from = (walk.skip + step % walk.tiles) * Tile::kOther;
    if constexpr (kKeys) {
      const int head = walk.head + step / walk.tiles;
      load_pair<DP, Tile::kOther>(to, f.q, f.dout, block.b, head, from, size.d, valid_query);
      const int c = threadIdx.x, i = from + c % Tile::kOther;
      const float* of = (c < Tile::kOther ? f.lse2 : f.delta) + statistics_at(head);
      if (c < 2 * Tile::kOther) {
        ptx::cp_async<4>(to + 2 * Tile::kOtherBytes + c * 4, of + (i < size.tq ? i : 0),
                         i < size.tq);
      }
    } else {
      load_pair<DP, Tile::kOther>(to, f.k, f.v, block.b, walk.kv_head, from, size.d, valid_key);
    }
  };
  if constexpr (kKeys) {
    load_pair<DP, Tile::kRows>(shared, f.k, f.v, block.b, walk.kv_head, first, size.d, valid_key);
  } else {
    load_pair<DP, Tile::kRows>(shared, f.q, f.dout, block.b, walk.head, first, size.d, valid_query);
  }
  const int steps = walk.heads * walk.tiles;
  if (steps > 0) load_other(0);
  ptx::cp_async_commit();

  QueryStatistics query{};
  for (int h = 0; h < 2 && !kKeys; ++h) {
    const int i = first + row + threadIdx.x % kWarp / 4 + h * 8;
    if (i >= size.tq) continue;
    query.lse2[h] = f.lse2[statistics_at(walk.head) + i];
    query.delta[h] = f.delta[statistics_at(walk.head) + i];
  }
  float acc[1][kC][4] = {}, acc_v[1][kKeys ? kC : 2][4] = {};
  for (int step = 0; step < steps; ++step) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // this tile is there, and nobody reads the one before
    if (step + 1 < steps) load_other(step + 1);
    ptx::cp_async_commit();
    const unsigned char* other = stage(step);
    query.columns = reinterpret_cast<const float*>(other + 2 * Tile::kOtherBytes);
    float s[1][kN][4] = {}, dp[1][kN][4] = {};
    multiply_rows<DP>(s, shared, row, other);
    multiply_rows<DP>(dp, shared + Tile::kRowBytes, row, other + Tile::kOtherBytes);
    softmax_backward<kKeys>(s, dp, query, size.scale * kLog2e);
    hide_pairs<kKeys>(s, dp, size, mask, keys, first,
                      (walk.skip + step % walk.tiles) * Tile::kOther, row);
    if constexpr (kKeys) multiply_columns<DP>(acc_v, s, other + Tile::kOtherBytes, part * kC);
    multiply_columns<DP>(acc, dp, other, part * kC);
  }
  ptx::cp_async_wait<0>();
  __syncthreads();

  // The warp's rows of the first tiles, which only it reads, take its results. Hidden keys have
  // gradients of zero, whatever the queries hold.
  const uint64_t visible = kKeys ? visible_keys(mask, first, keys) : ~uint64_t{0};
  const int r = row + threadIdx.x % kWarp / 4;
  const float upper = visible >> r & 1 ? 1 : 0, lower = visible >> (r + 8) & 1 ? 1 : 0;
  const auto put = [&](unsigned char* tile, const auto& x, float factor,
                       const TokenRows<bf16>& to) {
    put_rows<DP>(tile, row, x[0], upper * factor, lower * factor);
    __syncwarp();
    store_rows<DP, 16, Tile::kColumns>(tile, row, to, block.b, block.head, first, end, size.d,
                                       part * Tile::kColumns);
  };
  put(shared, acc, size.scale, kKeys ? f.dk : f.dq);
  if constexpr (kKeys) put(shared + Tile::kRowBytes, acc_v, 1, f.dv);
}

template <int DP, bool kKeys>
void launch_backward(const AttentionBackwardOperands<bf16>& f, int64_t batch, Device device) {
  using Tile = BackwardTile<DP, kKeys>;
  const unsigned blocks = attention_blocks(kKeys ? f.s.tk : f.s.tq, Tile::kRows,
                                           batch * (kKeys ? f.s.kv_heads : f.s.heads));
  launch({kKeys ? "attention_bf16_dk_dv" : "attention_bf16_dq", blocks * Tile::kParts, kMmaThreads,
          device, Tile::kShared},
         attention_bf16_backward_kernel<DP, kKeys>, f);
}

}  // namespace

void attention_gradients(const AttentionBackwardOperands<bf16>& f, int64_t batch, Device device) {
  if (attention_gradients_sm90(f, batch, device)) return;
  visit_head_size(f.s.d, [&](auto size) {
    launch_backward<size.value, true>(f, batch, device);
    launch_backward<size.value, false>(f, batch, device);
  });
}

}  // namespace parlo::cuda
