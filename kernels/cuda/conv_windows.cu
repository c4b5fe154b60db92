// im2col for the gradient of a convolution's weights (conv.cu), and the gradient of a bias.
// Floors: gather_windows reads x and writes col once; sum_channels reads dy once.
#include "kernels/cuda/conv_windows.h"

#include "kernels/cuda/map.cuh"

namespace parlo::cuda {
namespace {

constexpr int kThreads = 256;

// Sizes fit 32 bits one by one; offsets are 64 bits wide.
struct Windows {
  int channels, size[3], kernel[3], result[3], stride[3], before[3];
  bool replicate;
  __host__ __device__ int rows() const { return channels * kernel[0] * kernel[1] * kernel[2]; }
};

Windows windows_of(const ConvSizes& c) {
  Windows w{};
  w.channels = static_cast<int>(c.in), w.replicate = c.border == Border::replicate;
  for (size_t i = 0; i < 3; ++i) {
    w.size[i] = static_cast<int>(c.size[i]), w.kernel[i] = static_cast<int>(c.kernel[i]);
    w.result[i] = static_cast<int>(c.result[i]), w.stride[i] = static_cast<int>(c.stride[i]);
    w.before[i] = static_cast<int>(c.before[i]);
  }
  return w;
}

// The position of x under tap k of result q; false where there is none.
__device__ __forceinline__ bool window_position(const Windows& c, const int (&q)[3],
                                                const int (&k)[3], int64_t& at) {
  at = 0;
  bool inside = true;
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    int p = q[i] * c.stride[i] + k[i] - c.before[i];
    if (c.replicate) p = min(max(p, 0), c.size[i] - 1);
    inside = inside && static_cast<unsigned>(p) < static_cast<unsigned>(c.size[i]);
    at = at * c.size[i] + p;
  }
  return inside;
}

// N neighbouring pixels a thread; blocks are as wide as one row of col asks, and go on over rows.
template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    gather_windows_kernel(Windows c, int64_t first, int64_t count, const T* x, T* col) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (at >= count) return;
  const int pixel = static_cast<int>(first + at), line = pixel / c.result[2];
  const int rows = c.rows(), step = static_cast<int>(gridDim.y * blockDim.y);
  const int64_t image = blockIdx.z, volume = int64_t{c.size[0]} * c.size[1] * c.size[2];
  for (int row = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y); row < rows; row += step) {
    const int above = row / c.kernel[2], higher = above / c.kernel[1];
    const int k[3] = {higher % c.kernel[0], above % c.kernel[1], row % c.kernel[2]};
    const T* plane = x + (image * c.channels + higher / c.kernel[0]) * volume;
    int q[3] = {line / c.result[1], line % c.result[1], pixel % c.result[2]};
    Pack<T, N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      int64_t from;
      const bool inside = window_position(c, q, k, from);
      out.v[i] = inside ? plane[from] : from_f32<T>(0.0f);
      if (++q[2] < c.result[2]) continue;
      q[2] = 0;
      if (++q[1] == c.result[1]) q[1] = 0, ++q[0];
    }
    store_pack<N>(col + (image * rows + row) * count + at, out);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_channels_kernel(int64_t batch, int64_t area, const T* dy, T* dbias) {
  float sum = 0;
  for (int64_t b = 0; b < batch; ++b) {
    const T* plane = dy + (b * gridDim.x + blockIdx.x) * area;
    for (int64_t i = threadIdx.x; i < area; i += kThreads) sum += to_f32(plane[i]);
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) dbias[blockIdx.x] = from_f32<T>(sum);
}

// Blocks over `across` threads of one row and `down` rows, an image a layer.
Launch tiles(const char* name, int64_t across, int64_t down, int64_t images, Device device) {
  unsigned x = kWarp;
  while (x < kThreads && x < across) x *= 2;
  const unsigned y = kThreads / x;
  return {name,
          dim3(static_cast<unsigned>(ceil_div(across, x)), blocks_for(down, y, 65535),
               static_cast<unsigned>(images)),
          dim3(x, y), device};
}

}  // namespace

void gather_windows(const ConvSizes& c, const Tensor& x, int64_t first, int64_t count,
                    const Tensor& col) {
  const Windows sizes = windows_of(c);
  visit_dtype_gpu(x.dtype(), "conv3d", [&](auto type) {
    using T = decltype(type);
    const auto run = [&]<int N>(std::integral_constant<int, N>) {
      launch(tiles("gather_windows", ceil_div(count, N), sizes.rows(), x.dim(0), x.device()),
             gather_windows_kernel<N, T>, sizes, first, count, pointer<const T>(x),
             pointer<T>(col));
    };
    if (count % kPack<T> == 0 && is_aligned(col.raw())) {
      run(std::integral_constant<int, kPack<T>>{});
    } else {
      run(std::integral_constant<int, 1>{});
    }
  });
}

void sum_channels(const ConvSizes& c, const Tensor& dy, const Tensor& dbias) {
  visit_dtype_gpu(dy.dtype(), "conv3d_backward", [&](auto type) {
    using T = decltype(type);
    launch({"sum_channels", static_cast<unsigned>(c.out), kThreads, dy.device()},
           sum_channels_kernel<T>, c.batch, c.area(), pointer<const T>(dy), pointer<T>(dbias));
  });
}

}  // namespace parlo::cuda
