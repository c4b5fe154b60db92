// The second half of split sums over rows: partial sums of a group's blocks of rows, added in
// order, become gradients of parameters (norm.cuh). Floor: bytes of the partial sums, a few percent
// of the first half's. A block has 32 columns: 32 warps take every 32nd partial row, so that the
// loads of a group wait for each other only per_group / 32 times.
#include "kernels/cuda/norm.cuh"

namespace parlo::cuda {
namespace {

constexpr int kCombineWarps = 32;

// Adds rows warp, warp + 32, ... of partial sums, then the warps; the sum is warp 0's.
__device__ __forceinline__ float sum_rows(const float* rows, int64_t count, int columns, int column,
                                          float (*shared)[kWarp]) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  float sum = 0;
  if (rows && column < columns) {
#pragma unroll 4
    for (int64_t k = warp; k < count; k += kCombineWarps) sum += rows[k * columns + column];
  }
  __syncthreads();  // earlier sums were read
  shared[warp][lane] = sum;
  __syncthreads();
  float total = 0;
  if (warp == 0) {
#pragma unroll
    for (int w = 0; w < kCombineWarps; ++w) total += shared[w][lane];
  }
  return total;
}

// Groups blockIdx.y * groups_each .. + groups_each; dweight and dbias need all groups in one block.
__global__ void __launch_bounds__(kCombineWarps* kWarp)
    combine_kernel(ColumnSums s, int64_t groups_each) {
  SMEM(float, shared, [kCombineWarps][kWarp]);
  const int column = static_cast<int>(blockIdx.x) * kWarp + static_cast<int>(threadIdx.x) % kWarp;
  const bool writes = threadIdx.x < kWarp && column < s.columns;
  const int64_t begin = blockIdx.y * groups_each;
  float dweight = 0, dbias = 0;
  for (int64_t g = begin; g < begin + groups_each && g < s.groups; ++g) {
    const int64_t at = g * s.per_group * s.columns;
    const float P = sum_rows(s.P ? s.P + at : nullptr, s.per_group, s.columns, column, shared);
    const float Q = sum_rows(s.Q ? s.Q + at : nullptr, s.per_group, s.columns, column, shared);
    if (!writes) continue;
    const float gain = s.scale.data ? 1 + s.scale.at(g, column) : 1;
    dweight = fmaf(gain, P, dweight);
    dbias = fmaf(gain, Q, dbias);
    if (s.dscale.data) {
      const float weight = s.weight.data ? s.weight.at(0, column) : 1;
      const float bias = s.bias.data ? s.bias.at(0, column) : 0;
      s.dscale.store(g * s.columns + column, fmaf(weight, P, bias * Q));
    }
    s.dshift.store(g * s.columns + column, Q);
  }
  if (!writes) return;
  s.dweight.store(column, dweight);
  s.dbias.store(column, dbias);
}

}  // namespace

void combine(const char* name, const ColumnSums& sums, Device device) {
  constexpr int64_t kMostInY = 65535;
  const bool over_groups = sums.dweight.data || sums.dbias.data;
  const int64_t each = over_groups ? sums.groups : ceil_div(sums.groups, kMostInY);
  const dim3 grid(static_cast<unsigned>(ceil_div(sums.columns, kWarp)),
                  static_cast<unsigned>(ceil_div(sums.groups, std::max<int64_t>(1, each))));
  launch({name, grid, kCombineWarps * kWarp, device}, combine_kernel, sums, each);
}

}  // namespace parlo::cuda
