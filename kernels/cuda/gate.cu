// out = residual + gate y with one gate row per group of rows (adaLN-Zero), and its gradients, on a
// GPU. Floor: bytes of residual, y and out; backward: of dout, dy and, for dgate, y.
// A block has 32 packs of columns and some rows of one group: a thread keeps its gate in registers,
// and its part of dgate. dgate's partial sums of each block are added in order by combine().
#include "kernels/cuda/norm.cuh"
#include "kernels/elementwise.h"
#include "kernels/gate_checks.h"
#include "kernels/norm_checks.h"

namespace parlo::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kBatch = 4;  // rows of a warp in flight
constexpr int64_t kRows = kWarps * kBatch, kRowsForSums = 2 * kRows;

template <class T>
struct GateArgs {
  const T *a, *y;  // a: residual or dout; no y without dgate
  T* out;          // or dy; may be null
  float* partial;  // sums of y dout, [blocks, C]
  Parameter<T> gate;
  RowBlocks blocks;
  int columns;
};

template <int N>
struct Tile {
  unsigned block;
  int column;
  __device__ explicit Tile(int columns) {
    const unsigned slabs = (columns + kWarp * N - 1) / (kWarp * N);
    block = blockIdx.x / slabs;
    column = static_cast<int>(blockIdx.x % slabs * kWarp + threadIdx.x % kWarp) * N;
  }
};

// fn(row, a, y) for every row of this warp; loads of a batch go before its stores.
template <bool kHasY, int N, class T, class Fn>
__device__ __forceinline__ void for_rows(const GateArgs<T>& args, const RowBlocks::Span& span,
                                         int column, Fn&& fn) {
  for (int64_t row = span.first + threadIdx.x / kWarp; row < span.last; row += kRows) {
    RowPack<T, N> a[kBatch], y[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int64_t r = row + i * kWarps;
      if (r >= span.last) continue;
      a[i] = load_row_pack<N>(args.a + r * args.columns + column);
      if (kHasY) y[i] = load_row_pack<N>(args.y + r * args.columns + column);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      if (row + i * kWarps < span.last) fn(row + i * kWarps, a[i], y[i]);
  }
}

template <int N, class T, class Fn>
__device__ __forceinline__ void store_row(const GateArgs<T>& args, int64_t row, int column,
                                          Fn&& value) {
  Pack<T, N> out;
#pragma unroll
  for (int j = 0; j < N; ++j) out.v[j] = from_f32<T>(value(j));
  store_pack<N>(args.out + row * args.columns + column, out);
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads) gate_kernel(GateArgs<T> args) {
  const Tile<N> tile(args.columns);
  if (tile.column >= args.columns) return;
  const auto span = args.blocks.at(tile.block);
  float gate[N];
  args.gate.load(span.group, tile.column, gate);
  for_rows<true, N>(args, span, tile.column, [&](int64_t row, const auto& residual, const auto& y) {
    store_row<N>(args, row, tile.column,
                 [&](int j) { return fmaf(gate[j], y.at(j), residual.at(j)); });
  });
}

template <class T, int N, bool kSums>
__global__ void __launch_bounds__(kThreads) gate_backward_kernel(GateArgs<T> args) {
  const Tile<N> tile(args.columns);
  const bool active = tile.column < args.columns;
  const auto span = args.blocks.at(tile.block);
  float gate[N], sum[N] = {};
  if (active) {
    args.gate.load(span.group, tile.column, gate);
    for_rows<kSums, N>(args, span, tile.column, [&](int64_t row, const auto& dout, const auto& y) {
      if (args.out)
        store_row<N>(args, row, tile.column, [&](int j) { return gate[j] * dout.at(j); });
      if constexpr (kSums) {
#pragma unroll
        for (int j = 0; j < N; ++j) sum[j] = fmaf(y.at(j), dout.at(j), sum[j]);
      }
    });
  }
  if constexpr (kSums) {
    SMEM(float, shared, [kWarps][N * kWarp]);
    store_floats(&shared[threadIdx.x / kWarp][threadIdx.x % kWarp * N], sum);
    __syncthreads();
    const int column = tile.column - static_cast<int>(threadIdx.x % kWarp) * N;  // of the slab
    for (int c = threadIdx.x; c < N * kWarp && column + c < args.columns; c += kThreads) {
      float total = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) total += shared[w][c];
      args.partial[static_cast<int64_t>(tile.block) * args.columns + column + c] = total;
    }
  }
}

