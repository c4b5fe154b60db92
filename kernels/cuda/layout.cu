// Moves of data (kernels/layout.h) on a GPU. Floor: bytes read and written once. Concatenation and
// patches are Tensor::copy_from between views.
// scatter_add_rows adds in the order of i without float atomics: equal indices are linked in a
// list, whose head walks it. Linking compares all pairs, n^2 / 2 in shared memory: about 0.5 ms for
// 65536 indices; it stays small beside the rows up to about that.
#include "kernels/cuda/index_check.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/layout.h"
#include "kernels/layout_checks.h"

namespace parlo::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kUnits = 8;  // accesses of a lane: a warp moves 256 units of a row

// Where a warp works: rows are cut into segments of 256 units.
struct Place {
  int64_t row, unit;
};
__device__ __forceinline__ Place place_of_lane(int64_t segments) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  const int64_t row = item / segments;
  return {row, (item - row * segments) * (kWarp * kUnits) + threadIdx.x % kWarp};
}

template <class U>
__device__ __forceinline__ U all_ones() {  // a NaN in every float type
  U u;
  memset(&u, 0xff, sizeof u);
  return u;
}

template <class U>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const U* table, const int64_t* index, int64_t n, int64_t V, int64_t units,
                  int64_t segments, U* out) {
  const Place at = place_of_lane(segments);
  if (at.row >= n) return;
  const int64_t from = index[at.row];
  const bool good = from >= 0 && from < V;
#pragma unroll
  for (int k = 0; k < kUnits; ++k) {
    const int64_t u = at.unit + k * kWarp;
    if (u < units) out[at.row * units + u] = good ? table[from * units + u] : all_ones<U>();
  }
}

// next[i]: the following position with the same index, or -1. follows[j] = 1 where j is one.
__global__ void __launch_bounds__(kThreads)
    link_kernel(const int64_t* index, int n, int* next, int* follows) {
  SMEM(int64_t, tile, [kThreads]);
  const int first = blockIdx.x * kThreads, i = first + static_cast<int>(threadIdx.x);
  const int64_t mine = i < n ? index[i] : -1;
  int found = -1;
  for (int begin = first; begin < n; begin += kThreads) {
    const int count = n - begin < kThreads ? n - begin : kThreads;
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < count) tile[threadIdx.x] = index[begin + threadIdx.x];
    __syncthreads();
    for (int k = 0; k < count && found < 0; ++k) {
      if (tile[k] == mine && begin + k > i) found = begin + k;
    }
  }
  if (i >= n) return;
  next[i] = found;
  if (found >= 0) follows[found] = 1;
}

// N values a lane and access. Sums in f32, from the table's value on.
template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(const T* rows, const int64_t* index, const int* next, const int* follows,
                   int64_t n, int64_t V, int64_t C, int64_t segments, T* table) {
  const Place at = place_of_lane(segments);
  if (at.row >= n || follows[at.row]) return;
  const int64_t to = index[at.row];
  if (to < 0 || to >= V) return;
#pragma unroll 2
  for (int k = 0; k < kUnits; ++k) {
    const int64_t c = (at.unit + k * kWarp) * N;
    if (c >= C) break;
    float sum[N], x[N];
    load_row<(N > 1)>(sum, table + to * C, c, C);
    for (int64_t i = at.row; i >= 0; i = next[i]) {
      load_row<(N > 1)>(x, rows + i * C, c, C);
#pragma unroll
      for (int j = 0; j < N; ++j) sum[j] += x[j];
    }
    store_row<(N > 1)>(table + to * C, c, C, sum);
  }
}

void check_indices(const char* function, const Tensor& table, const Tensor& index) {
  const int64_t V = table.dim(0);
  if (const auto bad = find_bad_index(index, V))
    throw Error(parlo::concat(function, ": index ", bad->value, " is outside [0, ", V, ")"));
}

