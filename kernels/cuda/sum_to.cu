// Sums over axes (kernels/reduce.h) on a GPU. Floor: bytes of x once; [65536, 1536] -> [1, 1536]
// is one pass at the speed of memory and one over 1/50 of that.
// A thread sums 16 to 128 values in f32; everything from there on is f64. How a sum is split
// depends on its own length and on the width of what it sits in, never on how many there are.
#include "kernels/sum_plan.h"

#include "kernels/cuda/rows.cuh"
#include "kernels/reduce.h"

namespace parlo::cuda {
namespace {

constexpr int kThreads = 256, kBatch = 4;  // loads on their way at a time

template <class In>
using Partial = std::conditional_t<std::is_same_v<In, double>, double, float>;

template <class Out>
__device__ __forceinline__ Out rounded(double x) {
  if constexpr (std::is_same_v<Out, double>) {
    return x;
  } else {
    return from_f32<Out>(static_cast<float>(x));
  }
}

// Adds what threads apart by multiples of `stride` hold, `count` (a power of two) of them each;
// the sums end in the first ones. All threads of the block call it.
template <int N>
__device__ __forceinline__ void add_groups(double (&shared)[N][kThreads], int place, int count,
                                           int stride) {
  const int t = threadIdx.x;
  for (int s = count / 2; s > 0; s /= 2) {
    __syncthreads();
    if (place < s) {
#pragma unroll
      for (int k = 0; k < N; ++k) shared[k][t] += shared[k][t + s * stride];
    }
  }
}

// [outer, m, n] -> [outer, chunks, n]. `lanes` threads side by side hold N columns each; `count`
// such groups take every count-th row of a chunk. A block has room for more than one outer index
// where m is small.
struct Columns {
  int64_t outer, m, n;
  int lanes, count, rows;  // rows: of one thread
  int64_t tiles, chunks;

  Columns(int64_t outer, int64_t m, int64_t n, int pack) : outer(outer), m(m), n(n) {
    lanes = static_cast<int>(std::min<int64_t>(kWarp, power_of_two_from(ceil_div(n, pack))));
    count = static_cast<int>(std::min<int64_t>(kThreads / lanes, power_of_two_from(m)));
    rows = m >= 32768 ? 64 : 16;
    tiles = ceil_div(n, int64_t{lanes} * pack);
    chunks = ceil_div(m, int64_t{count} * rows);
  }
  __host__ __device__ int outer_per_block() const { return kThreads / (lanes * count); }
};

template <bool Packed, class In, class Out>
__global__ void __launch_bounds__(kThreads) sum_columns_kernel(const In* x, Columns s, Out* out) {
  constexpr int N = kPack<In>;
  SMEM(double, shared, [N][kThreads]);
  const int lane = threadIdx.x % s.lanes, group = threadIdx.x / s.lanes, place = group % s.count;
  const int64_t tile = blockIdx.x % s.tiles, rest = blockIdx.x / s.tiles;
  const int64_t chunk = rest % s.chunks;
  const int64_t o = rest / s.chunks * s.outer_per_block() + group / s.count;
  const int64_t column = (tile * s.lanes + lane) * N;
  const int64_t begin = chunk * s.count * s.rows, end = begin + int64_t{s.count} * s.rows;
  const bool mine = o < s.outer && column < s.n;
  Partial<In> sum[N] = {};
  const auto add = [&](const Pack<In, N>& p, int64_t) {
#pragma unroll
    for (int k = 0; k < N; ++k) sum[k] += to_f32(p.v[k]);
  };
  if (mine) {
    const int64_t last = end < s.m ? end : s.m;
    const In* from = x + o * s.m * s.n;
    for_batches<kBatch>(
        begin + place, last, s.count,
        [&](int64_t r) { return load_inside<Packed, N>(from + r * s.n, column, s.n); }, add);
  }
#pragma unroll
  for (int k = 0; k < N; ++k) shared[k][threadIdx.x] = sum[k];
  add_groups(shared, place, s.count, s.lanes);
  if (!mine || place != 0) return;
  Out* to = out + (o * s.chunks + chunk) * s.n + column;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    if (column + k < s.n) to[k] = rounded<Out>(shared[k][threadIdx.x]);
  }
}

// [rows, n] -> [rows, chunks]: `lanes` threads a row, all 256 before a row is cut into chunks.
struct Rows {
  int64_t rows, n;
  int lanes;
  int64_t chunk, chunks;  // elements of a chunk

