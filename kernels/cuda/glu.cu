// Gated linear units (kernels/glu.h) on a GPU, f32 and bf16: one pass, 16 bytes an access where
// rows allow. Floor: x once and y once (forward), x, dy and dx once (backward).
#include "kernels/glu.h"

#include "kernels/cuda/map.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/glu_checks.h"

namespace parlo::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostRows = 65535;  // of a grid

template <class T>
struct Glu {
  int64_t rows, columns;
  const T* x;
  const T* dy;  // null forward
  T* out;       // y or dx
};

template <class T, int N, Activation F>
__global__ void __launch_bounds__(kThreads) glu_kernel(Glu<T> g) {
  const int64_t c = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  if (c >= g.columns) return;
  for (int64_t r = blockIdx.y; r < g.rows; r += gridDim.y) {
    const T* const row = g.x + 2 * r * g.columns + c;
    const Pack<T, N> a = load_pack<N>(row), b = load_pack<N>(row + g.columns);
    Pack<T, N> first, second;
    if (g.dy == nullptr) {
#pragma unroll
      for (int k = 0; k < N; ++k) {
        first.v[k] = from_f32<T>(activate<F>(to_f32(a.v[k])) * to_f32(b.v[k]));
      }
      store_pack<N>(g.out + r * g.columns + c, first);
      continue;
    }
    const Pack<T, N> d = load_pack<N>(g.dy + r * g.columns + c);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float u = to_f32(a.v[k]), dy = to_f32(d.v[k]);
      first.v[k] = from_f32<T>(activation_slope<F>(u) * to_f32(b.v[k]) * dy);
      second.v[k] = from_f32<T>(activate<F>(u) * dy);
    }
    T* const to = g.out + 2 * r * g.columns + c;
    store_pack<N>(to, first);
    store_pack<N>(to + g.columns, second);
  }
}

template <class T>
void run(const char* name, Activation f, Device device, const Glu<T>& g) {
  if (g.rows == 0 || g.columns == 0) return;
  const bool packed = g.columns % kPack<T> == 0 && is_aligned(g.x) && is_aligned(g.out) &&
                      (g.dy == nullptr || is_aligned(g.dy));
  const auto with = [&]<int N>(std::integral_constant<int, N>) {
    const dim3 grid(static_cast<unsigned>(ceil_div(g.columns, kThreads * N)),
                    static_cast<unsigned>(std::min(g.rows, kMostRows)));
    visit_activation(f, [&](auto which) {
      launch({name, grid, kThreads, device}, glu_kernel<T, N, which.value>, g);
    });
  };
  if (packed) {
    with(std::integral_constant<int, kPack<T>>{});
  } else {
    with(std::integral_constant<int, 1>{});
  }
}

}  // namespace

void glu(Activation f, const Tensor& x, const Tensor& y) {
  const GluShape s = check_glu("glu", x, y);
  check_same_device("glu", x, y);
  visit_dtype_gpu(x.dtype(), "glu", [&](auto type) {
    using T = decltype(type);
    run<T>("glu", f, x.device(), {s.rows, s.columns, pointer<const T>(x), nullptr, pointer<T>(y)});
  });
}

void glu_backward(Activation f, const Tensor& x, const Tensor& dy, const Tensor& dx) {
  const GluShape s = check_glu("glu_backward", x, dy);
  check_output("glu_backward", "dx", dx, x.dtype(), x.numel());
  check_same_device("glu_backward", x, dy, dx);
  visit_dtype_gpu(x.dtype(), "glu_backward", [&](auto type) {
    using T = decltype(type);
    run<T>("glu_backward", f, x.device(),
           {s.rows, s.columns, pointer<const T>(x), pointer<const T>(dy), pointer<T>(dx)});
  });
}

}  // namespace parlo::cuda
