// skinny_linear by tensor cores: w is read once from memory, in fragments, without shared memory.
// A block has 16 or 32 rows of w, its warps the steps of K in turn, and their sums are added in
// order; rows of w are the rows of the products, rows of x the columns. Floor: bytes of w.
// Limiter: a block reads all of x, from the L2: a half or a quarter of w's bytes for 8 rows.
#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/skinny.cuh"

namespace parlo::cuda {
namespace {

constexpr int kParts = 8;  // of K, a warp each
constexpr int kThreads = kParts * kWarp;
constexpr int kStep = 64;  // of K
constexpr int kMostRows = 32;

using Operands = SkinnyOperands<bf16, bf16>;

// Sums of kTiles x 16 rows of w and kColumns x 8 rows of x over a warp's part of K.
template <int kTiles, int kColumns>
__device__ __forceinline__ void add_part(const Operands& f, int64_t first,
                                         float (&sum)[kTiles][kColumns][4]) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int part = threadIdx.x / kWarp;
  for (int64_t k0 = part * kStep + t * 8; k0 < f.k + t * 8; k0 += kParts * kStep) {
    Words w[2][kTiles][2];  // half of the step, 16 rows, 8 rows
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int i = 0; i < kTiles * 2; ++i) {
        const int64_t row = first + i * 8 + g, k = k0 + h * 32;
        w[h][i / 2][i % 2] = load_words(f.w + row * f.k + k, row < f.n && k < f.k);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const int64_t row = c * 8 + g, k = k0 + h * 32;
        const Words x = load_words(f.x + row * f.k + k, row < f.rows && k < f.k);
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          const Words &up = w[h][m][0], &low = w[h][m][1];
          ptx::mma_bf16(sum[m][c], {up.v[0], low.v[0], up.v[1], low.v[1]}, x.v[0], x.v[1]);
          ptx::mma_bf16(sum[m][c], {up.v[2], low.v[2], up.v[3], low.v[3]}, x.v[2], x.v[3]);
        }
      }
    }
  }
}

template <int kTiles, int kColumns>
__global__ void __launch_bounds__(kThreads) skinny_mma_kernel(const Operands f) {
  constexpr int kRows = kTiles * 16, kPitch = kRows + 4;  // 4: lanes meet no bank twice
  SMEM(float, sums, [kParts][kColumns * 8][kPitch]);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRows;
  float sum[kTiles][kColumns][4] = {};
  add_part(f, first, sum);
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int part = threadIdx.x / kWarp;
#pragma unroll
  for (int m = 0; m < kTiles; ++m) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[part][c * 8 + t * 2 + i % 2][m * 16 + i / 2 * 8 + g] = sum[m][c][i];
      }
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < static_cast<int>(f.rows) * kRows; i += kThreads) {
    const int row = i / kRows, column = i % kRows;
    float total = sums[0][row][column];
#pragma unroll
    for (int p = 1; p < kParts; ++p) total += sums[p][row][column];
    if (first + column < f.n) finish_sum(f, row, first + column, total);
  }
}

template <int kTiles>
void run(const Operands& f, Device device) {
  const auto start = [&](auto kernel) {
    const int64_t blocks = ceil_div(f.n, kTiles * 16);
    CHECK(blocks < int64_t{1} << 31, "skinny_linear: w has ", f.n, " rows, which are too many");
    launch({"skinny_mma", static_cast<unsigned>(blocks), kThreads, device}, kernel, f);
  };
  if (f.rows <= 8) {
    start(skinny_mma_kernel<kTiles, 1>);
  } else if (f.rows <= 16) {
    start(skinny_mma_kernel<kTiles, 2>);
  } else {
    start(skinny_mma_kernel<kTiles, 4>);
  }
}

}  // namespace

void skinny_by_mma(const Operands& f, Device device) {
  // Few blocks leave multiprocessors without work; many rows a block read x less often. Sums do not
  // depend on it.
  const bool wide = f.n >= 4 * 32 * int64_t{properties(device).multiprocessors};
  for (int64_t row = 0; row < f.rows; row += kMostRows) {
    const Operands part = f.part(row, kMostRows);
    wide ? run<2>(part, device) : run<1>(part, device);
  }
}

}  // namespace parlo::cuda