  Rows(int64_t rows, int64_t n, int pack) : rows(rows), n(n) {
    lanes = static_cast<int>(std::min<int64_t>(kThreads, power_of_two_from(ceil_div(n, 2 * pack))));
    chunk = lanes < kThreads ? n : int64_t{kThreads} * 16 * pack;
    chunks = ceil_div(n, chunk);
  }
  __host__ __device__ int rows_per_block() const { return kThreads / lanes; }
};

template <bool Packed, class In, class Out>
__global__ void __launch_bounds__(kThreads) sum_rows_kernel(const In* x, Rows s, Out* out) {
  constexpr int N = kPack<In>;
  SMEM(double, shared, [1][kThreads]);
  const int lane = threadIdx.x % s.lanes;
  const int64_t chunk = blockIdx.x % s.chunks;
  const int64_t r = blockIdx.x / s.chunks * s.rows_per_block() + threadIdx.x / s.lanes;
  Partial<In> sum[N] = {};
  if (r < s.rows) {
    const int64_t begin = chunk * s.chunk, end = begin + s.chunk < s.n ? begin + s.chunk : s.n;
    const In* from = x + r * s.n;
    for_batches<kBatch>(
        begin + lane * N, end, s.lanes * N,
        [&](int64_t i) { return load_inside<Packed, N>(from, i, s.n); },
        [&](const Pack<In, N>& p, int64_t) {
#pragma unroll
          for (int k = 0; k < N; ++k) sum[k] += to_f32(p.v[k]);
        });
  }
  double all = 0;
#pragma unroll
  for (int k = 0; k < N; ++k) all += sum[k];
  shared[0][threadIdx.x] = all;
  add_groups(shared, lane, s.lanes, 1);
  if (r < s.rows && lane == 0) out[r * s.chunks + chunk] = rounded<Out>(shared[0][threadIdx.x]);
}

template <class In, class Out>
void sum_rows(const In* x, int64_t rows, int64_t n, Out* out, Device device) {
  Rows s(rows, n, kPack<In>);
  const auto run = [&](auto* to) {
    using To = std::remove_pointer_t<decltype(to)>;
    const int64_t blocks = ceil_div(rows, s.rows_per_block()) * s.chunks;
    with_packing(is_packed(n, x), [&](auto packed) {
      launch({"sum_rows", static_cast<unsigned>(blocks), kThreads, device},
             sum_rows_kernel<packed.value, In, To>, x, s, to);
    });
  };
  if (s.chunks == 1) return run(out);
  const Tensor partial = Tensor::empty({rows, s.chunks}, DType::f64, device);
  run(partial.data<double>());
  sum_rows(static_cast<const double*>(partial.data<double>()), rows, s.chunks, out, device);
}

template <class In, class Out>
void sum_columns(const In* x, int64_t outer, int64_t m, int64_t n, Out* out, Device device) {
  Columns s(outer, m, n, kPack<In>);
  const auto run = [&](auto* to) {
    using To = std::remove_pointer_t<decltype(to)>;
    const int64_t blocks = ceil_div(outer, s.outer_per_block()) * s.chunks * s.tiles;
    with_packing(is_packed(n, x), [&](auto packed) {
      launch({"sum_columns", static_cast<unsigned>(blocks), kThreads, device},
             sum_columns_kernel<packed.value, In, To>, x, s, to);
    });
  };
  if (s.chunks == 1) return run(out);
  const Tensor partial = Tensor::empty({outer, s.chunks, n}, DType::f64, device);
  run(partial.data<double>());
  sum_columns(static_cast<const double*>(partial.data<double>()), outer, s.chunks, n, out, device);
}

template <class In, class Out>
void run_passes(const In* x, std::span<const SumPass> passes, Out* out, Device device) {
  const SumPass& p = passes.front();
  const auto run = [&](auto* to) {
    if (p.rows) {
      sum_rows(x, p.outer, p.n, to, device);
    } else {
      sum_columns(x, p.outer, p.m, p.n, to, device);
    }
  };
  if (passes.size() == 1) return run(out);
  const Tensor smaller = Tensor::empty({p.outer, p.rows ? 1 : p.n}, DType::f64, device);
  run(smaller.data<double>());
  run_passes(static_cast<const double*>(smaller.data<double>()), passes.subspan(1), out, device);
}

}  // namespace

void sum_to(const Tensor& x, const Tensor& out) {
  check_sum_to(x, out);
  check_same_device("sum_to", x, out);
  if (x.numel() == 0) return out.fill(0);
  const std::vector<SumPass> passes = sum_passes(x.shape(), out.shape());
  if (passes.empty()) return out.copy_from(x);
  visit_dtype_gpu(x.dtype(), "sum_to", [&](auto type) {
    using T = decltype(type);
    run_passes(pointer<const T>(x), std::span<const SumPass>(passes), pointer<T>(out), x.device());
  });
}

}  // namespace parlo::cuda
