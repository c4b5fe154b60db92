// Softmax over rows and its gradient (kernels/reduce.h) on a GPU. Floor: x and y once (backward:
// y, dy and dx). A row stays in the registers of one warp or of one block up to 4096 values; longer
// ones are read twice, the second time from L1 or L2.
#include "kernels/cuda/rows.cuh"
#include "kernels/reduce.h"

namespace parlo::cuda {
namespace {

// Packs: what a thread keeps of its row; 0: nothing.
template <int Threads, int Packs, bool Packed, class T>
__global__ void __launch_bounds__(kRowThreads)
    softmax_kernel(const T* x, int64_t rows, int64_t C, T* y) {
  constexpr int N = kPack<T>;
  const int64_t r = row_of_thread<Threads>();
  if (r >= rows) return;  // a whole warp, or nobody
  const int first = thread_of_row<Threads>() * N;
  const T* from = x + r * C;
  T* to = y + r * C;
  if constexpr (Packs > 0) {
    float v[Packs][N], top = -INFINITY, sum = 0;
#pragma unroll
    for (int p = 0; p < Packs; ++p) {
      load_row<Packed>(v[p], from, first + p * Threads * N, C, -INFINITY);
#pragma unroll
      for (int k = 0; k < N; ++k) top = fmaxf(top, v[p][k]);
    }
    top = row_max<Threads>(top);
#pragma unroll
    for (int p = 0; p < Packs; ++p)
#pragma unroll
      for (int k = 0; k < N; ++k) sum += v[p][k] = __expf(v[p][k] - top);
    const float scale = 1.0f / row_sum<Threads>(sum);
#pragma unroll
    for (int p = 0; p < Packs; ++p) {
#pragma unroll
      for (int k = 0; k < N; ++k) v[p][k] *= scale;
      store_row<Packed>(to, first + p * Threads * N, C, v[p]);
    }
  } else {
    ExpSum seen;
    const auto load = [&](int64_t i) { return load_inside<Packed, N>(from, i, C, -INFINITY); };
    for_batches<4>(first, C, Threads * N, load, [&](const Pack<T, N>& p, int64_t) {
      float v[N];
      unpack(v, p);
      seen.add(v);
    });
    const ExpSum all = seen.template over_row<Threads>();
    const float scale = 1.0f / all.sum;
    for_batches<4>(first, C, Threads * N, load, [&](const Pack<T, N>& p, int64_t i) {
      float v[N];
      unpack(v, p);
#pragma unroll
      for (int k = 0; k < N; ++k) v[k] = __expf(v[k] - all.max) * scale;
      store_row<Packed>(to, i, C, v);
    });
  }
}

template <int Threads, int Packs, bool Packed, class T>
__global__ void __launch_bounds__(kRowThreads)
    softmax_backward_kernel(const T* y, const T* dy, int64_t rows, int64_t C, T* dx) {
  constexpr int N = kPack<T>;
  const int64_t r = row_of_thread<Threads>();
  if (r >= rows) return;
  const int first = thread_of_row<Threads>() * N;
  const T *from = y + r * C, *gradient = dy + r * C;
  T* to = dx + r * C;
  float sum = 0;
  if constexpr (Packs > 0) {
    float v[Packs][N], g[Packs][N];
#pragma unroll
    for (int p = 0; p < Packs; ++p) {
      load_row<Packed>(v[p], from, first + p * Threads * N, C);
      load_row<Packed>(g[p], gradient, first + p * Threads * N, C);
#pragma unroll
      for (int k = 0; k < N; ++k) sum = fmaf(v[p][k], g[p][k], sum);
    }
    sum = row_sum<Threads>(sum);
#pragma unroll
    for (int p = 0; p < Packs; ++p) {
#pragma unroll
      for (int k = 0; k < N; ++k) v[p][k] *= g[p][k] - sum;
      store_row<Packed>(to, first + p * Threads * N, C, v[p]);
    }
  } else {
    struct Both {
      Pack<T, N> y, dy;
    };
    const auto load = [&](int64_t i) {
      return Both{load_inside<Packed, N>(from, i, C), load_inside<Packed, N>(gradient, i, C)};
    };
    for_batches<2>(first, C, Threads * N, load, [&](const Both& b, int64_t) {
#pragma unroll
      for (int k = 0; k < N; ++k) sum = fmaf(to_f32(b.y.v[k]), to_f32(b.dy.v[k]), sum);
    });
    sum = row_sum<Threads>(sum);
    for_batches<2>(first, C, Threads * N, load, [&](const Both& b, int64_t i) {
      float v[N];
#pragma unroll
      for (int k = 0; k < N; ++k) v[k] = to_f32(b.y.v[k]) * (to_f32(b.dy.v[k]) - sum);
      store_row<Packed>(to, i, C, v);
    });
  }
}

// Calls run<Threads, Packs, Packed> with the smallest of a few choices that holds C values of T.
template <class T, class Run>
void with_row_size(int64_t C, bool packed, Run run) {
  constexpr int N = kPack<T>;
  with_packing(packed, [&](auto p) {
    if (C <= kWarp * N) return run.template operator()<kWarp, 1, p.value>();
    if (C <= kWarp * N * 4) return run.template operator()<kWarp, 4, p.value>();
    if (C <= 4096) return run.template operator()<kRowThreads, 16 / N, p.value>();
    run.template operator()<kRowThreads, 0, p.value>();
  });
}

}  // namespace

void softmax(const Tensor& x, const Tensor& y) {
  const int64_t C = columns_of("softmax", x);
  check_operand("softmax", "x", x, x.dtype(), x.numel());
  check_output("softmax", "y", y, x.dtype(), x.numel());
  check_same_device("softmax", x, y);
  if (x.numel() == 0) return;
  const int64_t rows = x.numel() / C;
  visit_dtype_gpu(x.dtype(), "softmax", [&](auto type) {
    using T = decltype(type);
    const T* from = pointer<const T>(x);
    T* to = pointer<T>(y);
    with_row_size<T>(C, is_packed(C, from, to), [&]<int Threads, int Packs, bool Packed>() {
      launch(over_rows<Threads>("softmax", rows, x.device()),
             softmax_kernel<Threads, Packs, Packed, T>, from, rows, C, to);
    });
  });
}

void softmax_backward(const Tensor& y, const Tensor& dy, const Tensor& dx) {
  const char* name = "softmax_backward";
  const int64_t C = columns_of(name, y);
  check_operand(name, "y", y, y.dtype(), y.numel());
  check_operand(name, "dy", dy, y.dtype(), y.numel());
  check_output(name, "dx", dx, y.dtype(), y.numel());
  check_same_device(name, y, dy, dx);
  if (y.numel() == 0) return;
  const int64_t rows = y.numel() / C;
  visit_dtype_gpu(y.dtype(), name, [&](auto type) {
    using T = decltype(type);
    const T *py = pointer<const T>(y), *pdy = pointer<const T>(dy);
    T* to = pointer<T>(dx);
    with_row_size<T>(C, is_packed(C, py, pdy, to), [&]<int Threads, int Packs, bool Packed>() {
      launch(over_rows<Threads>(name, rows, y.device()),
             softmax_backward_kernel<Threads, Packs, Packed, T>, py, pdy, rows, C, to);
    });
  });
}

}  // namespace parlo::cuda
