// Attention backward in bf16 on Hopper, by wgmma and TMA; deterministic, no atomics.
//   P = 2^(scale2 q k' - lse2), dS = P (dout v' - delta): dv = P' dout, dk = scale dS' q, dq =
//   scale dS k
// Floor: 7 products of 2 D Tq Tk flops a head, in two passes: 4 over tiles of keys (dk, dv), 3 over
// tiles of queries (dq). One pass would need 5, but its dq sums over blocks of keys: in a fixed
// order blocks must wait for one another (published cost 14 to 21 %), and dS must pass through
// shared memory to be transposed. Here P and dS go from the accumulators straight into the next
// product as its operand in registers, rows being keys in one pass and queries in the other.
// One kernel for both, 3 warpgroups a block: a producer, and two consumers with 64 rows each of (K,
// V) or (Q, dOut) in shared memory, past which the other pair comes in a ring of tiles. Tiles of
// 128 rows, but 64 queries in the pass over keys at D = 128, whose two sums take half of the
// registers; 4 stages, or 2 of 128 keys at D = 128. Shared memory 164 and 160 KiB at D = 64, 194
// and 192 KiB at 128; one block a multiprocessor. Exponentials run under dout v' of the same tile,
// the rest of dS under P' dout, the next tile's scores follow at once; the other consumer fills
// what is left. Limiter: wgmma. Grouped queries: the query heads of a key head follow one another
// in one walk. Tokens in two tensors: no tile holds rows of both, so that where a cut lies between
// two tiles of the concatenation the bits are the same. Sources as in attention_sm90.cu.
#include "kernels/cuda/attention_sm90_backward.cuh"

