// Attention forward in bf16 on Hopper (sm_90a), D = 64 and 128; masks with holes take the kernel of
// attention_bf16.cu.
// Floor: 4 D Tq Tk flops a head at the tensor cores' rate, and Tq Tk exponentials at 16 a clock and
// multiprocessor: on an H100 as long as the products at D = 64, half of them at D = 128.
// A block of 3 warpgroups owns 128 queries: one thread of the first feeds rings of K and V tiles of
// 128 keys by TMA, the others have 64 queries each. S = Q K' comes from shared memory, O += P V
// takes P from registers. Within a warpgroup the softmax of a tile runs under P V of the tile
// before; named barriers let the two issue their products in turn, so that one's softmax runs under
// the other's products. Shared memory 144 KiB at D = 64 (4 tiles of K and of V), 160 KiB at 128 (2
// of each); one block a multiprocessor. Limiter: exponentials at D = 64, wgmma at 128. Sources: PTX
// ISA, wgmma and mbarrier; FlashAttention-3 (arXiv 2407.08608) for the schedule.
#include "kernels/cuda/attention_sm90.cuh"

namespace parlo::cuda {
namespace {

// The producer: tiles of K and V, as the consumers free their places.
template <int D>
__device__ __forceinline__ void feed(unsigned char* q, HopperBarriers<D>& bars,
                                     const TensorMapPair& map_k, const TensorMapPair& map_v,
                                     const TokenTiles<HopperTile<D>::kKeys>& keys, int tiles,
                                     int head, int b) {
  using Tile = HopperTile<D>;
  unsigned char *const k = q + Tile::kBytes, *const v = k + Tile::kStages * Tile::kBytes;
  for (int tile = 0; tile < tiles; ++tile) {
    const int place = tile % Tile::kStages, parity = (tile / Tile::kStages & 1) ^ 1;
    const int part = keys.part(tile), first = keys.row(tile), at = place * Tile::kBytes;
    ptx::mbar_wait(&bars.k.empty[place], parity);
    load_parts<D>(k + at, map_k.of(part), &bars.k.full[place], first, head, b);
    ptx::mbar_wait(&bars.v.empty[place], parity);
    load_parts<D>(v + at, map_v.of(part), &bars.v.full[place], first, head, b);
  }
}

// One consumer: o and the softmax of its 64 rows, which start at `first`, over the first `length`
// keys; at least one tile.
template <int D>
__device__ __forceinline__ void consume(float (&o)[D / 2], HopperSoftmax& softmax, unsigned char* q,
                                        HopperBarriers<D>& bars, const AttentionSizes& size,
                                        const TokenTiles<HopperTile<D>::kKeys>& keys, int length,
                                        int tiles, int first, int group) {
  using Tile = HopperTile<D>;
  const uint32_t k = ptx::smem_u32(q) + Tile::kBytes, v = k + Tile::kStages * Tile::kBytes;
  const uint32_t queries = ptx::smem_u32(q) + group * (64 * 128);
  const int warp = threadIdx.x / kWarp % 4, lane = threadIdx.x % kWarp;
  const float scale2 = size.scale * kLog2e;
  const auto release = [&](uint64_t* empty) {
    if (lane == 0) ptx::mbar_arrive(empty);
  };
  const auto place = [](int tile) { return tile % Tile::kStages; };
  const auto parity = [](int tile) { return tile / Tile::kStages & 1; };
  const auto wait_turn = [&] { ptx::bar_sync(1 + group, 2 * Tile::kGroup); };
  const auto give_turn = [&] { ptx::bar_arrive(2 - group, 2 * Tile::kGroup); };
  const auto hide = [&](float(&s)[64], int tile) {
    const int j = keys.first(tile), end = j + Tile::kKeys, row = first + warp * 16 + lane / 4;
    const int n = min(keys.end(tile), length);
    if (end <= n && !(size.causal && end - 1 > first + size.shift())) return;
    hide_columns(s, {size.keys_until(n, row) - j, size.keys_until(n, row + 8) - j});
  };
  float s[64];
  uint32_t p[8][4];
  ptx::mbar_wait(&bars.k.full[0], 0);
  wait_turn();
  ptx::wgmma_fence();
  issue_scores<D>(s, queries, k);
  if (group == 0 || tiles > 1) give_turn();
  ptx::wgmma_wait<0>();
  release(&bars.k.empty[0]);
  hide(s, 0);
  softmax_step(s, softmax, scale2);
  pack_scores(p, s);
  for (int tile = 1; tile < tiles; ++tile) {
    const int before = tile - 1;
    ptx::mbar_wait(&bars.k.full[place(tile)], parity(tile));
    wait_turn();
    ptx::wgmma_fence();
    issue_scores<D>(s, queries, k + place(tile) * Tile::kBytes);
    scale_rows<D>(o, softmax.fall);
    ptx::mbar_wait(&bars.v.full[place(before)], parity(before));
    ptx::wgmma_fence();
    issue_values<D>(o, p, v + place(before) * Tile::kBytes);
    if (group == 0 || tile + 1 < tiles) give_turn();
    ptx::wgmma_wait<1>();  // s, while the values go on
    release(&bars.k.empty[place(tile)]);
    hide(s, tile);
    softmax_step(s, softmax, scale2);
    ptx::follow(softmax.sum[0] + softmax.sum[1]);  // the softmax runs under the values
    ptx::wgmma_wait<0>();
    release(&bars.v.empty[place(before)]);
    pack_scores(p, s);
  }
  const int last = tiles - 1, from = keys.first(last);
  scale_rows<D>(o, softmax.fall);
  ptx::mbar_wait(&bars.v.full[place(last)], parity(last));
  if (length < min(from + Tile::kKeys, keys.end(last))) {
    clear_hidden<D>(q + (1 + Tile::kStages + place(last)) * Tile::kBytes, nullptr, length, from);
  }
  ptx::wgmma_fence();
  issue_values<D>(o, p, v + place(last) * Tile::kBytes);
  ptx::wgmma_wait<0>();
}

template <int D>
__global__ void __launch_bounds__(HopperTile<D>::kThreads, 1)
    attention_sm90_kernel(const AttentionForwardOperands<bf16> f,
                          const __grid_constant__ TensorMapPair map_q,
                          const __grid_constant__ TensorMapPair map_k,
                          const __grid_constant__ TensorMapPair map_v) {
#if defined(PARLO_SIMT) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Tile = HopperTile<D>;
  SMEM_DYNAMIC(raw);
  SMEM(HopperBarriers<D>, bars_of_block, [1]);
  HopperBarriers<D>& bars = bars_of_block[0];
  unsigned char* const q = raw + (1024 - ptx::smem_u32(raw) % 1024) % 1024;
  const AttentionSizes& size = f.s;
  const auto queries = TokenTiles<Tile::kRows>::of(f.q, size.tq);
  const auto keys = TokenTiles<Tile::kKeys>::of(f.k, size.tk);
  const int tiles_q = queries.until(size.tq);
  const AttentionBlock block = attention_block(tiles_q, size.heads);
  // The last queries see most keys: their blocks start first.
  const int tile_q = tiles_q - 1 - block.tile, first = queries.first(tile_q);
  const int end = min(first + Tile::kRows, queries.end(tile_q));
  const int kv_head = block.head / (size.heads / size.kv_heads);
  const int length = size.keys(block.b);
  const int tiles = keys.until(size.keys_until(length, end - 1));
  const int group = static_cast<int>(threadIdx.x) / Tile::kGroup - 1;  // -1: the producer
  if (threadIdx.x == 0) {
    ptx::mbar_init(&bars.queries, 1);
    for (KeyRing<D>* ring : {&bars.k, &bars.v}) {
      for (int i = 0; i < Tile::kStages; ++i) {
        ptx::mbar_init(&ring->full[i], 1);
        ptx::mbar_init(&ring->empty[i], 8);  // one arrival of each consumer warp
      }
    }
    ptx::fence_mbar_init();
  }
  __syncthreads();
  if (group < 0) {
    ptx::setmaxnreg_dec<24>();
    if (threadIdx.x == 0) {
      load_parts<D>(q, map_q.of(queries.part(tile_q)), &bars.queries, queries.row(tile_q),
                    block.head, block.b);
      feed<D>(q, bars, map_k, map_v, keys, tiles, kv_head, block.b);
    }
    return;
  }
  ptx::setmaxnreg_inc<240>();
  float o[D / 2];
#pragma unroll
  for (int i = 0; i < D / 2; ++i) o[i] = 0;
  HopperSoftmax softmax{{-INFINITY, -INFINITY}, {0, 0}, {1, 1}};
  ptx::mbar_wait(&bars.queries, 0);
  if (tiles > 0) {
    if (group == 1) ptx::bar_arrive(1, 2 * Tile::kGroup);  // the other goes first
    consume<D>(o, softmax, q, bars, size, keys, length, tiles, first + group * 64, group);
  }
  ptx::bar_sync(3 + group, Tile::kGroup);
  finish<D>(o, softmax, q, f, block, first, end, group * 64 + threadIdx.x / kWarp % 4 * 16);
#endif
}

// False where the library was built without sm_90a: the kernel has a body, and so static shared
// memory, only there.
bool built_for_hopper(Device device) {
#ifdef PARLO_SIMT
  (void)device;
  return true;
#else
  static const bool built = [&] {
    (void)stream_of(device);  // makes the device current
    cudaFuncAttributes attributes{};
    CUDA_CHECK(cudaFuncGetAttributes(&attributes, attention_sm90_kernel<64>));
    return attributes.sharedSizeBytes > 0;
  }();
  return built;
#endif
}

template <int D>
bool launch_sm90(const AttentionForwardOperands<bf16>& f, int64_t batch, Device device) {
  using Tile = HopperTile<D>;
  const auto q = maps_of<Tile::kRows>(f.q, batch, f.s.tq, f.s.heads, D);
  const auto k = maps_of<Tile::kKeys>(f.k, batch, f.s.tk, f.s.kv_heads, D);
  const auto v = maps_of<Tile::kKeys>(f.v, batch, f.s.tk, f.s.kv_heads, D);
  if (!q || !k || !v) return false;
  const int tiles = TokenTiles<Tile::kRows>::of(f.q, f.s.tq).until(f.s.tq);
  launch({"attention_sm90", attention_blocks(tiles, 1, batch * f.s.heads), Tile::kThreads, device,
          Tile::kShared},
         attention_sm90_kernel<D>, f, *q, *k, *v);
  return true;
}

}  // namespace

bool runs_hopper_kernels(Device device) {
  const Properties& gpu = properties(device);
  return gpu.major == 9 && gpu.minor == 0 && built_for_hopper(device);
}

bool attention_forward_sm90(const AttentionForwardOperands<bf16>& f, int64_t batch, Device device) {
  if (!runs_hopper_kernels(device)) return false;
  // Values in holes may be NaN, which a probability of zero does not hide; to clear them in every
  // tile the consumers would have to wait for each other.
  if (f.s.key_mask || !(f.s.scale > 0)) return false;
  if (f.s.d == 64) return launch_sm90<64>(f, batch, device);
  return f.s.d == 128 && launch_sm90<128>(f, batch, device);
}

}  // namespace parlo::cuda
