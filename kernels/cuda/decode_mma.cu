// Decode attention by tensor cores: every operand goes straight from memory into the fragments of
// mma.sync, 16 bytes a lane, without shared memory. Floor: the bytes of the keys and values. The 16
// rows of a product are what shares a key head; for one row its work is wasted, but free.
//
// A warp takes 16 keys at a time. Of the scores' product, B is K: a lane holds 8 neighbours of its
// key along D, as A does of its query. Of the second product, B is V: a lane loads 8 neighbours
// along D of its 4 keys and swaps halves, so that column g of product e is column 8 g + e of V.
#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/fragment.cuh"

namespace parlo::cuda {
namespace {

constexpr int kRows = 16;
constexpr int kStepKeys = 16;

// Softmax and sums of rows g and g + 8 of a lane's warp; columns 64 c + 16 t + 8 (i % 2) + e of row
// g + 8 (i / 2) are acc[c][e][i].
template <int DP>
struct DecodeRows {
  float acc[DP / 64][8][4] = {};
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {};  // sum: of the keys of this lane
};

// s -> 2^(s - top); what was summed so far is scaled down where the maximum rises.
template <int DP>
__device__ __forceinline__ void softmax_step(float (&s)[2][4], DecodeRows<DP>& rows) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float most = rows.top[r];
#pragma unroll
    for (int n = 0; n < 2; ++n) most = fmaxf(most, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
    most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
    most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
    // Before the first key everything is -infinity, and so is what the difference would be.
    const float base = most == -INFINITY ? 0.0f : most, fall = ptx::ex2(rows.top[r] - base);
    rows.top[r] = most;
    rows.sum[r] *= fall;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 2 * r; e < 2 * r + 2; ++e) {
        s[n][e] = ptx::ex2(s[n][e] - base);
        rows.sum[r] += s[n][e];
      }
    }
#pragma unroll
    for (auto& chunk : rows.acc) {
#pragma unroll
      for (float(&d)[4] : chunk) d[2 * r] *= fall, d[2 * r + 1] *= fall;
    }
  }
}

template <int DP>
__device__ __forceinline__ void add_values(DecodeRows<DP>& rows, const float (&p)[2][4],
                                           const Words (&v)[4][DP / 64]) {
  const uint32_t a[4] = {pack_bf16(p[0][0], p[0][1]), pack_bf16(p[0][2], p[0][3]),
                         pack_bf16(p[1][0], p[1][1]), pack_bf16(p[1][2], p[1][3])};
#pragma unroll
  for (int c = 0; c < DP / 64; ++c) {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const auto side_by_side = [&](int key) {
        const uint32_t x = v[key][c].v[e / 2], y = v[key + 1][c].v[e / 2];
        return e % 2 == 0 ? low_halves(x, y) : high_halves(x, y);
      };
      ptx::mma_bf16(rows.acc[c][e], a, side_by_side(0), side_by_side(2));
    }
  }
}

// The fragments of the block's queries, as the lanes hold them: rows g and g + 8, 32 columns each.
// They would take the registers of one more block.
template <int DP>
using Queries = Words[2][DP / 32][kWarp];

template <int DP>
__device__ __forceinline__ void load_queries(const DecodeOperands<bf16>& f,
                                             const DecodeBlock<bf16>& b, Queries<DP>& q) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  for (int i = threadIdx.x / kWarp; i < 2 * (DP / 32); i += kDecodeWarps) {
    const int r = i % 2, c = i / 2, row = g + 8 * r, at = c * 32 + t * 8;
    q[r][c][lane] = load_words(b.queries(f, row) + at, row < b.count && at < f.d);
  }
  __syncthreads();
}

