// down = x a' for a narrow a: x is read once from memory, in fragments, without shared memory.
// A warp holds 32 rows and every fourth step of K; the four parts of a row are added in order.
// Warps of a block that share a part of K read the same lines of a, from L1. Floor: bytes of x.
#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/low_rank.h"
#include "kernels/cuda/map.cuh"

namespace parlo::cuda {
namespace {

constexpr int kRows = 32;   // a warp
constexpr int kParts = 4;   // of K, a warp each
constexpr int kStep = 64;   // of K
constexpr int kGroups = 2;  // of rows, most a block

struct Down {
  int64_t rows, k;
  int rank;
  const bf16* x;
  const bf16* a;
  bf16* down;
};

// Rows of partial sums in shared memory: 8 floats more than wide, so that rows start in other
// banks.
template <int Tiles>
constexpr int kPitch = Tiles * 8 + 8;

template <int Tiles>  // 8 columns of down each
__global__ void __launch_bounds__(kWarp* kParts* kGroups) low_rank_down_kernel(Down d) {
  SMEM_DYNAMIC(raw);
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int warp = threadIdx.x / kWarp, part = warp % kParts, group = warp / kParts;
  const int groups = blockDim.x / (kWarp * kParts);
  const int64_t first = static_cast<int64_t>(blockIdx.x) * groups * kRows;
  const int64_t row = first + group * kRows + g;
  float sum[2][Tiles][4] = {};
  for (int64_t k0 = part * kStep + t * 8; k0 < d.k + t * 8; k0 += kParts * kStep) {
    Words x[2][2][2];  // half of the step, 16 rows, 8 rows
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t at = row + i * 8, k = k0 + h * 32;
        x[h][i / 2][i % 2] = load_words(d.x + at * d.k + k, at < d.rows && k < d.k);
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int n = 0; n < Tiles; ++n) {
        const int64_t k = k0 + h * 32;
        const Words a = load_words(d.a + (n * 8 + g) * d.k + k, n * 8 + g < d.rank && k < d.k);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const Words &up = x[h][m][0], &low = x[h][m][1];
          ptx::mma_bf16(sum[m][n], {up.v[0], low.v[0], up.v[1], low.v[1]}, a.v[0], a.v[1]);
          ptx::mma_bf16(sum[m][n], {up.v[2], low.v[2], up.v[3], low.v[3]}, a.v[2], a.v[3]);
        }
      }
    }
  }
  float* const sums = reinterpret_cast<float*>(raw);
  float* const mine = sums + warp * kRows * kPitch<Tiles>;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < Tiles; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float* const at = mine + (m * 16 + i * 8 + g) * kPitch<Tiles> + n * 8 + t * 2;
        store_pack<2>(at, Pack<float, 2>{sum[m][n][2 * i], sum[m][n][2 * i + 1]});
      }
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < groups * kRows * d.rank; i += blockDim.x) {
    const int r = i / d.rank, column = i % d.rank;
    const float* const at =
        sums + ((r / kRows) * kParts * kRows + r % kRows) * kPitch<Tiles> + column;
    float total = at[0];
#pragma unroll
    for (int p = 1; p < kParts; ++p) total += at[p * kRows * kPitch<Tiles>];
    if (first + r < d.rows) d.down[(first + r) * d.rank + column] = from_f32<bf16>(total);
  }
}

template <int Tiles>
void run(const Down& d, Device device) {
  // Two groups of rows share what they read of a; with few rows more blocks count more.
  const bool many = d.rows >= 2 * kRows * properties(device).multiprocessors;
  const int groups = many ? kGroups : 1;
  const size_t shared = sizeof(float) * groups * kParts * kRows * kPitch<Tiles>;
  launch({"low_rank_down", static_cast<unsigned>(ceil_div(d.rows, groups * kRows)),
          static_cast<unsigned>(groups * kParts * kWarp), device, shared},
         low_rank_down_kernel<Tiles>, d);
}

}  // namespace

bool low_rank_down(const Tensor& x, const Tensor& a, const Tensor& down) {
  const Down d{x.dim(0),
               x.dim(1),
               static_cast<int>(a.dim(0)),
               x.dtype() == DType::bf16 ? pointer<const bf16>(x) : nullptr,
               a.dtype() == DType::bf16 ? pointer<const bf16>(a) : nullptr,
               down.dtype() == DType::bf16 ? pointer<bf16>(down) : nullptr};
  if (d.x == nullptr || d.a == nullptr || d.down == nullptr) return false;
  if (a.dim(0) > kMostRank || d.rank == 0 || d.k == 0 || d.k % 8 != 0) return false;
  if (!is_aligned(d.x) || !is_aligned(d.a)) return false;
  if (d.rank <= 8) {
    run<1>(d, x.device());
  } else if (d.rank <= 16) {
    run<2>(d, x.device());
  } else if (d.rank <= 32) {
    run<4>(d, x.device());
  } else {
    run<8>(d, x.device());
  }
  return true;
}

}  // namespace parlo::cuda
