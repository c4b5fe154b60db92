// Attention forward in f32 by FMA. Floor: 4 D Tq Tk flops a head at the FMA rate.
// A block owns 64 queries (32 above D = 128) and walks 64, 32, 16 keys at a time at D = 64, 128,
// 256; K of the next tile comes under the values of this one, V under the scores. Shared memory 71,
// 78, 67 KiB. Softmax online, base 2. Limiter: 16-byte reads of shared memory, 1 for 8 FMA a
// thread.
#include "kernels/cuda/attention_fma.cuh"

namespace parlo::cuda {
namespace {

template <int DP>
struct FmaForwardTile {
  static constexpr int kRows = DP <= 128 ? 64 : 32, kKeys = DP <= 64 ? 64 : (DP <= 128 ? 32 : 16);
  static constexpr int kR = kRows / kFmaSide, kC = kKeys / kFmaSide;
  static constexpr int kQueryFloats = kRows * kFmaRow<DP>, kKeyFloats = kKeys * kFmaRow<DP>;
  static constexpr int kFloats = kQueryFloats + 2 * kKeyFloats + kRows * kScoreRow<kKeys>;
  static constexpr int kShared = kFloats * static_cast<int>(sizeof(float));
};

// Over the 16 threads that share a row.
template <class Fn>
__device__ __forceinline__ float over_row(float x, Fn fn) {
#pragma unroll
  for (int o = kFmaSide / 2; o > 0; o /= 2) x = fn(x, __shfl_xor_sync(kAllLanes, x, o));
  return x;
}

// s -> 2^(s scale2 - top) where bit (column) of bits_of(row) is 1, else 0; sums and accumulators
// are scaled down where the maximum rises.
template <int kR, int kC, int kV, class Bits>
__device__ __forceinline__ void softmax_step(float (&s)[kR][kC], float (&top)[kR], float (&sum)[kR],
                                             Pack<float, 4> (&acc)[kR][kV], float scale2,
                                             Bits bits_of) {
  const int x = threadIdx.x % kFmaSide, y = threadIdx.x / kFmaSide;
#pragma unroll
  for (int r = 0; r < kR; ++r) {
    const uint64_t bits = bits_of(y + r * kFmaSide) >> x;
    float most = top[r];
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      s[r][c] = bits >> (c * kFmaSide) & 1 ? s[r][c] * scale2 : -INFINITY;
      most = fmaxf(most, s[r][c]);
    }
    most = over_row(most, [](float a, float b) { return fmaxf(a, b); });
    // Before the first key everything is -infinity, and so is what the difference would be.
    const float base = most == -INFINITY ? 0.0f : most, fall = ptx::ex2(top[r] - base);
    top[r] = most;
    sum[r] *= fall;
#pragma unroll
    for (int c = 0; c < kC; ++c) {
      s[r][c] = ptx::ex2(s[r][c] - base);
      sum[r] += s[r][c];
    }
#pragma unroll
    for (int c = 0; c < kV; ++c) {
#pragma unroll
      for (int j = 0; j < 4; ++j) acc[r][c].v[j] *= fall;
    }
  }
}

template <int DP>
__global__ void __launch_bounds__(kFmaThreads, 2)
    attention_f32_kernel(const AttentionForwardOperands<float> f) {
  using Tile = FmaForwardTile<DP>;
  constexpr int kR = Tile::kR;
  SMEM_DYNAMIC(shared);
  float* const q = reinterpret_cast<float*>(shared);
  float *const k = q + Tile::kQueryFloats, *const v = k + Tile::kKeyFloats;
  float* const p = v + Tile::kKeyFloats;
  const AttentionSizes& size = f.s;
  const int tiles_q = (size.tq + Tile::kRows - 1) / Tile::kRows;
  const AttentionBlock block = attention_block(tiles_q, size.heads);
  // The last queries see most keys: their blocks start first.
  const int first = (tiles_q - 1 - block.tile) * Tile::kRows;
  const int kv_head = block.head / (size.heads / size.kv_heads);
  const int keys = size.keys(block.b);
  const uint8_t* mask = size.mask_of(block.b);
  const auto load = [&](float* to, const TokenRows<const float>& x, int tile) {
    load_floats<DP, Tile::kKeys>(to, x, block.b, kv_head, tile * Tile::kKeys, size.d,
                                 [&](int j) { return j < keys && (!mask || mask[j] != 0); });
  };
  const int seen = size.keys_until(keys, min(first + Tile::kRows, size.tq) - 1);
  const int tiles = (seen + Tile::kKeys - 1) / Tile::kKeys;

  load_floats<DP, Tile::kRows>(q, f.q, block.b, block.head, first, size.d,
                               [&](int i) { return i < size.tq; });
  if (tiles > 0) load(k, f.k, 0);
  ptx::cp_async_commit();
  if (tiles > 0) load(v, f.v, 0);
  ptx::cp_async_commit();

  Pack<float, 4> acc[kR][DP / 64] = {};
  float top[kR], sum[kR] = {};
#pragma unroll
  for (int r = 0; r < kR; ++r) top[r] = -INFINITY;
  for (int tile = 0; tile < tiles; ++tile) {
    const bool more = tile + 1 < tiles;
    ptx::cp_async_wait<1>();
    __syncthreads();  // k is there
    float s[kR][Tile::kC];
    dot_rows<DP>(s, q, k);
    __syncthreads();  // nobody reads k
    if (more) load(k, f.k, tile + 1);
    ptx::cp_async_commit();
    softmax_step(s, top, sum, acc, size.scale * kLog2e,
                 seen_pairs<false>(size, mask, keys, first, tile * Tile::kKeys));
    put_scores<Tile::kKeys>(p, s);
    ptx::cp_async_wait<1>();
    __syncthreads();  // v and p are there
    add_rows<DP, Tile::kKeys>(acc, p, v);
    __syncthreads();  // nobody reads v
    if (more) load(v, f.v, tile + 1);
    ptx::cp_async_commit();
  }

  float factor[kR];
#pragma unroll
  for (int r = 0; r < kR; ++r) {
    const float total = over_row(sum[r], [](float a, float b) { return a + b; });
    factor[r] = total == 0 ? 0 : 1 / total;  // no keys
    const int i = first + static_cast<int>(threadIdx.x) / kFmaSide + r * kFmaSide;
    if (threadIdx.x % kFmaSide == 0 && i < size.tq) {
      f.lse[(int64_t{block.b} * size.heads + block.head) * size.tq + i] =
          total == 0 ? -INFINITY : fmaf(top[r], kLn2, logf(total));
    }
  }
  store_floats<DP>(acc, factor, f.out, block.b, block.head, first, size.tq, size.d);
  ptx::cp_async_wait<0>();
}

}  // namespace

void attention_forward(const AttentionForwardOperands<float>& f, int64_t batch, Device device) {
  visit_head_size(f.s.d, [&](auto size) {
    using Tile = FmaForwardTile<size.value>;
    launch({"attention_f32", attention_blocks(f.s.tq, Tile::kRows, batch * f.s.heads), kFmaThreads,
            device, Tile::kShared},
           attention_f32_kernel<size.value>, f);
  });
}

}  // namespace parlo::cuda