template <int DP>
__device__ __forceinline__ void decode_keys(const DecodeOperands<bf16>& f,
                                            const DecodeBlock<bf16>& b, const Queries<DP>& q,
                                            DecodeRows<DP>& rows) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int seen[2] = {b.seen(g), b.seen(g + 8)};
  constexpr int kTurn = kDecodeWarps * kStepKeys;
  const int end = b.end(), first = b.first + static_cast<int>(threadIdx.x) / kWarp * kStepKeys;
  const int64_t next_key = b.keys.k.t, next_value = b.keys.v.t;
  const bf16* key = b.keys.k.head(b.unit, b.kv_head) + (first + g) * next_key + t * 8;
  const bf16* value = b.keys.v.head(b.unit, b.kv_head) + (first + t * 2) * next_value + g * 8;
  for (int j = first; j < end; j += kTurn, key += kTurn * next_key, value += kTurn * next_value) {
    Words k[2][DP / 32], v[4][DP / 64];
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const bool inside = j + n * 8 + g < end;
#pragma unroll
      for (int c = 0; c < DP / 32; ++c) {
        k[n][c] = load_words(key + n * 8 * next_key + c * 32, inside && c * 32 + t * 8 < f.d);
      }
    }
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const int skip = m / 2 * 8 + m % 2;
      const bool inside = j + t * 2 + skip < end;
#pragma unroll
      for (int c = 0; c < DP / 64; ++c) {
        v[m][c] = load_words(value + skip * next_value + c * 64, inside && c * 64 + g * 8 < f.d);
      }
    }
    float s[2][4] = {};
#pragma unroll
    for (int c = 0; c < DP / 32; ++c) {
      const Words up = q[0][c][lane], low = q[1][c][lane];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const Words& x = k[n][c];
        ptx::mma_bf16(s[n], {up.v[0], low.v[0], up.v[1], low.v[1]}, x.v[0], x.v[1]);
        ptx::mma_bf16(s[n], {up.v[2], low.v[2], up.v[3], low.v[3]}, x.v[2], x.v[3]);
      }
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        s[n][e] = j + n * 8 + t * 2 + e % 2 < seen[e / 2] ? s[n][e] * f.scale2 : -INFINITY;
      }
    }
    softmax_step(s, rows);
    add_values(rows, s, v);
  }
}

template <int DP>
__global__ void __launch_bounds__(kDecodeThreads, 3)
    decode_mma_kernel(const DecodeOperands<bf16> f) {
  SMEM(Words, q, [2][DP / 32][kWarp]);
  SMEM(SoftmaxPart, parts, [kDecodeWarps][kRows]);
  SMEM(alignas(16) float, acc, [kDecodeWarps][kRows][DP]);
  const DecodeBlock<bf16> b = decode_block<kRows>(f);
  if (b.first >= b.end()) return;
  load_queries<DP>(f, b, q);
  DecodeRows<DP> rows;
  decode_keys<DP>(f, b, q, rows);
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4, warp = threadIdx.x / kWarp;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = rows.sum[r];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    const int row = g + 8 * r;
    if (row >= b.count) continue;
    if (t == 0) parts[warp][row] = {rows.top[r], sum};
#pragma unroll
    for (int c = 0; c < DP / 64; ++c) {
#pragma unroll
      for (int e = 0; e < 16; e += 4) {
        const auto at = [&](int k) { return rows.acc[c][(e + k) % 8][2 * r + e / 8]; };
        store_pack<4>(&acc[warp][row][c * 64 + t * 16 + e],
                      Pack<float, 4>{at(0), at(1), at(2), at(3)});
      }
    }
  }
  store_parts(f, b, parts, acc);
}

}  // namespace

void decode_by_mma(DecodeOperands<bf16> f, Device device) {
  const unsigned blocks = decode_blocks(f, kRows);
  if (f.d <= 64) {
    launch({"decode_mma", blocks, kDecodeThreads, device}, decode_mma_kernel<64>, f);
  } else {
    launch({"decode_mma", blocks, kDecodeThreads, device}, decode_mma_kernel<128>, f);
  }
}

}  // namespace parlo::cuda
