// y = activation(x w' + bias + low rank) * gate + residual in bf16 on Hopper (sm_90a).
// Floor: 2 rows N (K + r) flops at the tensor cores' rate; with short K the bytes of y, residual
// and pre-activation. A block walks over tiles of 128 x 128 or 128 x 256: one thread of its last
// warp feeds a ring of stages, 64 of K each, by TMA; two warpgroups have 64 rows each and multiply
// by wgmma, m64n128k16 or m64n256k16, one stage's products in flight while the next is awaited.
//
// The low-rank term is more steps of K before the others: stages of `down` and b, whose sums are
// scaled in f32 (an exact place for `scale`; none in bf16), then x and w on top. A segment has
// tensor maps of its own, whose rows are its rows: outside they read as zeros, so that a tile
// across segments takes the steps of each, and a row gets zeros from those of others.
//
// A gated linear unit: of w [2 F, K] a tile takes 64 or 128 rows of both halves, n .. and F + n ..,
// so that the sums of a column of either are in one thread, which multiplies them. The tensor map
// has the halves as a dimension: one box brings both.
//
// Tile and order of the sum follow from N and K alone. Wide tiles read less and pay for it at the
// way out, which nothing overlaps: they are for long K. Shared memory 193 KiB wide, 97 KiB narrow
// and two blocks a multiprocessor. Sources: PTX ISA, wgmma and mbarrier.
#include "kernels/cuda/gemm_sm90_epilogue.cuh"

#include "kernels/cuda/gemm_sm90.h"
#include "kernels/cuda/hopper.h"
#include "kernels/cuda/map.cuh"
#include "kernels/linear_rows.h"

