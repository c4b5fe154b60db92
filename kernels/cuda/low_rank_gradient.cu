// c = a' b over many rows, one side narrow. Rows are K of the tensor-core product, so that both
// operands lie across it: a lane reads 16 bytes of four rows and pairs their halves in registers.
// A block sums a chunk of rows for 64 columns, four warps row by row; the chunks are added up in
// order by a second kernel, from L2. Floor: bytes of both operands, the narrow one once for every
// 64 columns from L2.
#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/low_rank.h"
#include "kernels/cuda/map.cuh"

namespace parlo::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kColumns = 64;          // a block
constexpr int kChunk = 1024;          // rows; fixed, for results must not depend on the GPU
constexpr int64_t kFewestRows = 256;  // below, a product of the library is as good
constexpr int kThreads = 256;         // of the second kernel

struct Gradient {
  int64_t rows, columns;
  int rank;  // columns of the narrow side
  const bf16* narrow;
  int64_t narrow_row;
  const bf16* wide;
  int64_t wide_row;
  float* sums;  // [chunks, blocks of columns, Tiles * 1024] in the order of fragments
};

// What a lane holds of 16 rows. Lane (g, t) reads rows t, t + 4, t + 8 and t + 12: pairs 0, 1 and
// 2, 3 of the product. Its columns are g * 8 .. g * 8 + 7, one for each of eight products; of the
// narrow side it takes columns g * 2 Tiles .. for rows g and g + 8 of each tile.
template <int Tiles>
struct Slice {
  Words wide[4];
  Pack<uint32_t, Tiles> narrow[4];

  __device__ __forceinline__ void load(const Gradient& d, int64_t row, int64_t end, int64_t column,
                                       int g, int t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t at = row + i * 4 + t;
      wide[i] = load_words(d.wide + at * d.wide_row + column + g * 8,
                           at < end && column + g * 8 < d.columns);
      narrow[i] = Pack<uint32_t, Tiles>{};
      if (at < end && g * 2 * Tiles < d.rank) {
        const bf16* const p = d.narrow + at * d.narrow_row + g * 2 * Tiles;
        narrow[i] = load_pack<Tiles>(reinterpret_cast<const uint32_t*>(p));
      }
    }
  }

  __device__ __forceinline__ void add_to(float (&sum)[Tiles][8][4]) const {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const auto pair = [&](int i) {
        const uint32_t x = wide[i].v[j / 2], y = wide[i + 1].v[j / 2];
        return j % 2 == 0 ? low_halves(x, y) : high_halves(x, y);
      };
      const uint32_t first = pair(0), second = pair(2);
#pragma unroll
      for (int m = 0; m < Tiles; ++m) {
        const uint32_t a[4] = {low_halves(narrow[0].v[m], narrow[1].v[m]),
                               high_halves(narrow[0].v[m], narrow[1].v[m]),
                               low_halves(narrow[2].v[m], narrow[3].v[m]),
                               high_halves(narrow[2].v[m], narrow[3].v[m])};
        ptx::mma_bf16(sum[m][j], a, first, second);
      }
    }
  }
};

template <int Tiles>  // 16 columns of the narrow side each
__global__ void __launch_bounds__(kWarps* kWarp) low_rank_gradient_kernel(Gradient d) {
  SMEM_DYNAMIC(raw);
  constexpr int kSums = Tiles * 1024;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * kChunk;
  const int64_t end = min(d.rows, begin + kChunk);
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns;
  const int g = lane / 4, t = lane % 4;
  float sum[Tiles][8][4] = {};
  Slice<Tiles> now, next;  // the next rows are on their way while these are multiplied
  now.load(d, begin + warp * 16, end, column, g, t);
  for (int64_t row = begin + warp * 16; row < end; row += kWarps * 16) {
    next.load(d, row + kWarps * 16, end, column, g, t);
    now.add_to(sum);
    now = next;
  }
  float* const shared = reinterpret_cast<float*>(raw);
#pragma unroll
  for (int i = 0; i < Tiles * 32; ++i) {
    shared[warp * kSums + i * kWarp + lane] = sum[i / 32][i / 4 % 8][i % 4];
  }
  __syncthreads();
  float* const out = d.sums + (static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * kSums;
  for (int i = threadIdx.x; i < kSums; i += kWarps * kWarp) {
    float total = shared[i];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) total += shared[w * kSums + i];
    out[i] = total;
  }
}

