// skinny_linear by FMA: f32, and bf16 that does not lie on 16 bytes. A warp has four rows of w and
// all of K, a pack a lane at a time, for up to 16 rows of x, which come from the L1. Floor: bytes
// of w.
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/skinny.cuh"

namespace parlo::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kWeights = 4;  // rows of w a warp
constexpr int kMostRows = 16;
constexpr int N = kPack<float>;  // values a lane takes at a time

template <bool Packed, int kRows, class T, class W>
__global__ void __launch_bounds__(kThreads, 2) skinny_fma_kernel(const SkinnyOperands<T, W> f) {
  SMEM(float, sums, [kWarps][kWeights][kRows]);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kWarps + warp) * kWeights;
  float sum[kWeights][kRows] = {};
  for (int64_t k = lane * N; k < f.k; k += kWarp * N) {
    Pack<W, N> w[kWeights];
#pragma unroll
    for (int j = 0; j < kWeights; ++j) {
      w[j] = load_some<Packed, N>(f.w + (first + j) * f.k, k, first + j < f.n ? f.k : 0);
    }
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      float x[N];
      load_row<Packed>(x, f.x + m * f.k, k, m < f.rows ? f.k : 0);
#pragma unroll
      for (int j = 0; j < kWeights; ++j) {
#pragma unroll
        for (int i = 0; i < N; ++i) sum[j][m] = fmaf(to_f32(w[j].v[i]), x[i], sum[j][m]);
      }
    }
  }
#pragma unroll
  for (int j = 0; j < kWeights; ++j) {
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      const float total = warp_sum(sum[j][m]);
      if (lane == 0) sums[warp][j][m] = total;
    }
  }
  __syncwarp();
  for (int i = lane; i < kWeights * kRows; i += kWarp) {
    const int j = i % kWeights, m = i / kWeights;
    if (m < f.rows && first + j < f.n) finish_sum(f, m, first + j, sums[warp][j][m]);
  }
}

template <class T, class W>
void run(const SkinnyOperands<T, W>& f, Device device) {
  const int64_t blocks = ceil_div(f.n, kWarps * kWeights);
  CHECK(blocks < int64_t{1} << 31, "skinny_linear: w has ", f.n, " rows, which are too many");
  const bool packed = f.k % N == 0 && is_aligned(f.x) && is_aligned(f.w);
  // Packed bf16 are the tensor cores'.
  with_packing(packed && std::is_same_v<T, float>, [&](auto choice) {
    constexpr bool kPacked = choice.value && std::is_same_v<T, float>;
    const auto start = [&](auto kernel, const SkinnyOperands<T, W>& part) {
      launch({"skinny_fma", static_cast<unsigned>(blocks), kThreads, device}, kernel, part);
    };
    for (int64_t row = 0; row < f.rows; row += kMostRows) {
      const SkinnyOperands<T, W> part = f.part(row, kMostRows);
      if (part.rows == 1) {
        start(skinny_fma_kernel<kPacked, 1, T, W>, part);
      } else if (part.rows <= 4) {
        start(skinny_fma_kernel<kPacked, 4, T, W>, part);
      } else {
        start(skinny_fma_kernel<kPacked, kMostRows, T, W>, part);
      }
    }
  });
}

}  // namespace

void skinny_by_fma(const SkinnyOperands<bf16, bf16>& f, Device device) {
  run(f, device);
}
void skinny_by_fma(const SkinnyOperands<float, float>& f, Device device) {
  run(f, device);
}
void skinny_by_fma(const SkinnyOperands<float, bf16>& f, Device device) {
  run(f, device);
}

}  // namespace parlo::cuda
