// C[M,N] (f32) = A[M,K] B[N,K]^T in bf16: 128x128x64 tiles, two stages, one TMA producer warp and
// two wgmma warpgroups, with one error of the pipeline planted; kNoBug is the correct kernel.
#pragma once
#include "tests/simt/support.cuh"

struct GemmTile {
  static constexpr int kM = 128, kN = 128, kK = 64, kStages = 2, kThreads = 288;
  static constexpr int kBytes = 128 * kK * 2, kSmem = 2 * kStages * kBytes;
};
enum GemmBug {
  kNoBug,
  kWrongPhase,
  kEarlyRelease,
  kNoEmptyWait,
  kShortTx,
  kNoWgmmaFence,
  kBadDescriptor
};

template <int Bug>
__global__ void __launch_bounds__(GemmTile::kThreads)
    gemm_kernel(const __grid_constant__ simt::TensorMap map_a,
                const __grid_constant__ simt::TensorMap map_b, float* c, int n, int k) {
  using T = GemmTile;
  SMEM_DYNAMIC(smem);
  SMEM(uint64_t, full, [T::kStages]);
  SMEM(uint64_t, empty, [T::kStages]);
  const auto sa = [&](int s) { return smem + s * T::kBytes; };
  const auto sb = [&](int s) { return smem + (T::kStages + s) * T::kBytes; };
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, steps = k / T::kK;
  if (threadIdx.x == 0) {
    for (int s = 0; s < T::kStages; ++s) {
      simt::mbar_init(&full[s], 1);
      simt::mbar_init(&empty[s], 8);  // one arrival per consumer warp
    }
  }
  __syncthreads();
  if (warp == 8) {
    if (lane != 0) return;
    for (int i = 0; i < steps; ++i) {
      const int s = i % T::kStages;
      if (Bug != kNoEmptyWait) simt::mbar_wait(&empty[s], (i / T::kStages & 1) ^ 1);
      simt::mbar_arrive_expect_tx(&full[s], Bug == kShortTx ? T::kBytes : 2 * T::kBytes);
      simt::tma_load(sa(s), map_a, &full[s], {i * T::kK, int(blockIdx.y) * T::kM});
      simt::tma_load(sb(s), map_b, &full[s], {i * T::kK, int(blockIdx.x) * T::kN});
    }
    return;
  }
  float acc[64] = {};
  const int group = warp / 4;
  for (int i = 0; i < steps; ++i) {
    const int s = i % T::kStages;
    simt::mbar_wait(&full[s], (i / T::kStages & 1) ^ (Bug == kWrongPhase));
    if (Bug != kNoWgmmaFence) simt::wgmma_fence();
    for (int kk = 0; kk < T::kK / 16; ++kk) {
      const uint64_t a = descriptor(sa(s) + group * 64 * 128, kk * 32, 16, 1024, simt::kSwizzle128);
      const uint64_t b =
          descriptor(sb(s), kk * 32, 16, Bug == kBadDescriptor ? 512 : 1024, simt::kSwizzle128);
      simt::wgmma(acc, 128, nullptr, a, b, true, simt::kBf16, false, false);
    }
    simt::wgmma_commit();
    if (Bug != kEarlyRelease) simt::wgmma_wait(0);
    if (lane == 0) simt::mbar_arrive(&empty[s]);
    if (Bug == kEarlyRelease) simt::wgmma_wait(0);
  }
  const int row = blockIdx.y * T::kM + group * 64 + warp % 4 * 16 + lane / 4,
            col = blockIdx.x * T::kN + lane % 4 * 2;
  for (int i = 0; i < 64; ++i)
    c[size_t(row + i / 2 % 2 * 8) * n + col + i / 4 * 8 + i % 2] = acc[i];
}

// Whether C is right.
template <int Bug>
bool gemm(int m, int n, int k) {
  const auto a = random_values<__nv_bfloat16>(size_t(m) * k, 5),
             b = random_values<__nv_bfloat16>(size_t(n) * k, 6);
  std::vector<float> want(size_t(m) * n);
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double s = 0;
      for (int x = 0; x < k; ++x) s += double(f32(a[i * k + x])) * f32(b[j * k + x]);
      want[size_t(i) * n + j] = float(s);
    }
  const Device<__nv_bfloat16> da(a), db(b);
  const Device<float> dc(want.size());
  launch(gemm_kernel<Bug>, dim3(n / 128, m / 128), dim3(GemmTile::kThreads), GemmTile::kSmem,
         matrix_map(da.p, m, k, 128, 64, simt::kSwizzle128),
         matrix_map(db.p, n, k, 128, 64, simt::kSwizzle128), dc.p, n, k);
  return close("gemm", dc.get(), want, 1e-4f);
}
