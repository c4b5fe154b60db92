// Decode attention by FMA: f32, and bf16 that the tensor cores' kernel does not take (heads above
// 128, no 16-byte rows). Floor: the bytes of the keys and values.
// Eight lanes share a key, of which each holds every eighth pack; four keys a warp go at a time.
// Every eight lanes keep a maximum and sums of their own and are merged at the end, in order.
#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/rows.cuh"

namespace parlo::cuda {
namespace {

constexpr int kTeam = 8, kTeams = kWarp / kTeam;  // lanes of a key, keys of a warp

template <int DP>
constexpr int kRows = DP <= 128 ? 4 : 2;

// A row of DP values as a lane holds it: pack p is columns (8 p + lane) N ..
template <class T, int DP>
struct RowPart {
  static constexpr int N = kPack<T>, kPacks = DP / (kTeam * N);
  float x[kPacks][N] = {};

  template <bool Packed>
  __device__ __forceinline__ void load(const T* row, int d) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      load_row<Packed>(x[p], row, (p * kTeam + threadIdx.x % kTeam) * N, d);
    }
  }
  __device__ __forceinline__ float dot(const RowPart& y) const {
    float sum = 0;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
#pragma unroll
      for (int k = 0; k < N; ++k) sum = fmaf(x[p][k], y.x[p][k], sum);
    }
#pragma unroll
    for (int o = kTeam / 2; o > 0; o /= 2) sum += __shfl_xor_sync(kAllLanes, sum, o);
    return sum;
  }
  // x = a x + c y
  __device__ __forceinline__ void scale_add(float a, float c, const RowPart& y) {
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
#pragma unroll
      for (int k = 0; k < N; ++k) x[p][k] = fmaf(c, y.x[p][k], a * x[p][k]);
    }
  }
};

template <class T, int DP>
struct RowSum {
  SoftmaxPart part{-INFINITY, 0};
  RowPart<T, DP> acc;

  // Joins what the lanes 8 and 16 further hold.
  __device__ __forceinline__ void merge_teams() {
#pragma unroll
    for (int o = kTeam; o < kWarp; o *= 2) {
      const float other = __shfl_xor_sync(kAllLanes, part.top, o);
      const float top = fmaxf(part.top, other), base = top == -INFINITY ? 0.0f : top;
      const float share = ptx::ex2(part.top - base);
      part.top = top;
      part.sum *= share;
      part.sum += __shfl_xor_sync(kAllLanes, part.sum, o);
#pragma unroll
      for (auto& pack : acc.x) {
#pragma unroll
        for (float& x : pack) {
          x *= share;
          x += __shfl_xor_sync(kAllLanes, x, o);
        }
      }
    }
  }
};

template <bool Packed, class T, int DP>
__device__ __forceinline__ void add_keys(const DecodeOperands<T>& f, const DecodeBlock<T>& b,
                                         RowSum<T, DP> (&rows)[kRows<DP>]) {
  RowPart<T, DP> q[kRows<DP>];
  int seen[kRows<DP>];
#pragma unroll
  for (int r = 0; r < kRows<DP>; ++r) {
    seen[r] = b.seen(r);
    if (r < b.count) q[r].template load<Packed>(b.queries(f, r), f.d);
  }
  const T* const keys = b.keys.k.head(b.unit, b.kv_head);
  const T* const values = b.keys.v.head(b.unit, b.kv_head);
  const int end = b.end(), warp = threadIdx.x / kWarp;
  for (int j = b.first + warp * kTeams; j < end; j += kDecodeWarps * kTeams) {
    const int key = j + static_cast<int>(threadIdx.x) % kWarp / kTeam;
    RowPart<T, DP> k, v;
    if (key < end) {
      k.template load<Packed>(keys + key * b.keys.k.t, f.d);
      v.template load<Packed>(values + key * b.keys.v.t, f.d);
    }
#pragma unroll
    for (int r = 0; r < kRows<DP>; ++r) {
      const float dot = q[r].dot(k), s = key < seen[r] ? dot * f.scale2 : -INFINITY;
      SoftmaxPart& part = rows[r].part;
      const float top = fmaxf(part.top, s), base = top == -INFINITY ? 0.0f : top;
      const float fall = ptx::ex2(part.top - base), p = ptx::ex2(s - base);
      part = {top, fmaf(part.sum, fall, p)};
      rows[r].acc.scale_add(fall, p, v);
    }
  }
}

template <bool Packed, class T, int DP>
__global__ void __launch_bounds__(kDecodeThreads) decode_fma_kernel(const DecodeOperands<T> f) {
  SMEM(SoftmaxPart, parts, [kDecodeWarps][kRows<DP>]);
  SMEM(alignas(16) float, acc, [kDecodeWarps][kRows<DP>][DP]);
  const DecodeBlock<T> b = decode_block<kRows<DP>>(f);
  if (b.first >= b.end()) return;
  RowSum<T, DP> rows[kRows<DP>];
  add_keys<Packed>(f, b, rows);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  using Part = RowPart<T, DP>;
#pragma unroll
  for (int r = 0; r < kRows<DP>; ++r) {
    rows[r].merge_teams();
    if (lane == 0) parts[warp][r] = rows[r].part;
    if (lane >= kTeam) continue;
#pragma unroll
    for (int p = 0; p < Part::kPacks; ++p) {
#pragma unroll
      for (int k = 0; k < Part::N; ++k) {
        acc[warp][r][(p * kTeam + lane) * Part::N + k] = rows[r].acc.x[p][k];
      }
    }
  }
  store_parts(f, b, parts, acc);
}

template <class T>
void run(DecodeOperands<T> f, Device device) {
  visit_head_size(f.d, [&](auto size) {
    constexpr int DP = size.value;
    const unsigned blocks = decode_blocks(f, kRows<DP>);
    with_packing(f.packed(), [&](auto p) {
      launch({"decode_fma", blocks, kDecodeThreads, device}, decode_fma_kernel<p.value, T, DP>, f);
    });
  });
}

}  // namespace

void decode_by_fma(DecodeOperands<float> f, Device device) {
  run(f, device);
}
void decode_by_fma(DecodeOperands<bf16> f, Device device) {
  run(f, device);
}

}  // namespace parlo::cuda
