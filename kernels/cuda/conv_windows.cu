// im2col and its adjoint for conv2d (conv.cu), and the gradient of a bias.
// Floors: gather_windows reads x and writes col once; sum_windows reads col and writes dx once, a
// gather without atomics; sum_channels reads dy once.
#include "kernels/cuda/conv_windows.h"

#include "kernels/cuda/map.cuh"

namespace parlo::cuda {
namespace {

constexpr int kThreads = 256;

// Sizes fit 32 bits one by one; offsets are 64 bits wide.
struct Windows {
  int channels, h, w, kh, kw, oh, ow, stride, padding;
  __host__ __device__ int rows() const { return channels * kh * kw; }
};

Windows windows_of(const ConvSizes& c) {
  const auto narrow = [](int64_t n) { return static_cast<int>(n); };
  return {narrow(c.in), narrow(c.h),  narrow(c.w),      narrow(c.kh),     narrow(c.kw),
          narrow(c.oh), narrow(c.ow), narrow(c.stride), narrow(c.padding)};
}

// N neighbouring pixels a thread; blocks are as wide as one row of col asks, and go on over rows.
template <int N, class T>
__global__ void __launch_bounds__(kThreads)
    gather_windows_kernel(Windows c, int64_t first, int64_t count, const T* x, T* col) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (at >= count) return;
  const int pixel = static_cast<int>(first + at), i0 = pixel / c.ow, j0 = pixel % c.ow;
  const int rows = c.rows(), step = static_cast<int>(gridDim.y * blockDim.y);
  const int64_t image = blockIdx.z;
  for (int row = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y); row < rows; row += step) {
    const int di = row / c.kw % c.kh, dj = row % c.kw;
    const int64_t channel = row / (c.kh * c.kw);
    const T* plane = x + (image * c.channels + channel) * c.h * c.w;
    Pack<T, N> out;
    int i = i0, j = j0;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const int py = i * c.stride + di - c.padding, px = j * c.stride + dj - c.padding;
      // Negative ones become large.
      const bool inside = static_cast<unsigned>(py) < static_cast<unsigned>(c.h) &&
                          static_cast<unsigned>(px) < static_cast<unsigned>(c.w);
      out.v[k] = inside ? plane[static_cast<int64_t>(py) * c.w + px] : from_f32<T>(0.0f);
      if (++j == c.ow) j = 0, ++i;
    }
    store_pack<N>(col + (image * rows + row) * count + at, out);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_windows_kernel(Windows c, int row_begin, int64_t count, int y_begin, int64_t pixels,
                       const T* col, T* dx) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= pixels) return;
  const int pixel = static_cast<int>(at), y = y_begin + pixel / c.w, x = pixel % c.w;
  const int top = y + c.padding, left = x + c.padding;
  const int row_end = row_begin + static_cast<int>(count / c.ow);
  const int64_t image = blockIdx.z, step = static_cast<int64_t>(gridDim.y) * blockDim.y;
  for (int64_t channel = static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y;
       channel < c.channels; channel += step) {
    const int64_t plane = image * c.channels + channel;
    float sum = 0;
    // Every stride-th row and column of the weights meets an output pixel.
    for (int di = top % c.stride, i = top / c.stride; di < c.kh; di += c.stride, --i) {
      if (i < row_begin || i >= row_end) continue;
      const int64_t line = (plane * c.kh + di) * c.kw;
      const int64_t at_row = static_cast<int64_t>(i - row_begin) * c.ow;
      for (int dj = left % c.stride, j = left / c.stride; dj < c.kw; dj += c.stride, --j) {
        if (j >= 0 && j < c.ow) sum += to_f32(col[(line + dj) * count + at_row + j]);
      }
    }
    dx[(plane * c.h + y) * c.w + x] = from_f32<T>(sum);
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
  visit_dtype_gpu(x.dtype(), "conv2d", [&](auto type) {
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

void sum_windows(const ConvSizes& c, const Tensor& col, int64_t row_begin, int64_t y_begin,
                 int64_t y_end, const Tensor& dx) {
  const int64_t pixels = (y_end - y_begin) * c.w;
  visit_dtype_gpu(dx.dtype(), "conv2d_backward", [&](auto type) {
    using T = decltype(type);
    launch(tiles("sum_windows", pixels, c.in, dx.dim(0), dx.device()), sum_windows_kernel<T>,
           windows_of(c), static_cast<int>(row_begin), col.dim(-1), static_cast<int>(y_begin),
           pixels, pointer<const T>(col), pointer<T>(dx));
  });
}

void sum_channels(const ConvSizes& c, const Tensor& dy, const Tensor& dbias) {
  visit_dtype_gpu(dy.dtype(), "conv2d_backward", [&](auto type) {
    using T = decltype(type);
    launch({"sum_channels", static_cast<unsigned>(c.out), kThreads, dy.device()},
           sum_channels_kernel<T>, c.batch, c.oh * c.ow, pointer<const T>(dy), pointer<T>(dbias));
  });
}

}  // namespace parlo::cuda
