// Convolution as a product without a window matrix (implicit GEMM), for images and volumes:
//   y[o, p] = sum over taps k and channels c of w[o, k, c] x[p stride + shift + k, c] + bias[o]
// x lies with its channels side by side, so that 16 bytes of a window are 16 bytes of x, gathered
// by cp.async; the sum runs over such chunks of all taps in one go, so a step may hold several taps
// of few channels. y is written channel after channel, through shared memory.
// Floor: 2 out in taps flops an output position at the tensor cores' rate of mma.sync. A block of
// 8 warps owns 128 channels (32 where there are few) and 128 positions; four stages of 32 values
// of K. f32 has the same tiles with FMAs. Which tile a result is in depends on its channel and its
// place in the image alone.
#include "kernels/cuda/conv_gemm.h"

#include "kernels/cuda/conv_tile.cuh"
#include "kernels/cuda/map.cuh"

namespace parlo::cuda {
namespace {

constexpr int kStages = 4;

template <int kM>
constexpr int kStageBytes = (kM + kConvPositions) * kConvRowBytes;
template <int kM>
constexpr int kSharedBytes = std::max(kStages* kStageBytes<kM>,
                                      kM* kConvSumRow* static_cast<int>(sizeof(float)));

// No padding: g++ 12 with -ftrivial-auto-var-init clears what follows an array of structs in the
// wrong place.
template <class T, class Out>
struct ConvOperands {
  ConvAxis axis[3];
  int replicate;
  int dense;  // results lie in order, 16 bytes of them aligned
  int out, groups, out_tiles, positions;
  int chunks, chunks_of_tap;  // 16 bytes each, of the sum and of a tap
  int64_t extents;            // positions of y
  const T *x, *w, *bias, *residual;
  int64_t x_image, x_row, x_group;
  Out* y;
  __host__ __device__ int position_tiles() const {
    return (positions + kConvPositions - 1) / kConvPositions;
  }
};

__device__ __forceinline__ bool lies_in(int at, const ConvAxis& axis) {
  return static_cast<unsigned>(at) < static_cast<unsigned>(axis.size);  // negative ones are large
}

// Which part of the result a block has.
struct ConvBlock {
  int64_t image;
  int group, channel, position;  // first ones of the tile
};

template <int kM, class T, class Out>
__device__ __forceinline__ ConvBlock conv_block(const ConvOperands<T, Out>& a) {
  const unsigned tile = blockIdx.x % a.out_tiles, rest = blockIdx.x / a.out_tiles;
  const unsigned tiles = a.position_tiles(), plane = rest / tiles;
  return {plane / a.groups, static_cast<int>(plane % a.groups), static_cast<int>(tile * kM),
          static_cast<int>(rest % tiles) * kConvPositions};
}

// One thread's part of the loads: a chunk of every 64th row of both tiles, chunk after chunk of K.
template <int kM, class T, class Out>
class ConvLoader {
 public:
  __device__ ConvLoader(const ConvOperands<T, Out>& a, const ConvBlock& block)
      : a_(a), chunk_(threadIdx.x % kConvChunks) {
    const T* w = a.w + (int64_t{block.group} * a.out) * a.chunks * kPack<T>;
    x_ = a.x + block.image * a.x_image + block.group * a.x_group;
#pragma unroll
    for (int i = 0; i < kW; ++i) {
      // Rows beyond the last repeat it: their results are not stored.
      const int channel = min(block.channel + row(i), a.out - 1);
      w_[i] = w + int64_t{channel} * a.chunks * kPack<T>;
    }
#pragma unroll
    for (int i = 0; i < kX; ++i) {
      const int q = min(block.position + row(i), a.positions - 1);
      const int line = q / a.axis[2].count;
      at_[i][0] = line / a.axis[1].count * a.axis[0].stride + a.axis[0].shift;
      at_[i][1] = line % a.axis[1].count * a.axis[1].stride + a.axis[1].shift;
      at_[i][2] = q % a.axis[2].count * a.axis[2].stride + a.axis[2].shift;
    }
    in_tap_ = chunk_;
    carry();
  }