namespace parlo::cuda {
namespace {

constexpr int64_t kLongDepth = 2048;  // from which K on the way out of a wide tile is small

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    gemm_sm90_kernel(const __grid_constant__ HopperGemmOperands f) {
#if defined(PARLO_SIMT) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  SMEM_DYNAMIC(raw);
  SMEM(HopperGemmBarriers<Tile>, bars_of_block, [1]);
  HopperGemmBarriers<Tile>& bars = bars_of_block[0];
  unsigned char* const ring = raw + (1024 - ptx::smem_u32(raw) % 1024) % 1024;
  const int group = static_cast<int>(threadIdx.x) / Tile::kGroup;  // 2: the producer
  if (threadIdx.x == 0) {
    for (int i = 0; i < Tile::kStages; ++i) {
      ptx::mbar_init(&bars.full[i], 1);
      ptx::mbar_init(&bars.empty[i], 8);  // one arrival of each consumer warp
    }
    ptx::fence_mbar_init();
  }
  __syncthreads();
  if (group == 2) {
    if constexpr (Tile::kWide) ptx::setmaxnreg_dec<24>();
    if (threadIdx.x == 2 * Tile::kGroup) feed<Tile>(ring, bars, f);
    return;
  }
  if constexpr (Tile::kWide) ptx::setmaxnreg_inc<240>();
  const int warp = threadIdx.x / kWarp % 4;
  const int64_t tiles = int64_t{f.row_tiles} * f.column_tiles;
  RingPlace<Tile> at;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const TileCorner c = tile_corner<Tile>(f, tile);
    float d[Tile::kSums];
    consume<Tile>(d, at, ptx::smem_u32(ring), bars, f, c.row, group);
    finish_tile<Tile>(d, f, {c.row + group * 64 + warp * 16, c.column});
  }
#endif
}

bool is_empty(const LowRankRows& s) {
  return s.rows == 0 || s.low_rank.down.dim(1) == 0;
}

// A matrix as TMA reads it, in boxes of 64 columns and `rows` rows of each of its parts.
TensorMapArgs map_of(const Tensor& t, uint32_t rows, uint32_t parts = 1) {
  const auto wide = static_cast<uint64_t>(t.dim(1)), n = static_cast<uint64_t>(t.dim(0)) / parts;
  return {t.raw(), {wide, n, parts, 1}, {wide, n * wide, n * wide}, {64, rows, parts, 1}};
}

// Rows [begin, end) with the segments that lie in them.
template <class Tile>
void run(const HopperProduct& p, int64_t begin, int64_t end,
         std::span<const LowRankRows> segments) {
  const auto right = [](const Tensor& t) {
    constexpr int kBox = Tile::kTurned ? Tile::kDepth : Tile::kColumns;  // its rows
    return tensor_map(map_of(t, kBox, Tile::kGlu ? 2 : 1));
  };
  const auto n = [](int64_t i) { return static_cast<int>(i); };
  const LinearArgs args = linear_args_of(p.args, begin, end);
  HopperGemmOperands f{};
  f.rows = n(end - begin), f.columns = n(p.y.dim(1)), f.depth = n(p.x.dim(1));
  f.row_tiles = n(ceil_div(f.rows, Tile::kRows));
  f.column_tiles = n(ceil_div(f.columns, Tile::kColumns));
  f.activation = args.activation;
  f.y = pointer<bf16>(p.y.slice(0, begin, end));
  f.bias = pointer<const bf16>(args.bias), f.residual = pointer<const bf16>(args.residual);
  f.pre = pointer<bf16>(args.pre_activation), f.gate = pointer<const bf16>(args.gate.values);
  f.maps.x = tensor_map(map_of(p.x.slice(0, begin, end), Tile::kRows));
  f.maps.w = right(p.w);
  if (args.gate.values) {
    f.gate_stride = args.gate.values.strides()[0];
    f.gate_rows = n(args.gate.rows), f.gate_first = n(args.gate.first);
  }
  for (const LowRankRows& s : segments) {
    if (is_empty(s)) continue;
    const int64_t first = s.first - begin;
    f.maps.down[f.segments] = tensor_map(map_of(s.low_rank.down, Tile::kRows));
    f.maps.up[f.segments] = right(s.low_rank.b);
    f.segment[f.segments++] = {n(first), n(first + s.rows), n(s.low_rank.down.dim(1)),
                               static_cast<float>(s.low_rank.scale)};
  }
  const Device device = p.y.device();
  const int64_t most = int64_t{Tile::kBlocks} * properties(device).multiprocessors;
  launch({"gemm_sm90", blocks_for(int64_t{f.row_tiles} * f.column_tiles, 1, most), Tile::kThreads,
          device, Tile::kShared},
         gemm_sm90_kernel<Tile>, f);
}

using Run = void (*)(const HopperProduct&, int64_t, int64_t, std::span<const LowRankRows>);

template <RightSide Right>
Run run_of(const HopperProduct& p) {
  using Wide = HopperGemmTile<256, Right>;
  const bool wide = p.x.dim(1) >= kLongDepth && p.y.dim(1) % Wide::kColumns == 0;
  return wide ? run<Wide> : run<HopperGemmTile<128, Right>>;
}

bool takes_matrix(const Tensor& t) {
  return t.dtype() == DType::bf16 && t.is_contiguous() && fits_tensor_map(map_of(t, 1)) &&
         t.dim(0) < INT32_MAX / 2 && t.dim(1) < INT32_MAX / 2;
}

bool takes_gate(const RowGate& gate) {
  const Tensor& g = gate.values;
  return g.dtype() == DType::bf16 && reinterpret_cast<uintptr_t>(g.raw()) % 4 == 0 &&
         g.strides()[0] % 2 == 0 && gate.rows * g.dim(0) < INT32_MAX / 2;
}

}  // namespace

bool takes_gemm_sm90(const HopperProduct& p) {
  if (!runs_hopper_kernels(p.y.device())) return false;
  for (const Tensor* t : {&p.x, &p.w, &p.y}) {
    if (!takes_matrix(*t)) return false;
  }
  for (const Tensor* t : {&p.args.bias, &p.args.residual, &p.args.pre_activation}) {
    if (*t && (t->dtype() != DType::bf16 || !t->is_contiguous() || !is_aligned(t->raw()))) {
      return false;
    }
  }
  if (p.args.gate.values && !takes_gate(p.args.gate)) return false;
  for (const LowRankRows& s : p.args.low_rank_rows) {
    if (is_empty(s)) continue;
    if (!takes_matrix(s.low_rank.down) || !takes_matrix(s.low_rank.b)) return false;
  }
  return true;
}

void gemm_sm90(const HopperProduct& p) {
  const Run run = p.glu      ? run_of<RightSide::halves>(p)
                  : p.turned ? run_of<RightSide::turned>(p)
                             : run_of<RightSide::plain>(p);
  const std::span<const LowRankRows> all = p.args.low_rank_rows;
  const int64_t rows = p.x.dim(0);
  size_t segment = 0;
  for (int64_t row = 0; row < rows;) {  // several launches for more segments than one takes
    const size_t next = std::min(all.size(), segment + kMostSegments);
    const int64_t end = next < all.size() ? all[next].first : rows;
    if (end > row) run(p, row, end, all.subspan(segment, next - segment));
    row = end, segment = next;
  }
}

}  // namespace parlo::cuda
