// Rotary embedding (kernels/rope.h) on a GPU. Floor: bytes of x and y; the angles, f32 also for
// bf16, are read once for several heads. A thread rotates the same columns of some heads of one
// position, 16 bytes of x an access.
#include "kernels/rope.h"

#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/rope_checks.h"

namespace parlo::cuda {
namespace {

constexpr int kThreads = 256;

// Packs of N values: pairs has N / 2 angles in one, halves N angles for one in each half.
template <RopeStyle Style>
constexpr int kParts = Style == RopeStyle::pairs ? 1 : 2;
// Heads of a thread: four packs in flight.
template <RopeStyle Style>
constexpr int kHeads = 4 / kParts<Style>;

template <class T>
struct RopeArgs {
  const T* x;
  T* y;
  const float *cos, *sin;  // [T, half]
  int64_t from[3], to[3];  // strides of B, T, H
  int64_t batch;
  int heads, half;
  unsigned packs, chunks, items;  // of half a head or a head, of heads, of a sample
  float sign;
};

// Without kAligned each value moves alone.
template <int N, bool kAligned, class T>
__device__ __forceinline__ Pack<T, N> load_values(const T* p) {
  if constexpr (kAligned) {
    return load_pack<N>(p);
  } else {
    Pack<T, N> x;
#pragma unroll
    for (int i = 0; i < N; ++i) x.v[i] = p[i];
    return x;
  }
}
template <int N, bool kAligned, class T>
__device__ __forceinline__ void store_values(T* p, const Pack<T, N>& x) {
  if constexpr (kAligned) {
    store_pack<N>(p, x);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) p[i] = x.v[i];
  }
}

// (a, b) -> (a cos - b sin, b cos + a sin)
template <class T>
__device__ __forceinline__ void rotate(T& a, T& b, float cos, float sin) {
  const float p = to_f32(a), q = to_f32(b);
  a = from_f32<T>(p * cos - q * sin);
  b = from_f32<T>(q * cos + p * sin);
}

template <RopeStyle Style, class T, int N>
__device__ __forceinline__ void rotate(Pack<T, N> (&v)[kParts<Style>], const float* cos,
                                       const float* sin) {
  if constexpr (Style == RopeStyle::pairs) {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) rotate(v[0].v[2 * i], v[0].v[2 * i + 1], cos[i], sin[i]);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) rotate(v[0].v[i], v[1].v[i], cos[i], sin[i]);
  }
}

// Heads of one thread; all loads go before the stores, also because x and y may be the same.
template <RopeStyle Style, int N, bool kAligned, class T>
__device__ __forceinline__ void rotate_heads(const RopeArgs<T>& a, const T* x, T* y, int heads,
                                             const float* cos, const float* sin) {
  Pack<T, N> v[kHeads<Style>][kParts<Style>];
#pragma unroll
  for (int h = 0; h < kHeads<Style>; ++h) {
#pragma unroll
    for (int part = 0; part < kParts<Style>; ++part)
      if (h < heads) v[h][part] = load_values<N, kAligned>(x + h * a.from[2] + part * a.half);
  }
#pragma unroll
  for (int h = 0; h < kHeads<Style>; ++h) {
    if (h >= heads) continue;
    rotate<Style>(v[h], cos, sin);
#pragma unroll
    for (int part = 0; part < kParts<Style>; ++part)
      store_values<N, kAligned>(y + h * a.to[2] + part * a.half, v[h][part]);
  }
}

template <RopeStyle Style, class T, int N, bool kAligned>
__global__ void __launch_bounds__(kThreads) rope_kernel(RopeArgs<T> a) {
  const unsigned item = blockIdx.x * kThreads + threadIdx.x;
  if (item >= a.items) return;
  const unsigned pack = item % a.packs, rest = item / a.packs;
  const int head = static_cast<int>(rest % a.chunks) * kHeads<Style>;
  const int64_t t = rest / a.chunks;
  constexpr int kAngles = Style == RopeStyle::pairs ? N / 2 : N;
  float cos[kAngles], sin[kAngles];
  const int64_t angle = t * a.half + pack * kAngles;
  load_floats(a.cos + angle, cos);
  load_floats(a.sin + angle, sin);
#pragma unroll
  for (int i = 0; i < kAngles; ++i) sin[i] *= a.sign;
  for (int64_t b = blockIdx.y; b < a.batch; b += gridDim.y) {
    const T* x = a.x + b * a.from[0] + t * a.from[1] + head * a.from[2] + pack * N;
    T* y = a.y + b * a.to[0] + t * a.to[1] + head * a.to[2] + pack * N;
    rotate_heads<Style, N, kAligned>(a, x, y, a.heads - head, cos, sin);
  }
}

template <RopeStyle Style, class T, int N, bool kAligned>
void run(RopeArgs<T> args, int64_t positions, Device device) {
  args.packs = static_cast<unsigned>(args.half * (2 / kParts<Style>) / N);
  args.chunks = static_cast<unsigned>(ceil_div(args.heads, kHeads<Style>));
  const int64_t items = positions * args.chunks * args.packs;
  CHECK(items < int64_t{1} << 31, "rope: ", positions, " positions of ", args.heads, " heads of ",
        2 * args.half, " are more than one launch takes");
  args.items = static_cast<unsigned>(items);
  const auto samples = static_cast<unsigned>(std::min<int64_t>(args.batch, 65535));
  launch({"rope", dim3(blocks_for(items, kThreads, int64_t{1} << 31), samples), kThreads, device},
         rope_kernel<Style, T, N, kAligned>, args);
}

template <RopeStyle Style, class T>
void run(const RopeArgs<T>& args, int64_t positions, bool aligned, Device device) {
  constexpr int N = kPack<T>;
  if (aligned && args.half * (2 / kParts<Style>) % N == 0)
    return run<Style, T, N, true>(args, positions, device);
  run<Style, T, 2 / kParts<Style>, false>(args, positions, device);
}

}  // namespace

void rope(const Tensor& x, const Tensor& cos, const Tensor& sin, RopeStyle style, bool inverse,
          const Tensor& y) {
  check_rope(x, cos, sin, y, x.dtype() == DType::bf16 ? DType::f32 : x.dtype());
  check_same_device("rope", x, cos, sin, y);
  if (x.numel() == 0) return;
  visit_dtype_gpu(x.dtype(), "rope", [&](auto type) {
    using T = decltype(type);
    const Shape &from = x.strides(), &to = y.strides();
    RopeArgs<T> args{};
    args.x = pointer<const T>(x), args.y = pointer<T>(y);
    args.cos = pointer<const float>(cos), args.sin = pointer<const float>(sin);
    for (int i = 0; i < 3; ++i) args.from[i] = from[i], args.to[i] = to[i];
    args.batch = x.dim(0);
    args.heads = static_cast<int>(x.dim(2)), args.half = static_cast<int>(x.dim(3) / 2);
    args.sign = inverse ? -1.0f : 1.0f;
    const bool aligned =
        heads_aligned(x) && heads_aligned(y) && is_aligned(cos.raw()) && is_aligned(sin.raw());
    if (style == RopeStyle::pairs) {
      run<RopeStyle::pairs>(args, x.dim(1), aligned, x.device());
    } else {
      run<RopeStyle::halves>(args, x.dim(1), aligned, x.device());
    }
  });
}

}  // namespace parlo::cuda