  // The next stage of K into `stage`, and on.
  __device__ __forceinline__ void load(unsigned char* stage) {
    const bool inside = chunk_ < a_.chunks;
#pragma unroll
    for (int i = 0; i < kW; ++i) {
      if (kM % kLoadRows != 0 && row(i) >= kM) break;
      ptx::cp_async<16>(stage + conv_chunk(row(i), threadIdx.x % kConvChunks),
                        inside ? w_[i] + chunk_ * kPack<T> : a_.w, inside);
    }
#pragma unroll
    for (int i = 0; i < kX; ++i) {
      int d = at_[i][0] + tap_[0], h = at_[i][1] + tap_[1], v = at_[i][2] + tap_[2];
      if (a_.replicate) {
        d = min(max(d, 0), a_.axis[0].size - 1);
        h = min(max(h, 0), a_.axis[1].size - 1);
        v = min(max(v, 0), a_.axis[2].size - 1);
      }
      const bool valid =
          inside && lies_in(d, a_.axis[0]) && lies_in(h, a_.axis[1]) && lies_in(v, a_.axis[2]);
      const unsigned p = (static_cast<unsigned>(d) * a_.axis[1].size + h) * a_.axis[2].size + v;
      ptx::cp_async<16>(stage + kM * kConvRowBytes + conv_chunk(row(i), threadIdx.x % kConvChunks),
                        valid ? x_ + int64_t{p} * a_.x_row + in_tap_ * kPack<T> : a_.w, valid);
    }
    chunk_ += kConvChunks, in_tap_ += kConvChunks;
    carry();
  }

 private:
  static constexpr int kLoadRows = kConvThreads / kConvChunks;
  static constexpr int kW = (kM + kLoadRows - 1) / kLoadRows, kX = kConvPositions / kLoadRows;
  static __device__ __forceinline__ int row(int i) {
    return static_cast<int>(threadIdx.x) / kConvChunks + i * kLoadRows;
  }
  __device__ __forceinline__ void carry() {
    while (in_tap_ >= a_.chunks_of_tap && chunk_ < a_.chunks) {
      in_tap_ -= a_.chunks_of_tap;
      if (++tap_[2] < a_.axis[2].taps) continue;
      tap_[2] = 0;
      if (++tap_[1] < a_.axis[1].taps) continue;
      tap_[1] = 0, ++tap_[0];
    }
  }

  const ConvOperands<T, Out>& a_;
  const T *x_, *w_[kW];
  int at_[kX][3];       // of x, for tap 0
  int chunk_, in_tap_;  // of K, of the tap
  int tap_[3] = {0, 0, 0};
};

// Where position q of the product lies in a channel of y.
template <class T, class Out>
__device__ __forceinline__ int64_t result_position(const ConvOperands<T, Out>& a, int q) {
  const auto place = [](const ConvAxis& axis, int i) {
    return int64_t{i} * axis.step + axis.first;
  };
  const int line = q / a.axis[2].count;
  const int64_t d = place(a.axis[0], line / a.axis[1].count);
  const int64_t h = place(a.axis[1], line % a.axis[1].count);
  return (d * a.axis[1].extent + h) * a.axis[2].extent + place(a.axis[2], q % a.axis[2].count);
}

// The tile of sums, from shared memory, into y.
template <int kM, class T, class Out>
__device__ __forceinline__ void store_results(const ConvOperands<T, Out>& a, const ConvBlock& block,
                                              const float* tile) {
  constexpr int kN = kPack<Out>, kAcross = kConvPositions / kN;
  for (int i = threadIdx.x; i < kM * kAcross; i += kConvThreads) {
    const int row = i / kAcross, column = i % kAcross * kN;
    const int channel = block.channel + row, q = block.position + column;
    if (channel >= a.out || q >= a.positions) continue;
    const int64_t all = int64_t{a.groups} * a.out, o = int64_t{block.group} * a.out + channel;
    const int64_t plane = (block.image * all + o) * a.extents;
    const float bias = a.bias ? to_f32(a.bias[o]) : 0;
    const float* sums = tile + row * kConvSumRow + column;
    if (a.dense) {
      Pack<T, kN> residual{};
      if (a.residual) residual = load_pack<kN>(a.residual + plane + q);
      Pack<Out, kN> y;
#pragma unroll
      for (int k = 0; k < kN; ++k) {
        y.v[k] =
            from_f32<Out>(load_pack<4>(sums + k / 4 * 4).v[k % 4] + bias + to_f32(residual.v[k]));
      }
      store_pack<kN>(a.y + plane + q, y);
    } else {
      for (int k = 0; k < kN && q + k < a.positions; ++k) {
        const int64_t at = plane + result_position(a, q + k);
        const float y = sums[k] + bias;
        a.y[at] = from_f32<Out>(a.residual ? y + to_f32(a.residual[at]) : y);
      }
    }
  }
}

template <int kM, class T, class Out>
__global__ void __launch_bounds__(kConvThreads, sizeof(T) == 2 ? 2 : 1)
    conv_gemm_kernel(const ConvOperands<T, Out> a) {
  SMEM_DYNAMIC(shared);
  const ConvBlock block = conv_block<kM>(a);
  ConvLoader<kM, T, Out> loader(a, block);
  ConvTile<kM, T> tile;
  const int steps = (a.chunks + kConvChunks - 1) / kConvChunks;
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) loader.load(shared + s * kStageBytes<kM>);
    ptx::cp_async_commit();
  }
  for (int s = 0; s < steps; ++s) {
    ptx::cp_async_wait<kStages - 2>();
    __syncthreads();  // this stage is there, and nobody reads the one before
    const int next = s + kStages - 1;
    if (next < steps) loader.load(shared + next % kStages * kStageBytes<kM>);
    ptx::cp_async_commit();
    tile.multiply(shared + s % kStages * kStageBytes<kM>);
  }
  ptx::cp_async_wait<0>();
  __syncthreads();
  tile.put(reinterpret_cast<float*>(shared));
  __syncthreads();
  store_results<kM>(a, block, reinterpret_cast<const float*>(shared));
}

