// What conv_gemm.cu needs around it: products of a convolution and of its gradient, channels side
// by side, weights in the order of the sum, borders folded.
// Floors: every operand is read and written once.
#include "kernels/cuda/conv_gemm.h"

#include "kernels/cuda/channel_rows.cuh"

namespace parlo::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kWeightBytes = 48 << 10;         // of a block's weights in shared memory
constexpr int64_t kCopyBytes = int64_t{32} << 20;  // of x at a time: it stays in the L2

// x [images, groups, channels, positions] as rows of channels, zeros up to `padded` of a group.
template <int N, class T>
__global__ void __launch_bounds__(kRowsThreads)
    channel_rows_kernel(const T* x, int groups, int channels, int64_t positions, int padded,
                        T* rows) {
  const int64_t tiles = (positions + kRowsTile - 1) / kRowsTile, plane = blockIdx.x / tiles;
  const int64_t image = plane / groups, group = plane % groups, row = int64_t{groups} * padded;
  write_channel_rows<N>(ChannelTile<T>{x + plane * channels * positions,
                                       rows + image * positions * row + group * padded, positions,
                                       row, channels, padded, blockIdx.x % tiles * kRowsTile,
                                       static_cast<int>(blockIdx.y) * kRowsTile},
                        [](int) { return [](float value) { return value; }; });
}

struct PackedWeights {
  int groups, out, in, padded, tile;  // channels of a block
  int taps[3], kernel[3], first[3], step[3];
  bool transposed;
};

__device__ __forceinline__ int source_tap(const PackedWeights& p, int k) {
  int tap = 0, volume = 1;
#pragma unroll
  for (int axis = 2; axis >= 0; --axis) {
    tap += (p.first[axis] + k % p.taps[axis] * p.step[axis]) * volume;
    k /= p.taps[axis], volume *= p.kernel[axis];
  }
  return tap;
}

// A block turns all taps of some channels of one row: they lie side by side in w, and so do the
// channels of a tap in the result.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pack_weights_kernel(PackedWeights p, const T* w, T* packed) {
  SMEM_DYNAMIC(shared);
  T* tile = reinterpret_cast<T*>(shared);
  const int volume = p.kernel[0] * p.kernel[1] * p.kernel[2];
  const int taps = p.taps[0] * p.taps[1] * p.taps[2], tiles = (p.padded + p.tile - 1) / p.tile;
  const int64_t row = blockIdx.x / tiles, o = row % p.out, g = row / p.out;
  const int c0 = static_cast<int>(blockIdx.x % tiles) * p.tile;
  for (int item = threadIdx.x; item < p.tile * volume; item += kThreads) {
    const int64_t c = c0 + item / volume;
    if (c >= p.in) break;
    // [O, I / groups]: of dx, o counts the I / groups and c the O / groups.
    const int64_t pair = p.transposed ? (g * p.in + c) * p.out + o : (g * p.out + o) * p.in + c;
    tile[item] = w[pair * volume + item % volume];
  }
  __syncthreads();
  for (int item = threadIdx.x; item < p.tile * taps; item += kThreads) {
    const int c = item % p.tile, k = item / p.tile;
    if (c0 + c >= p.padded) continue;
    packed[(row * taps + k) * p.padded + c0 + c] =
        c0 + c < p.in ? tile[c * volume + source_tap(p, k)] : from_f32<T>(0);
  }
}

struct Fold {
  int size[3], padded[3], before[3];
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    fold_borders_kernel(Fold f, const float* padded, int64_t n, T* dx) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) {
    int low[3], high[3];
    int64_t rest = i;
#pragma unroll
    for (int axis = 2; axis >= 0; --axis) {
      const int at = static_cast<int>(rest % f.size[axis]);
      rest /= f.size[axis];
      low[axis] = at == 0 ? 0 : at + f.before[axis];
      high[axis] = at == f.size[axis] - 1 ? f.padded[axis] : at + f.before[axis] + 1;
    }
    float sum = 0;
    for (int d = low[0]; d < high[0]; ++d) {
      for (int h = low[1]; h < high[1]; ++h) {
        const float* line = padded + ((rest * f.padded[0] + d) * f.padded[1] + h) * f.padded[2];
        for (int v = low[2]; v < high[2]; ++v) sum += line[v];
      }
    }
    dx[i] = from_f32<T>(sum);
  }
}