// Calls fn with the values a pack has: 16 bytes, or one where something is not aligned.
template <class T, class Fn>
void visit_pack(const GateArgs<T>& args, Fn&& fn) {
  const bool packed = args.columns % kPack<T> == 0 && is_aligned(args.a) && is_aligned(args.y) &&
                      is_aligned(args.out) && args.gate.packed();
  if (packed) return fn(std::integral_constant<int, kPack<T>>{});
  fn(std::integral_constant<int, 1>{});
}

template <class T>
Launch grid_of(const char* name, const GateArgs<T>& args, int pack, Device device) {
  const int64_t slabs = ceil_div(args.columns, kWarp * pack);
  return {name, static_cast<unsigned>(args.blocks.count * slabs), kThreads, device};
}

}  // namespace

void gate_residual(const Tensor& residual, const Tensor& gate, const Tensor& y, const Tensor& out) {
  const char* name = "gate_residual";
  const DType gate_dtype = gate && y ? parameter_dtype(y, gate) : DType::f32;
  const GateShape s = check_gate(name, gate, y, gate_dtype);
  check_operand(name, "y", y, y.dtype(), y.numel());
  check_operand(name, "residual", residual, y.dtype(), y.numel());
  check_output(name, "out", out, y.dtype(), y.numel());
  check_same_device(name, y, residual, gate, out);
  if (y.numel() == 0) return;
  visit_dtype_gpu(y.dtype(), name, [&](auto type) {
    using T = decltype(type);
    const GateArgs<T> args{pointer<const T>(residual),
                           pointer<const T>(y),
                           pointer<T>(out),
                           nullptr,
                           Parameter<T>(gate),
                           RowBlocks(s.groups, s.rows_per_group, kRows),
                           static_cast<int>(s.columns)};
    visit_pack(args, [&](auto pack) {
      launch(grid_of(name, args, pack.value, y.device()), gate_kernel<T, pack.value>, args);
    });
  });
}

void gate_residual_backward(const Tensor& gate, const Tensor& y, const Tensor& dout,
                            const Tensor& dgate, const Tensor& dy) {
  const char* name = "gate_residual_backward";
  const DType gate_dtype = gate && dout ? parameter_dtype(dout, gate) : DType::f32;
  const GateShape s = check_gate(name, gate, dout, gate_dtype);
  const int64_t numel = s.rows * s.columns;
  check_operand(name, "dout", dout, dout.dtype(), numel);
  if (dgate) {
    check_operand(name, "y", y, dout.dtype(), numel);
    check_parameter_grad(name, "dgate", dgate, dout, s.groups * s.columns);
  }
  if (dy) check_output(name, "dy", dy, dout.dtype(), numel);
  check_same_device(name, dout, gate, dgate ? y : Tensor(), dgate, dy);
  if (s.rows == 0) {
    if (dgate) dgate.fill(0);
    return;
  }
  if (!dgate && !dy) return;
  visit_dtype_gpu(dout.dtype(), name, [&](auto type) {
    using T = decltype(type);
    GateArgs<T> args{pointer<const T>(dout),
                     dgate ? pointer<const T>(y) : nullptr,
                     pointer<T>(dy),
                     nullptr,
                     Parameter<T>(gate),
                     RowBlocks(s.groups, s.rows_per_group, dgate ? kRowsForSums : kRows),
                     static_cast<int>(s.columns)};
    const Shape sums = {args.blocks.count, s.columns};
    const Tensor partial = dgate ? Tensor::empty(sums, DType::f32, dout.device()) : Tensor();
    args.partial = pointer<float>(partial);
    visit_pack(args, [&](auto pack) {
      const Launch at = grid_of(name, args, pack.value, dout.device());
      if (dgate) {
        launch(at, gate_backward_kernel<T, pack.value, true>, args);
      } else {
        launch(at, gate_backward_kernel<T, pack.value, false>, args);
      }
    });
    if (!dgate) return;
    ColumnSums totals;
    totals.Q = args.partial, totals.dshift = ParameterGrad(dgate);
    totals.per_group = args.blocks.per_group, totals.groups = s.groups;
    totals.columns = args.columns;
    combine(name, totals, dout.device());
  });
}

}  // namespace parlo::cuda