int64_t product_of(const ConvProduct& p, int ConvAxis::*field) {
  return int64_t{p.axis[0].*field} * p.axis[1].*field * p.axis[2].*field;
}

template <class T, class Out>
ConvOperands<T, Out> operands(const ConvProduct& p, const ChannelRows& x, const Tensor& w,
                              const Tensor& bias, const Tensor& residual, const Tensor& y) {
  ConvOperands<T, Out> a{};
  std::copy(p.axis, p.axis + 3, a.axis);
  a.replicate = p.replicate;
  a.out = p.out, a.groups = p.groups;
  a.chunks_of_tap = static_cast<int>(padded_channels(p.in, w.dtype()) / kPack<T>);
  a.chunks = static_cast<int>(w.dim(2)) * a.chunks_of_tap;
  a.positions = static_cast<int>(product_of(p, &ConvAxis::count));
  a.extents = product_of(p, &ConvAxis::extent);
  a.x = static_cast<const T*>(x.data), a.w = pointer<const T>(w);
  a.x_image = x.image, a.x_row = x.row, a.x_group = x.group;
  a.bias = pointer<const T>(bias), a.residual = pointer<const T>(residual);
  a.y = pointer<Out>(y);
  a.dense = a.positions == a.extents && a.positions % kPack<Out> == 0 && is_aligned(a.y) &&
            is_aligned(a.residual);
  return a;
}

template <int kM, class T, class Out>
void run(ConvOperands<T, Out> a, int64_t batch, Device device) {
  a.out_tiles = static_cast<int>(ceil_div(a.out, kM));
  const int64_t blocks = batch * a.groups * a.out_tiles * a.position_tiles();
  CHECK(blocks < int64_t{1} << 31, "conv3d: ", blocks, " tiles are more than a GPU counts");
  launch({"conv_gemm", static_cast<unsigned>(blocks), kConvThreads, device, kSharedBytes<kM>},
         conv_gemm_kernel<kM, T, Out>, a);
}

}  // namespace

void conv_gemm(const ConvProduct& p, const ChannelRows& x, const Tensor& w, const Tensor& bias,
               const Tensor& residual, const Tensor& y) {
  if (product_of(p, &ConvAxis::count) == 0 || p.out == 0) return;
  visit_dtype_gpu(w.dtype(), "conv3d", [&](auto type) {
    using T = decltype(type);
    visit_dtype_gpu(y.dtype(), "conv3d", [&](auto out) {
      using Out = decltype(out);
      if constexpr (std::is_same_v<Out, T> || std::is_same_v<Out, float>) {
        const auto a = operands<T, Out>(p, x, w, bias, residual, y);
        if (p.out <= 32) return run<32>(a, y.dim(0), y.device());
        return run<128>(a, y.dim(0), y.device());
      }
    });
  });
}

}  // namespace parlo::cuda
