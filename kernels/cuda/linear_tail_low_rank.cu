// The pass over y after linear's base product with the low-rank up-projection in it: tensor-core
// products of `down` and b while y goes by. Floor: as linear_tail, y read and written once.
//
// A warp keeps 32 columns: its part of b stays in registers and it goes on over rows, 16 at a time.
// Column 8 t + 2 j + e belongs to product j, so that lane (g, t) holds 8 neighbours of rows g and
// g + 8: 16 bytes an access.
#include "kernels/cuda/activate_all.cuh"
#include "kernels/cuda/fragment.cuh"
#include "kernels/cuda/linear_tail.h"
#include "kernels/cuda/map.cuh"

namespace parlo::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kColumns = 32;  // a warp
constexpr int kRows = 16;     // at a time

struct Tail {
  int64_t rows, columns;
  int rank;
  float scale;
  Activation activation;
  const bf16* down;  // [rows, rank]
  const bf16* up;    // [columns, rank]
  bf16* y;
  const bf16* bias;  // or null, like the next two
  const bf16* residual;
  bf16* pre;
};

// Steps of 16 along the rank; a lane takes 4 values of one step and 8 of two, as they lie.
template <int Steps>
struct Row {
  uint32_t v[Steps][2];

  __device__ __forceinline__ void load(const bf16* p, int rank, int t, bool inside) {
    if constexpr (Steps == 1) {
      Pack<uint32_t, 2> x{};
      if (inside && t * 4 < rank) x = load_pack<2>(reinterpret_cast<const uint32_t*>(p + t * 4));
      v[0][0] = x.v[0], v[0][1] = x.v[1];
    } else {
#pragma unroll
      for (int s = 0; s < Steps; s += 2) {
        const int k = s * 16 + t * 8;
        const Words x = load_words(p + k, inside && k < rank);
        v[s][0] = x.v[0], v[s][1] = x.v[1];
        v[s + 1][0] = x.v[2], v[s + 1][1] = x.v[3];
      }
    }
  }
};

// Eight neighbours of one row of y.
__device__ __forceinline__ void finish(const Tail& d, int64_t at, const float (&low)[8],
                                       const float (&bias)[8]) {
  const Pack<bf16, 8> base = load_pack<8>(d.y + at);
  Pack<bf16, 8> added{}, out;
  if (d.residual != nullptr) added = load_pack<8>(d.residual + at);
  float v[8];
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    v[k] = fmaf(d.scale, low[k], to_f32(base.v[k])) + bias[k];
    out.v[k] = from_f32<bf16>(v[k]);
  }
  if (d.pre != nullptr) store_pack<8>(d.pre + at, out);
  activate_all(d.activation, v);
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    out.v[k] = from_f32<bf16>(d.residual != nullptr ? v[k] + to_f32(added.v[k]) : v[k]);
  }
  store_pack<8>(d.y + at, out);
}

template <int Steps>
__global__ void __launch_bounds__(kWarps* kWarp) linear_tail_low_rank_kernel(Tail d) {
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y) * kColumns;
  const int64_t column = first + t * 8;
  Row<Steps> up[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int64_t mine = first + g / 2 * 8 + j * 2 + g % 2;
    up[j].load(d.up + mine * d.rank, d.rank, t, mine < d.columns);
  }
  float bias[8] = {};
  if (d.bias != nullptr && column < d.columns) {
    const Pack<bf16, 8> b = load_pack<8>(d.bias + column);
#pragma unroll
    for (int k = 0; k < 8; ++k) bias[k] = to_f32(b.v[k]);
  }
  const int64_t step = static_cast<int64_t>(gridDim.y) * blockDim.z * kRows;
  for (int64_t row0 = (static_cast<int64_t>(blockIdx.y) * blockDim.z + threadIdx.z) * kRows;
       row0 < d.rows; row0 += step) {
    Row<Steps> down[2];
    float low[2][8] = {};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t row = row0 + i * 8 + g;
      down[i].load(d.down + row * d.rank, d.rank, t, row < d.rows);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float sum[4] = {};
#pragma unroll
      for (int s = 0; s < Steps; ++s) {
        ptx::mma_bf16(sum, {down[0].v[s][0], down[1].v[s][0], down[0].v[s][1], down[1].v[s][1]},
                      up[j].v[s][0], up[j].v[s][1]);
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) low[k / 2][j * 2 + k % 2] = sum[k];
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t row = row0 + i * 8 + g;
      if (row < d.rows && column < d.columns) finish(d, row * d.columns + column, low[i], bias);
    }
  }
}

template <int Steps>
void run(const Tail& d, Device device) {
  const int64_t strips = ceil_div(d.columns, kColumns);
  unsigned across = 1;
  while (across < kWarps && across < strips) across *= 2;
  const unsigned down = kWarps / across;
  const auto x = static_cast<unsigned>(ceil_div(strips, across));
  // Few enough blocks that b is read seldom, enough to fill the GPU.
  const int64_t most = std::max<int64_t>(1, 8 * properties(device).multiprocessors / x + 1);
  launch({"linear_tail_low_rank", dim3(x, blocks_for(d.rows, down * kRows, most)),
          dim3(kWarp, across, down), device},
         linear_tail_low_rank_kernel<Steps>, d);
}

}  // namespace

bool linear_tail_low_rank(const Tensor& y, const LinearArgs& args) {
  const LowRank& low = *args.low_rank;
  const int64_t rank = low.b.dim(1);
  if (y.dtype() != DType::bf16 || y.dim(1) % 8 != 0 || rank == 0 || rank > 64) return false;
  if (rank % 8 != 0 && !(rank < 16 && rank % 4 == 0)) return false;
  const Tail d{y.dim(0),
               y.dim(1),
               static_cast<int>(rank),
               static_cast<float>(low.scale),
               args.activation,
               pointer<const bf16>(low.down),
               pointer<const bf16>(low.b),
               pointer<bf16>(y),
               pointer<const bf16>(args.bias),
               pointer<const bf16>(args.residual),
               pointer<bf16>(args.pre_activation)};
  for (const void* p : {static_cast<const void*>(d.down), static_cast<const void*>(d.up),
                        static_cast<const void*>(d.y), static_cast<const void*>(d.bias),
                        static_cast<const void*>(d.residual), static_cast<const void*>(d.pre)}) {
    if (!is_aligned(p)) return false;
  }
  if (rank <= 16) {
    run<1>(d, y.device());
  } else if (rank <= 32) {
    run<2>(d, y.device());
  } else {
    run<4>(d, y.device());
  }
  return true;
}

}  // namespace parlo::cuda