struct Combine {
  int64_t chunks, tiles, columns;  // tiles: blocks of columns
  int rank;
  const float* sums;
  void* c;                         // bf16 or f32
  int64_t rank_step, column_step;  // of c
  float alpha, beta;
};

template <int Tiles, class Out>
__global__ void __launch_bounds__(kThreads) low_rank_combine_kernel(Combine d) {
  constexpr int kSums = Tiles * 1024;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t step = d.tiles * kSums;
  if (at >= step) return;
  float total = 0;
  for (int64_t chunk = 0; chunk < d.chunks; ++chunk) total += d.sums[chunk * step + at];
  // Back from a fragment: element e of product (m, j) in lane (g, t).
  const int i = static_cast<int>(at % kSums), lane = i % kWarp, g = lane / 4, t = lane % 4;
  const int e = i / kWarp % 4, j = i / (kWarp * 4) % 8, m = i / (kWarp * 32);
  const int r = g * 2 * Tiles + 2 * m + e / 2;
  const int64_t column = at / kSums * kColumns + (2 * t + e % 2) * 8 + j;
  if (r >= d.rank || column >= d.columns) return;
  Out* const c = static_cast<Out*>(d.c) + r * d.rank_step + column * d.column_step;
  total *= d.alpha;
  if (d.beta != 0) total += d.beta * to_f32(*c);
  *c = from_f32<Out>(total);
}

template <int Tiles>
bool run(Gradient d, Combine combine, const Tensor& c) {
  constexpr int kSums = Tiles * 1024;
  constexpr int kBytes = Tiles * 4;  // of one load of the narrow side
  if (d.rank % (2 * Tiles) != 0 || d.narrow_row * 2 % kBytes != 0 ||
      reinterpret_cast<uintptr_t>(d.narrow) % kBytes != 0) {
    return false;
  }
  const int64_t chunks = ceil_div(d.rows, kChunk), tiles = ceil_div(d.columns, kColumns);
  if (chunks > 65535) return false;  // layers of a grid
  const Device device = c.device();
  const Tensor sums = Tensor::empty({chunks, tiles, kSums}, DType::f32, device);
  d.sums = sums.data<float>();
  launch({"low_rank_gradient", dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(chunks)),
          kWarps * kWarp, device, sizeof(float) * kWarps * kSums},
         low_rank_gradient_kernel<Tiles>, d);
  combine.chunks = chunks, combine.tiles = tiles, combine.sums = d.sums;
  const Launch last{"low_rank_combine", static_cast<unsigned>(ceil_div(tiles * kSums, kThreads)),
                    kThreads, device};
  if (c.dtype() == DType::f32) {
    launch(last, low_rank_combine_kernel<Tiles, float>, combine);
  } else {
    launch(last, low_rank_combine_kernel<Tiles, bf16>, combine);
  }
  return true;
}

int64_t row_of(const Tensor& t) {
  return t.dim(0) > 1 ? t.strides()[0] : t.dim(1);
}

}  // namespace

bool low_rank_gradient(const Tensor& a, const Tensor& b, const Tensor& c, float alpha, float beta) {
  if (a.dtype() != DType::bf16) return false;
  const bool turned = b.dim(1) < a.dim(1);  // the narrow side is b: c is transposed
  const Tensor &narrow = turned ? b : a, &wide = turned ? a : b;
  if (narrow.dim(1) > kMostRank || a.dim(0) < kFewestRows) return false;
  const Gradient d{a.dim(0),
                   wide.dim(1),
                   static_cast<int>(narrow.dim(1)),
                   pointer<const bf16>(narrow),
                   row_of(narrow),
                   pointer<const bf16>(wide),
                   row_of(wide),
                   nullptr};
  if (d.columns % 8 != 0 || d.wide_row % 8 != 0 || !is_aligned(d.wide)) return false;
  const int64_t c_row = row_of(c);
  const Combine combine{0,       0,       d.columns,          d.rank,
                        nullptr, c.raw(), turned ? 1 : c_row, turned ? c_row : 1,
                        alpha,   beta};
  if (d.rank <= 16) return run<1>(d, combine, c);
  if (d.rank <= 32) return run<2>(d, combine, c);
  return run<4>(d, combine, c);
}

}  // namespace parlo::cuda