namespace parlo::cuda {
namespace {

// What a consumer knows of its rows: 64, from `first` on, `row` its warp's.
struct BackwardRows {
  int first, row, keys;
  const uint8_t* mask;
  float lse2[2], delta[2];  // when rows are queries
};

// One consumer: sums of its rows over all stages; at least one. sum: dk or dq, sum_v: dv.
template <int D, bool kKeys>
__device__ __forceinline__ void consume_backward(
    float (&sum)[D / 2], float (&sum_v)[kKeys ? D / 2 : 1], unsigned char* shared,
    BackwardBarriers<D, kKeys>& bars, const AttentionSizes& size,
    const BackwardTiles<D, kKeys>& tiles, const AttentionWalk& walk, const BackwardRows& rows,
    int group) {
  using Tile = HopperBackwardTile<D, kKeys>;
  constexpr int kN = Tile::kOther / 2, kK = Tile::kOther / 16;
  const uint32_t own = ptx::smem_u32(shared) + group * (64 * 128);
  const float scale2 = size.scale * kLog2e;
  const auto release = [&](int step) {
    __syncwarp();
    if (threadIdx.x % kWarp == 0) ptx::mbar_arrive(&bars.empty[step % Tile::kStages]);
  };
  for (int step = 0, tile = 0; step < walk.heads * walk.tiles; ++step) {
    const int place = step % Tile::kStages, at = walk.skip + tile;
    const int from = tiles.other.first(at), end = tiles.other.end(at);
    const int keys = kKeys ? rows.keys : min(rows.keys, end);
    unsigned char* stage = shared + 2 * Tile::kRowBytes + place * Tile::kStageBytes;
    const uint32_t other = ptx::smem_u32(stage);
    const float* columns =
        reinterpret_cast<const float*>(shared + Tile::kStatistics) + place * Tile::kFloats;
    float s[kN], dp[kN];
    uint32_t p[kK][4], ds[kK][4];
    ptx::mbar_wait(&bars.full[place], step / Tile::kStages & 1);
    if (!kKeys && (rows.mask || rows.keys < min(from + Tile::kOther, end))) {
      clear_hidden<D>(stage, rows.mask, keys, from);
    }
    ptx::wgmma_fence();
    issue_scores<D>(s, own, other);
    ptx::wgmma_wait<1>();  // the step before
    if (step > 0) release(step - 1);
    ptx::wgmma_fence();
    issue_scores<D>(dp, own + Tile::kRowBytes, other + Tile::kOtherBytes);
    ptx::wgmma_wait<1>();  // s
    with_statistics<kKeys, kN>(
        rows.lse2, columns, [&](int i, float lse2) { s[i] = ptx::ex2(fmaf(s[i], scale2, -lse2)); });
    if (kKeys) hide_pairs<kKeys>(s, size, rows.mask, keys, rows.first, from, rows.row);
    // Operands in registers may not be written beside products that run: ptxas would serialise.
    ptx::wgmma_wait<0>();  // dp
    with_statistics<kKeys, kN>(rows.delta, columns + Tile::kOther,
                               [&](int i, float delta) { dp[i] = s[i] * (dp[i] - delta); });
    hide_pairs<kKeys>(dp, size, rows.mask, keys, rows.first, from, rows.row);
    if constexpr (kKeys) pack_scores(p, s);
    pack_scores(ds, dp);
    ptx::wgmma_fence();
    if constexpr (kKeys) issue_values<D>(sum_v, p, other + Tile::kOtherBytes);
    issue_values<D>(sum, ds, other);
    tile = tile + 1 < walk.tiles ? tile + 1 : 0;
    if constexpr (kKeys) ptx::wgmma_wait<1>();  // frees the registers of p
  }
  ptx::wgmma_wait<0>();
}

// Rows are keys (kKeys: writes dk and dv) or queries (writes dq).
template <int D, bool kKeys>
__global__ void __launch_bounds__(HopperBackwardTile<D, kKeys>::kThreads, 1)
    attention_sm90_backward_kernel(const AttentionBackwardOperands<bf16> f,
                                   const __grid_constant__ BackwardMaps maps) {
#if defined(PARLO_SIMT) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Tile = HopperBackwardTile<D, kKeys>;
  using Barriers = BackwardBarriers<D, kKeys>;
  SMEM_DYNAMIC(raw);
  SMEM(Barriers, bars_of_block, [1]);
  Barriers& bars = bars_of_block[0];
  unsigned char* const shared = raw + (1024 - ptx::smem_u32(raw) % 1024) % 1024;
  const AttentionSizes& size = f.s;
  BackwardTiles<D, kKeys> tiles = BackwardTiles<D, kKeys>::of(f);
  const int all = tiles.rows.until(kKeys ? size.tk : size.tq);
  const AttentionBlock block = attention_block(all, kKeys ? size.kv_heads : size.heads);
  // When causal, the first keys and the last queries see most: their blocks start first.
  tiles.mine = kKeys ? block.tile : all - 1 - block.tile;
  const int first = tiles.rows.first(tiles.mine);
  const int end = min(first + Tile::kRows, tiles.rows.end(tiles.mine));
  const int keys = size.keys(block.b);
  const auto walk = attention_walk<kKeys>(size, tiles.other, block.head, first, end, keys);
  const int group = static_cast<int>(threadIdx.x) / Tile::kGroup - 1;  // -1: the producer
  if (threadIdx.x == 0) {
    ptx::mbar_init(&bars.rows, 2);
    for (int i = 0; i < Tile::kStages; ++i) {
      ptx::mbar_init(&bars.full[i], kKeys ? 3 : 2);  // two tiles, and the statistics
      ptx::mbar_init(&bars.empty[i], 8);             // one arrival of each consumer warp
    }
    ptx::fence_mbar_init();
  }
  __syncthreads();
  if (group < 0) {
    ptx::setmaxnreg_dec<24>();
    if (threadIdx.x < kWarp) {
      feed_backward<D, kKeys>(shared, bars, f, maps, tiles, walk, block);
    }
    return;
  }
  ptx::setmaxnreg_inc<240>();
  BackwardRows rows{first + group * 64,
                    static_cast<int>(threadIdx.x) / kWarp % 4 * 16,
                    keys,
                    size.mask_of(block.b),
                    {0, 0},
                    {0, 0}};
  for (int h = 0; h < 2 && !kKeys; ++h) {
    const int i = rows.first + rows.row + static_cast<int>(threadIdx.x) % kWarp / 4 + h * 8;
    if (i >= end) continue;
    const int64_t at = (int64_t{block.b} * size.heads + block.head) * size.tq + i;
    rows.lse2[h] = f.lse2[at], rows.delta[h] = f.delta[at];
  }
  float sum[D / 2], sum_v[kKeys ? D / 2 : 1];
#pragma unroll
  for (float& x : sum) x = 0;
#pragma unroll
  for (float& x : sum_v) x = 0;
  ptx::mbar_wait(&bars.rows, 0);
  if (walk.tiles > 0) {
    consume_backward<D, kKeys>(sum, sum_v, shared, bars, size, tiles, walk, rows, group);
  }

  // The warp's own rows in shared memory, which only this consumer read, take its results. Hidden
  // keys have gradients of zero, whatever the queries hold.
  ptx::bar_sync(2 + group, Tile::kGroup);
  const uint64_t visible = kKeys ? visible_keys(rows.mask, rows.first, keys) : ~uint64_t{0};
  const uint64_t mine = visible >> (rows.row + threadIdx.x % kWarp / 4);
  const float seen[2] = {mine & 1 ? 1.0f : 0.0f, mine >> 8 & 1 ? 1.0f : 0.0f};
  const float scale[2] = {seen[0] * size.scale, seen[1] * size.scale};
  const int row = group * 64 + rows.row;
  const TokenRows<bf16>& to = kKeys ? f.dk : f.dq;
  store_sums<D>(sum, scale, shared, row, to, block.b, block.head, first, end, size.d);
  if constexpr (kKeys) {
    store_sums<D>(sum_v, seen, shared + Tile::kRowBytes, row, f.dv, block.b, block.head, first, end,
                  size.d);
  }
#endif
}

// Nothing where TMA cannot read an operand.
template <int D, bool kKeys>
std::optional<BackwardMaps> backward_maps(const AttentionBackwardOperands<bf16>& f, int64_t batch) {
  using Tile = HopperBackwardTile<D, kKeys>;
  constexpr int kKeyRows = kKeys ? Tile::kRows : Tile::kOther;
  constexpr int kQueryRows = kKeys ? Tile::kOther : Tile::kRows;
  const AttentionSizes& s = f.s;
  const auto k = maps_of<kKeyRows>(f.k, batch, s.tk, s.kv_heads, s.d);
  const auto v = maps_of<kKeyRows>(f.v, batch, s.tk, s.kv_heads, s.d);
  const auto q = maps_of<kQueryRows>(f.q, batch, s.tq, s.heads, s.d);
  const auto dout = maps_of<kQueryRows>(f.dout, batch, s.tq, s.heads, s.d);
  if (!k || !v || !q || !dout) return {};
  if (kKeys) return BackwardMaps{{*k, *v}, {*q, *dout}};
  return BackwardMaps{{*q, *dout}, {*k, *v}};
}

template <int D, bool kKeys>
bool launch_backward(const AttentionBackwardOperands<bf16>& f, int64_t batch, Device device) {
  using Tile = HopperBackwardTile<D, kKeys>;
  const auto maps = backward_maps<D, kKeys>(f, batch);
  if (!maps) return false;
  const int tiles = BackwardTiles<D, kKeys>::of(f).rows.until(kKeys ? f.s.tk : f.s.tq);
  launch({kKeys ? "attention_sm90_dk_dv" : "attention_sm90_dq",
          attention_blocks(tiles, 1, batch * (kKeys ? f.s.kv_heads : f.s.heads)), Tile::kThreads,
          device, Tile::kShared},
         attention_sm90_backward_kernel<D, kKeys>, f, *maps);
  return true;
}

// The operands fit both passes or none.
template <int D>
bool launch_sm90_backward(const AttentionBackwardOperands<bf16>& f, int64_t batch, Device device) {
  return launch_backward<D, true>(f, batch, device) && launch_backward<D, false>(f, batch, device);
}

}  // namespace

bool attention_gradients_sm90(const AttentionBackwardOperands<bf16>& f, int64_t batch,
                              Device device) {
  if (!runs_hopper_kernels(device) || f.s.d > 128) return false;
  return f.s.d <= 64 ? launch_sm90_backward<64>(f, batch, device)
                     : launch_sm90_backward<128>(f, batch, device);
}

}  // namespace parlo::cuda
