// The pass over y after linear's base product, without a low-rank term.
// Floor: y read and written once, and the residual read and the pre-activation written where there
// are any. Threads keep their columns, so that a bias is read once a thread.
#include "kernels/cuda/linear_tail.h"

#include "kernels/cuda/map.cuh"
#include "kernels/cuda/math.cuh"

namespace parlo::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
struct Tail {
  int64_t rows, columns;
  T* y;
  const T* bias;  // or null, like the next two
  const T* residual;
  T* pre;
};

template <Activation F, int N, class T>
__global__ void __launch_bounds__(kThreads) linear_tail_kernel(Tail<T> t) {
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (column >= t.columns) return;
  float bias[N] = {};
  if (t.bias != nullptr) {
    const Pack<T, N> b = load_pack<N>(t.bias + column);
#pragma unroll
    for (int k = 0; k < N; ++k) bias[k] = to_f32(b.v[k]);
  }
  const int64_t step = static_cast<int64_t>(gridDim.y) * blockDim.y;
  for (int64_t row = static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y; row < t.rows;
       row += step) {
    const int64_t at = row * t.columns + column;
    const Pack<T, N> in = load_pack<N>(t.y + at);
    Pack<T, N> added{}, pre, out;
    if (t.residual != nullptr) added = load_pack<N>(t.residual + at);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float v = to_f32(in.v[k]) + bias[k];
      pre.v[k] = from_f32<T>(v);
      const float f = activate<F>(v);
      out.v[k] = from_f32<T>(t.residual != nullptr ? f + to_f32(added.v[k]) : f);
    }
    if (t.pre != nullptr) store_pack<N>(t.pre + at, pre);
    store_pack<N>(t.y + at, out);
  }
}

template <Activation F, int N, class T>
void run(const Tensor& y, const Tail<T>& t) {
  // As few columns a block as keep its threads busy, the rest of the block over rows.
  const int64_t packs = ceil_div(t.columns, N);
  unsigned across = kWarp;
  while (across < kThreads && across < packs) across *= 2;
  const unsigned down = kThreads / across;
  const unsigned x = static_cast<unsigned>(ceil_div(packs, across));
  // About 4 blocks a multiprocessor and column.
  const int64_t most = std::max<int64_t>(1, 4 * properties(y.device()).multiprocessors * 2 / x + 1);
  launch({"linear_tail", dim3(x, blocks_for(t.rows, down, std::min<int64_t>(most, 65535))),
          dim3(across, down), y.device()},
         linear_tail_kernel<F, N, T>, t);
}

}  // namespace

void linear_tail(const Tensor& y, const LinearArgs& args) {
  visit_dtype_gpu(y.dtype(), "linear", [&](auto type) {
    using T = decltype(type);
    const Tail<T> t{y.dim(0),
                    y.dim(1),
                    pointer<T>(y),
                    pointer<const T>(args.bias),
                    pointer<const T>(args.residual),
                    pointer<T>(args.pre_activation)};
    const bool packed = t.columns % kPack<T> == 0 && is_aligned(t.y) && is_aligned(t.bias) &&
                        is_aligned(t.residual) && is_aligned(t.pre);
    visit_activation(args.activation, [&](auto f) {
      if (packed) {
        run<f.value, kPack<T>>(y, t);
      } else {
        run<f.value, 1>(y, t);
      }
    });
  });
}

}  // namespace parlo::cuda