int narrow(int64_t n) {
  CHECK(n >= -(int64_t{1} << 31) && n < int64_t{1} << 31, "conv3d: ", n,
        " is more than a GPU kernel counts");
  return static_cast<int>(n);
}

// Elements from a position to the next where x lies as rows of channels; 0 where it does not.
int64_t row_of(const Tensor& x, int groups) {
  const int64_t unit = 16 / static_cast<int64_t>(dtype_size(x.dtype()));
  const int64_t channels = x.dim(1);
  if (channels / groups % unit != 0 || x.strides()[1] != 1 || !is_aligned(x.raw())) return 0;
  int64_t row = 0, step = 1;  // the stride of a position, from the last axis that has one
  for (int i = 4; i >= 2; --i) {
    if (x.dim(i) > 1 && row == 0) row = x.strides()[i] / step;
    if (x.dim(i) > 1 && x.strides()[i] != row * step) return 0;
    step *= x.dim(i);
  }
  if (row == 0) row = channels;  // one position
  if (row < channels || row % unit != 0) return 0;
  return x.dim(0) > 1 && x.strides()[0] % unit != 0 ? 0 : row;
}

Tensor copy_rows(const Tensor& x, int groups, int64_t padded) {
  const int64_t positions = x.dim(2) * x.dim(3) * x.dim(4);
  const Tensor rows = Tensor::empty({x.dim(0), positions, groups, padded}, x.dtype(), x.device());
  const int64_t tiles = x.dim(0) * groups * ceil_div(positions, kRowsTile);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(ceil_div(padded, kRowsTile)));
  visit_dtype_gpu(x.dtype(), "conv3d", [&](auto type) {
    using T = decltype(type);
    const auto run = [&]<int N>(std::integral_constant<int, N>) {
      launch({"channel_rows", grid, kRowsThreads, x.device()}, channel_rows_kernel<N, T>,
             pointer<const T>(x), groups, narrow(x.dim(1) / groups), positions, narrow(padded),
             pointer<T>(rows));
    };
    if (positions % kPack<T> == 0 && is_aligned(x.raw())) {
      run(std::integral_constant<int, kPack<T>>{});
    } else {
      run(std::integral_constant<int, 1>{});
    }
  });
  return rows;
}

}  // namespace

int64_t padded_channels(int64_t channels, DType dtype) {
  const int64_t unit = 16 / static_cast<int64_t>(dtype_size(dtype));
  return ceil_div(channels, unit) * unit;
}

ConvProduct forward_product(const ConvSizes& c) {
  ConvProduct p;
  p.replicate = c.border == Border::replicate;
  p.groups = narrow(c.groups), p.in = narrow(c.in / c.groups), p.out = narrow(c.out / c.groups);
  for (size_t i = 0; i < 3; ++i) {
    p.axis[i] = {narrow(c.size[i]),
                 narrow(c.result[i]),
                 narrow(c.stride[i]),
                 narrow(-c.before[i]),
                 narrow(c.kernel[i]),
                 1,
                 0,
                 narrow(c.result[i])};
  }
  return p;
}

std::vector<ConvProduct> gradient_products(const ConvSizes& c, const ConvAxes& size,
                                           const ConvAxes& before) {
  std::vector<ConvProduct> products(1);
  products[0].groups = narrow(c.groups);
  products[0].in = narrow(c.out / c.groups), products[0].out = narrow(c.in / c.groups);
  for (size_t i = 0; i < 3; ++i) {
    std::vector<ConvProduct> next;
    const int64_t s = c.stride[i];
    for (int64_t r = 0; r < std::min(s, size[i]); ++r) {
      // Position q s + r meets taps t + s j, in outputs q + (r + before - t) / s - j: from the last
      // of them on, the outputs follow one another.
      const int64_t t = (r + before[i]) % s,
                    taps = ceil_div(std::max<int64_t>(c.kernel[i] - t, 0), s);
      const int64_t shift = (r + before[i] - t) / s - (taps - 1);
      for (ConvProduct p : products) {
        p.axis[i] = {narrow(c.result[i]),
                     narrow(ceil_div(size[i] - r, s)),
                     1,
                     narrow(shift),
                     narrow(taps),
                     narrow(s),
                     narrow(r),
                     narrow(size[i])};
        p.tap_first[i] = narrow(t + s * (taps - 1)), p.tap_step[i] = narrow(-s);
        next.push_back(p);
      }
    }
    products = std::move(next);
  }
  return products;
}