template <class U>
void gather(const Tensor& table, const Tensor& index, const Tensor& out) {
  const int64_t n = index.numel(), V = table.dim(0);
  const auto bytes = table.dim(1) * static_cast<int64_t>(dtype_size(table.dtype()));
  const int64_t units = bytes / static_cast<int64_t>(sizeof(U));
  const int64_t segments = ceil_div(units, kWarp * kUnits);
  launch({"gather_rows", static_cast<unsigned>(ceil_div(n * segments, kWarps)), kThreads,
          out.device()},
         gather_kernel<U>, static_cast<const U*>(table.raw()), pointer<const int64_t>(index), n, V,
         units, segments, static_cast<U*>(out.raw()));
}

}  // namespace

void concat(std::span<const Tensor> parts, int axis, const Tensor& out) {
  for (const Tensor& part : parts) check_same_device("concat", out, part);
  concat_parts(parts, axis, out);
}

void gather_rows(const Tensor& table, const Tensor& index, const Tensor& out) {
  check_rows("gather_rows", table, index, out);
  check_same_device("gather_rows", table, index, out);
  check_indices("gather_rows", table, index);
  if (out.numel() == 0) return;
  const auto size = static_cast<int64_t>(dtype_size(table.dtype()));
  if (table.dim(1) * size % 16 == 0 && is_aligned(table.raw()) && is_aligned(out.raw()))
    return gather<uint4>(table, index, out);
  switch (size) {
    case 8:
      return gather<uint64_t>(table, index, out);
    case 4:
      return gather<uint32_t>(table, index, out);
    case 2:
      return gather<uint16_t>(table, index, out);
    default:
      return gather<uint8_t>(table, index, out);
  }
}

void scatter_add_rows(const Tensor& rows, const Tensor& index, const Tensor& table) {
  const char* name = "scatter_add_rows";
  check_rows(name, table, index, rows);
  check_same_device(name, table, rows, index);
  check_indices(name, table, index);
  CHECK(!table.read_only(), name, ": table is a read-only mapping");
  const int64_t n = index.numel(), V = table.dim(0), C = table.dim(1);
  CHECK(n < int64_t{1} << 31, name, ": ", n, " rows are too many for one call on a GPU");
  if (n * C == 0) return;
  visit_dtype_gpu(table.dtype(), name, [&](auto type) {
    using T = decltype(type);
    const Tensor next = Tensor::empty({n}, DType::i32, table.device());
    const Tensor follows = Tensor::zeros({n}, DType::i32, table.device());
    launch({"link_rows", blocks_for(n, kThreads, n), kThreads, table.device()}, link_kernel,
           pointer<const int64_t>(index), static_cast<int>(n), pointer<int32_t>(next),
           pointer<int32_t>(follows));
    const auto run = [&]<int N>(std::integral_constant<int, N>) {
      const int64_t segments = ceil_div(C, N * kWarp * kUnits);
      launch(
          {name, static_cast<unsigned>(ceil_div(n * segments, kWarps)), kThreads, table.device()},
          scatter_kernel<N, T>, pointer<const T>(rows), pointer<const int64_t>(index),
          pointer<const int32_t>(next), pointer<const int32_t>(follows), n, V, C, segments,
          pointer<T>(table));
    };
    is_packed(C, pointer<const T>(rows), pointer<const T>(table))
        ? run(std::integral_constant<int, kPack<T>>{})
        : run(std::integral_constant<int, 1>{});
  });
}

void patchify(const Tensor& x, int64_t patch, bool channel_last, const Tensor& tokens) {
  const Tensor patches = patches_of("patchify", x, patch, channel_last, tokens);
  check_same_device("patchify", x, tokens);
  tokens.view(patches.shape()).copy_from(patches);
}

void unpatchify(const Tensor& tokens, int64_t patch, bool channel_last, const Tensor& x) {
  const Tensor patches = patches_of("unpatchify", x, patch, channel_last, tokens);
  check_same_device("unpatchify", x, tokens);
  patches.copy_from(tokens.view(patches.shape()));
}

}  // namespace parlo::cuda
