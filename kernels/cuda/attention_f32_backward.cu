// Attention backward in f32 by FMA; deterministic, no atomics. Equations and the two walks as in
// attention_bf16_backward.cu. Floor: 14 D Tq Tk flops a head at the FMA rate.
// A block owns 64, 32, 16 rows of (K, V) or (Q, dOut) at D = 64, 128, 256 and walks 32, 32, 16 rows
// of the other pair at a time. Shared memory 75, 78, 67 KiB. Limiter: reads of shared memory; a
// block waits for its loads, which the other blocks of the multiprocessor cover.
#include "kernels/cuda/attention_fma.cuh"

namespace parlo::cuda {
namespace {

template <int DP>
struct FmaBackwardTile {
  static constexpr int kRows = DP <= 64 ? 64 : (DP <= 128 ? 32 : 16), kOther = DP <= 128 ? 32 : 16;
  static constexpr int kR = kRows / kFmaSide, kC = kOther / kFmaSide;
  static constexpr int kRowFloats = kRows * kFmaRow<DP>, kOtherFloats = kOther * kFmaRow<DP>;
  static constexpr int kScores = kRows * kScoreRow<kOther>;
  static constexpr int kFloats = 2 * (kRowFloats + kOtherFloats + kScores);
  static constexpr int kShared = kFloats * static_cast<int>(sizeof(float));
};

// s, dp -> P, dS; hidden pairs and queries beyond the last give zeros.
template <bool kKeys, int kR, int kC>
__device__ __forceinline__ void softmax_backward(float (&s)[kR][kC], float (&dp)[kR][kC],
                                                 const float* lse2, const float* delta, int tq,
                                                 int first, int from, float scale2,
                                                 const SeenPairs<kKeys>& seen) {
  const int x = threadIdx.x % kFmaSide, y = threadIdx.x / kFmaSide;
#pragma unroll
  for (int r = 0; r < kR; ++r) {
    const uint64_t bits = seen(y + r * kFmaSide) >> x;
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      const int i = kKeys ? from + x + c * kFmaSide : first + y + r * kFmaSide;
      const bool valid = i < tq && (bits >> (c * kFmaSide) & 1);
      const float p = valid ? ptx::ex2(fmaf(s[r][c], scale2, -lse2[i])) : 0.0f;
      s[r][c] = p;
      dp[r][c] = valid ? p * (dp[r][c] - delta[i]) : 0.0f;
    }
  }
}

// Rows are keys (kKeys: writes dk and dv) or queries (writes dq).
template <int DP, bool kKeys>
__global__ void __launch_bounds__(kFmaThreads, 2)
    attention_f32_backward_kernel(const AttentionBackwardOperands<float> f) {
  using Tile = FmaBackwardTile<DP>;
  constexpr int kR = Tile::kR, kC = Tile::kC;
  SMEM_DYNAMIC(shared);
  float* const own0 = reinterpret_cast<float*>(shared);
  float *const own1 = own0 + Tile::kRowFloats, *const other0 = own1 + Tile::kRowFloats;
  float *const other1 = other0 + Tile::kOtherFloats, *const p_tile = other1 + Tile::kOtherFloats;
  float* const ds_tile = p_tile + Tile::kScores;
  const AttentionSizes& size = f.s;
  const int end = kKeys ? size.tk : size.tq;
  const AttentionBlock block =
      attention_block((end + Tile::kRows - 1) / Tile::kRows, kKeys ? size.kv_heads : size.heads);
  const int b = block.b, first = block.tile * Tile::kRows, keys = size.keys(b);
  const uint8_t* mask = size.mask_of(b);
  const int others = kKeys ? size.tq : size.tk;
  const auto walk = attention_walk<kKeys>(size, TokenTiles<Tile::kOther>{others, others},
                                          block.head, first, min(first + Tile::kRows, end), keys);
  const auto valid_key = [&](int j) { return j < keys && (!mask || mask[j] != 0); };
  const auto valid_query = [&](int i) { return i < size.tq; };
  if constexpr (kKeys) {
    load_floats<DP, Tile::kRows>(own0, f.k, b, walk.kv_head, first, size.d, valid_key);
    load_floats<DP, Tile::kRows>(own1, f.v, b, walk.kv_head, first, size.d, valid_key);
  } else {
    load_floats<DP, Tile::kRows>(own0, f.q, b, walk.head, first, size.d, valid_query);
    load_floats<DP, Tile::kRows>(own1, f.dout, b, walk.head, first, size.d, valid_query);
  }
  ptx::cp_async_commit();

  Pack<float, 4> acc[kR][DP / 64] = {}, acc_v[kR][DP / 64] = {};
  for (int step = 0; step < walk.heads * walk.tiles; ++step) {
    const int head = walk.head + step / walk.tiles;
    const int from = (walk.skip + step % walk.tiles) * Tile::kOther;
    __syncthreads();  // nobody reads the tiles before
    if constexpr (kKeys) {
      load_floats<DP, Tile::kOther>(other0, f.q, b, head, from, size.d, valid_query);
      load_floats<DP, Tile::kOther>(other1, f.dout, b, head, from, size.d, valid_query);
    } else {
      load_floats<DP, Tile::kOther>(other0, f.k, b, walk.kv_head, from, size.d, valid_key);
      load_floats<DP, Tile::kOther>(other1, f.v, b, walk.kv_head, from, size.d, valid_key);
    }
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    __syncthreads();
    float s[kR][kC], dp[kR][kC];
    dot_rows<DP>(s, own0, other0);
    dot_rows<DP>(dp, own1, other1);
    const int64_t statistics = (int64_t{b} * size.heads + head) * size.tq;
    softmax_backward<kKeys>(s, dp, f.lse2 + statistics, f.delta + statistics, size.tq, first, from,
                            size.scale * kLog2e, seen_pairs<kKeys>(size, mask, keys, first, from));
    put_scores<Tile::kOther>(ds_tile, dp);
    if constexpr (kKeys) put_scores<Tile::kOther>(p_tile, s);
    __syncwarp();
    add_rows<DP, Tile::kOther>(acc, ds_tile, other0);
    if constexpr (kKeys) add_rows<DP, Tile::kOther>(acc_v, p_tile, other1);
  }
  ptx::cp_async_wait<0>();
  const uint64_t visible = kKeys ? visible_keys(mask, first, keys) : ~uint64_t{0};
  float factor[kR], factor_v[kR];  // hidden keys have gradients of zero, whatever the queries hold
#pragma unroll
  for (int r = 0; r < kR; ++r) {
    factor_v[r] = visible >> (threadIdx.x / kFmaSide + r * kFmaSide) & 1 ? 1 : 0;
    factor[r] = factor_v[r] * size.scale;
  }
  const TokenRows<float>& to = kKeys ? f.dk : f.dq;
  store_floats<DP>(acc, factor, to, b, block.head, first, end, size.d);
  if constexpr (kKeys) {
    store_floats<DP>(acc_v, factor_v, f.dv, b, block.head, first, end, size.d);
  }
}

template <int DP, bool kKeys>
void launch_backward(const AttentionBackwardOperands<float>& f, int64_t batch, Device device) {
  using Tile = FmaBackwardTile<DP>;
  const unsigned blocks = attention_blocks(kKeys ? f.s.tk : f.s.tq, Tile::kRows,
                                           batch * (kKeys ? f.s.kv_heads : f.s.heads));
  launch({kKeys ? "attention_f32_dk_dv" : "attention_f32_dq", blocks, kFmaThreads, device,
          Tile::kShared},
         attention_f32_backward_kernel<DP, kKeys>, f);
}

}  // namespace

void attention_gradients(const AttentionBackwardOperands<float>& f, int64_t batch, Device device) {
  visit_head_size(f.s.d, [&](auto size) {
    launch_backward<size.value, true>(f, batch, device);
    launch_backward<size.value, false>(f, batch, device);
  });
}

}  // namespace parlo::cuda