void for_channel_rows(const Tensor& x, int groups,
                      const std::function<void(int64_t, int64_t, const ChannelRows&)>& body) {
  const int64_t batch = x.dim(0), per_group = x.dim(1) / groups;
  const int64_t padded = padded_channels(per_group, x.dtype());
  const int64_t positions = x.dim(2) * x.dim(3) * x.dim(4);
  narrow(positions);
  if (positions == 0 || padded == 0) return body(0, batch, {nullptr, 0, 0, 0});
  if (const int64_t row = row_of(x, groups)) {
    return body(0, batch, {x.raw(), x.strides()[0], row, per_group});
  }
  const Tensor plain = x.contiguous();
  const int64_t image = positions * groups * padded;
  const int64_t bytes = image * static_cast<int64_t>(dtype_size(x.dtype()));
  const int64_t step = std::max<int64_t>(1, kCopyBytes / bytes);
  for (int64_t b = 0; b < batch; b += step) {
    const int64_t end = std::min(batch, b + step);
    const Tensor rows = copy_rows(plain.slice(0, b, end), groups, padded);
    body(b, end, {rows.raw(), image, groups * padded, padded});
  }
}

Tensor pack_weights(const ConvProduct& p, const Tensor& w, bool transposed) {
  const int64_t padded = padded_channels(p.in, w.dtype());
  PackedWeights args{p.groups, p.out, p.in, narrow(padded), 0, {}, {}, {}, {}, transposed};
  int64_t taps = 1, volume = 1;
  for (int i = 0; i < 3; ++i) {
    args.taps[i] = p.axis[i].taps, args.kernel[i] = narrow(w.dim(i + 2));
    args.first[i] = p.tap_first[i], args.step[i] = p.tap_step[i];
    taps *= args.taps[i], volume *= args.kernel[i];
  }
  narrow(taps * padded);
  const Tensor packed = Tensor::empty({p.groups, p.out, taps, padded}, w.dtype(), w.device());
  if (packed.numel() == 0) return packed;
  const int64_t bytes = volume * static_cast<int64_t>(dtype_size(w.dtype()));
  CHECK(bytes <= kWeightBytes, "conv3d: a kernel of ", volume, " elements is larger than a GPU's");
  args.tile = narrow(std::min(std::min<int64_t>(64, padded), kWeightBytes / bytes));
  const int64_t blocks = int64_t{p.groups} * p.out * ceil_div(padded, args.tile);
  visit_dtype_gpu(w.dtype(), "conv3d", [&](auto type) {
    using T = decltype(type);
    launch({"pack_weights", static_cast<unsigned>(blocks), kThreads, w.device(),
            static_cast<size_t>(args.tile * bytes)},
           pack_weights_kernel<T>, args, pointer<const T>(w), pointer<T>(packed));
  });
  return packed;
}

void fold_borders(const Tensor& padded, const ConvAxes& before, const Tensor& dx) {
  Fold f{};
  for (int i = 0; i < 3; ++i) {
    f.size[i] = narrow(dx.dim(i + 2)), f.padded[i] = narrow(padded.dim(i + 2));
    f.before[i] = narrow(before[static_cast<size_t>(i)]);
  }
  visit_dtype_gpu(dx.dtype(), "conv3d_backward", [&](auto type) {
    using T = decltype(type);
    launch({"fold_borders", blocks_for(dx.numel(), kThreads), kThreads, dx.device()},
           fold_borders_kernel<T>, f, pointer<const float>(padded), dx.numel(), pointer<T>(dx));
  });
}

}  // namespace parlo::cuda
