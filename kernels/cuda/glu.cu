// y = f(a) * b (kernels/glu.h) and its gradients on a GPU. Floor: bytes of a, b and y; backward: of
// a, b, dy, da and db. A block has 32 packs of columns of some rows: no division an element, and
// the loads of all rows of a thread go before its stores.
#include "kernels/glu.h"

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/glu_checks.h"

namespace parlo::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kBatch = 4, kBackwardBatch = 2;  // rows of a warp in flight

template <class T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;

  Rows() = default;
  explicit Rows(const Tensor& t) : data(pointer<T>(t)), stride(t ? t.strides()[0] : 0) {}
  bool packed() const {
    return is_aligned(data) && stride * static_cast<int64_t>(sizeof(T)) % 16 == 0;
  }
  __device__ __forceinline__ T* at(int64_t row, int64_t column) const {
    return data + row * stride + column;
  }
};

template <class T>
struct GluArgs {
  Rows<const T> a, b, dy;
  Rows<T> y, da, db;
  int64_t rows, columns;
  unsigned slabs;  // of 32 packs of columns
};

// Rows blockIdx.x / slabs * kWarps * Batch + warp + i * kWarps of a thread, one pack of each.
template <int N, int Batch>
struct Place {
  int64_t row, column;
  __device__ explicit Place(unsigned slabs)
      : row(int64_t{blockIdx.x / slabs} * kWarps * Batch + threadIdx.x / kWarp),
        column((int64_t{blockIdx.x % slabs} * kWarp + threadIdx.x % kWarp) * N) {}
};

template <Activation F, class T, int N>
__global__ void __launch_bounds__(kThreads) glu_kernel(GluArgs<T> args) {
  const Place<N, kBatch> at(args.slabs);
  if (at.column >= args.columns) return;
  RowPack<T, N> a[kBatch], b[kBatch];
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    const int64_t row = at.row + i * kWarps;
    if (row >= args.rows) continue;
    a[i] = load_row_pack<N>(args.a.at(row, at.column));
    b[i] = load_row_pack<N>(args.b.at(row, at.column));
  }
#pragma unroll
  for (int i = 0; i < kBatch; ++i) {
    const int64_t row = at.row + i * kWarps;
    if (row >= args.rows) continue;
    Pack<T, N> y;
#pragma unroll
    for (int j = 0; j < N; ++j) y.v[j] = from_f32<T>(activate<F>(a[i].at(j)) * b[i].at(j));
    store_pack<N>(args.y.at(row, at.column), y);
  }
}

template <Activation F, class T, int N>
__global__ void __launch_bounds__(kThreads) glu_backward_kernel(GluArgs<T> args) {
  const Place<N, kBackwardBatch> at(args.slabs);
  if (at.column >= args.columns) return;
  RowPack<T, N> a[kBackwardBatch], b[kBackwardBatch], dy[kBackwardBatch];
#pragma unroll
  for (int i = 0; i < kBackwardBatch; ++i) {
    const int64_t row = at.row + i * kWarps;
    if (row >= args.rows) continue;
    a[i] = load_row_pack<N>(args.a.at(row, at.column));
    b[i] = load_row_pack<N>(args.b.at(row, at.column));
    dy[i] = load_row_pack<N>(args.dy.at(row, at.column));
  }
#pragma unroll
  for (int i = 0; i < kBackwardBatch; ++i) {
    const int64_t row = at.row + i * kWarps;
    if (row >= args.rows) continue;
    Pack<T, N> da, db;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float x = a[i].at(j), d = dy[i].at(j);
      da.v[j] = from_f32<T>(activation_slope<F>(x) * b[i].at(j) * d);
      db.v[j] = from_f32<T>(activate<F>(x) * d);
    }
    if (args.da.data) store_pack<N>(args.da.at(row, at.column), da);
    if (args.db.data) store_pack<N>(args.db.at(row, at.column), db);
  }
}

// run(pack, grid) with the values of a pack: 16 bytes, or one where something is not aligned.
template <class T, class Run>
void over_tiles(GluArgs<T>& args, bool packed, int batch, Run&& run) {
  const auto with = [&](auto pack) {
    const int64_t slabs = ceil_div(args.columns, kWarp * pack.value);
    args.slabs = static_cast<unsigned>(slabs);
    run(pack, static_cast<unsigned>(slabs * ceil_div(args.rows, kWarps * batch)));
  };
  if (packed && args.columns % kPack<T> == 0) {
    with(std::integral_constant<int, kPack<T>>{});
  } else {
    with(std::integral_constant<int, 1>{});
  }
}

}  // namespace

void glu(Activation f, const Tensor& a, const Tensor& b, const Tensor& y) {
  check_glu(a, b, y);
  check_same_device("glu", a, b, y);
  if (a.numel() == 0) return;
  visit_dtype_gpu(a.dtype(), "glu", [&](auto type) {
    using T = decltype(type);
    GluArgs<T> args{Rows<const T>(a), Rows<const T>(b), {}, Rows<T>(y), {}, {},
                    a.dim(0),         a.dim(1),         0};
    const bool packed = args.a.packed() && args.b.packed() && args.y.packed();
    over_tiles(args, packed, kBatch, [&](auto pack, unsigned grid) {
      visit_activation(f, [&](auto which) {
        launch({"glu", grid, kThreads, a.device()}, glu_kernel<which.value, T, pack.value>, args);
      });
    });
  });
}

void glu_backward(Activation f, const Tensor& a, const Tensor& b, const Tensor& dy,
                  const Tensor& da, const Tensor& db) {
  check_glu_backward(a, b, dy, da, db);
  check_same_device("glu_backward", a, b, dy, da, db);
  if (a.numel() == 0 || (!da && !db)) return;
  visit_dtype_gpu(a.dtype(), "glu_backward", [&](auto type) {
    using T = decltype(type);
    GluArgs<T> args{Rows<const T>(a), Rows<const T>(b), Rows<const T>(dy), {}, Rows<T>(da),
                    Rows<T>(db),      a.dim(0),         a.dim(1),          0};
    const bool packed = args.a.packed() && args.b.packed() && args.dy.packed() &&
                        args.da.packed() && args.db.packed();
    over_tiles(args, packed, kBackwardBatch, [&](auto pack, unsigned grid) {
      visit_activation(f, [&](auto which) {
        launch({"glu_backward", grid, kThreads, a.device()},
               glu_backward_kernel<which.value, T, pack.value>, args);
      });
    });
  });
}

}  // namespace parlo::cuda
