// Attention forward in bf16 by mma.sync, for every GPU from sm_80 on.
// Floor: 4 D Tq Tk flops a head (half when causal) at the tensor cores' rate, or as many
// exponentials as scores at 16 a clock and multiprocessor, which is half of the products' time at D
// = 64 on an A100. A block of 4 warps owns 128 queries (64 above D = 128), 32 rows a warp so that
// each fragment of K and V feeds two products, and walks 64 (32) keys at a time; two tiles of K and
// V, one on its way by cp.async. Shared memory 48, 96, 96 KiB at D = 64, 128, 256. Softmax online,
// in f32 and base 2; the probabilities stay in registers. Limiter: issue slots of ldmatrix and
// softmax next to mma.
#include "kernels/cuda/attention_mma.cuh"

namespace parlo::cuda {
namespace {

template <int DP>
struct ForwardTile {
  static constexpr int kM = DP <= 128 ? 2 : 1;  // 16 rows each, of a warp
  static constexpr int kRows = kMmaWarps * kM * 16, kKeys = DP <= 128 ? 64 : 32;
  static constexpr int kQueryBytes = kRows * DP * 2, kKeyBytes = kKeys * DP * 2;
  static constexpr int kShared = kQueryBytes + 4 * kKeyBytes;
};

// Running softmax of a thread's two rows of each m: maximum in base 2, and this thread's part of
// the sum.
template <int kM>
struct Softmax {
  float top[kM][2], sum[kM][2];
};

// s -> 2^(s - top), with sums and accumulators scaled down where the maximum rises.
template <int kM, int kN, int kC>
__device__ __forceinline__ void softmax_step(float (&s)[kM][kN][4], Softmax<kM>& x,
                                             float (&acc)[kM][kC][4]) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float top = x.top[m][h];
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        top = fmaxf(top, fmaxf(s[m][n][h * 2], s[m][n][h * 2 + 1]));
      }
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      // Before the first key everything is -infinity, and so is what the difference would be.
      const float base = top == -INFINITY ? 0.0f : top;
      const float fall = ptx::ex2(x.top[m][h] - base);
      x.top[m][h] = top;
      float sum = x.sum[m][h] * fall;
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        s[m][n][h * 2] = ptx::ex2(s[m][n][h * 2] - base);
        s[m][n][h * 2 + 1] = ptx::ex2(s[m][n][h * 2 + 1] - base);
        sum += s[m][n][h * 2] + s[m][n][h * 2 + 1];
      }
      x.sum[m][h] = sum;
#pragma unroll
      for (int c = 0; c < kC; ++c) acc[m][c][h * 2] *= fall, acc[m][c][h * 2 + 1] *= fall;
    }
  }
}

template <int DP>
__global__ void __launch_bounds__(kMmaThreads, DP <= 64 ? 2 : 1)
    attention_bf16_kernel(const AttentionForwardOperands<bf16> f) {
  using Tile = ForwardTile<DP>;
  constexpr int kM = Tile::kM;
  SMEM_DYNAMIC(shared);
  const AttentionSizes& size = f.s;
  const int lane = threadIdx.x % kWarp, row = threadIdx.x / kWarp * (16 * kM);
  const int tiles_q = (size.tq + Tile::kRows - 1) / Tile::kRows;
  const AttentionBlock block = attention_block(tiles_q, size.heads);
  // The last queries see most keys: their blocks start first.
  const int first = (tiles_q - 1 - block.tile) * Tile::kRows;
  const int kv_head = block.head / (size.heads / size.kv_heads);
  const int keys = size.keys(block.b);
  const uint8_t* mask = size.mask_of(block.b);
  const auto load_keys = [&](int tile) {
    load_pair<DP, Tile::kKeys>(shared + Tile::kQueryBytes + tile % 2 * (2 * Tile::kKeyBytes), f.k,
                               f.v, block.b, kv_head, tile * Tile::kKeys, size.d,
                               [&](int j) { return j < keys && (!mask || mask[j] != 0); });
  };
  const int seen = size.keys_until(keys, min(first + Tile::kRows, size.tq) - 1);
  const int tiles = (seen + Tile::kKeys - 1) / Tile::kKeys;

  load_tile<DP, Tile::kRows>(shared, f.q, block.b, block.head, first, size.d,
                             [&](int i) { return i < size.tq; });
  if (tiles > 0) load_keys(0);
  ptx::cp_async_commit();

  float acc[kM][DP / 8][4] = {};
  Softmax<kM> softmax;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    softmax.top[m][0] = softmax.top[m][1] = -INFINITY;
    softmax.sum[m][0] = softmax.sum[m][1] = 0;
  }
  const float scale2 = size.scale * kLog2e;
  for (int tile = 0; tile < tiles; ++tile) {
    ptx::cp_async_wait<0>();
    __syncthreads();  // this tile is there, and nobody reads the one before
    if (tile + 1 < tiles) load_keys(tile + 1);
    ptx::cp_async_commit();
    const unsigned char* key_tile = shared + Tile::kQueryBytes + tile % 2 * (2 * Tile::kKeyBytes);
    float s[kM][Tile::kKeys / 8][4] = {};
    multiply_rows<DP>(s, shared, row, key_tile);
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int n = 0; n < Tile::kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s[m][n][i] *= scale2;
      }
    }
    const int j = tile * Tile::kKeys, diagonal = first + row + size.shift() + 1 - j;
    if (mask || j + Tile::kKeys > keys || (size.causal && diagonal < Tile::kKeys)) {
      hide(s, row, -INFINITY, seen_pairs<false>(size, mask, keys, first, j));
    }
    softmax_step(s, softmax, acc);
    multiply_columns<DP>(acc, s, key_tile + Tile::kKeyBytes);
  }
  ptx::cp_async_wait<0>();
  __syncthreads();

  // The warp's rows of the query tile, which only it reads, take its results.
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = softmax.sum[m][h];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      factor[h] = sum == 0 ? 0 : 1 / sum;  // no keys
      const int i = first + row + m * 16 + lane / 4 + h * 8;
      if (lane % 4 == 0 && i < size.tq) {
        f.lse[(int64_t{block.b} * size.heads + block.head) * size.tq + i] =
            sum == 0 ? -INFINITY : fmaf(softmax.top[m][h], kLn2, logf(sum));
      }
    }
    put_rows<DP>(shared, row + m * 16, acc[m], factor[0], factor[1]);
  }
  __syncwarp();
  store_rows<DP, 16 * kM, DP>(shared, row, f.out, block.b, block.head, first, size.tq, size.d);
}

}  // namespace

void attention_forward(const AttentionForwardOperands<bf16>& f, int64_t batch, Device device) {
  if (attention_forward_sm90(f, batch, device)) return;
  visit_head_size(f.s.d, [&](auto size) {
    using Tile = ForwardTile<size.value>;
    launch({"attention_bf16", attention_blocks(f.s.tq, Tile::kRows, batch * f.s.heads), kMmaThreads,
            device, Tile::kShared},
           attention_bf16_kernel<size.value>, f);
  });
}

}  // namespace parlo::cuda
