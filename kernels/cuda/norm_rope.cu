// Heads' RMS norm with rotary embedding (kernels/norm_rope.h) on a GPU. Floor: x and y once; the
// angles and the weight are read once for kHeads heads of a position, which one warp has in flight.
// A lane holds whole pairs, so that only the sum over a head crosses lanes.
#include "kernels/norm_rope.h"

#include "kernels/cuda/norm.cuh"
#include "kernels/norm_rope_checks.h"

namespace parlo::cuda {
namespace {

constexpr int kWarps = 8, kHeads = 4;

template <class T>
struct NormRopeArgs {
  const T *x, *dy;                             // dy null forward
  T* out;                                      // y or dx
  int64_t x_step[3], dy_step[3], out_step[3];  // of B, T, H
  Parameter<T> weight;
  const float *cos, *sin;   // null: no rotation
  int64_t steps, count;     // positions of a sample; groups of kHeads heads in all
  int heads, groups, half;  // groups of kHeads heads of a position
  float eps;
};

// Pairs lane, lane + 32, ...: P a lane, with their places in a head.
template <RopeStyle Style, int P>
struct Pairs {
  int first[P], second[P];
  bool in[P];

  __device__ Pairs(int lane, int half) {
#pragma unroll
    for (int j = 0; j < P; ++j) {
      const int i = lane + j * kWarp;
      in[j] = i < half;
      first[j] = Style == RopeStyle::pairs ? 2 * i : i;
      second[j] = Style == RopeStyle::pairs ? 2 * i + 1 : i + half;
    }
  }
  template <class T>
  __device__ void load(const T* row, float (&a)[P], float (&b)[P]) const {
#pragma unroll
    for (int j = 0; j < P; ++j) {
      a[j] = in[j] ? to_f32(row[first[j]]) : 0.0f;
      b[j] = in[j] ? to_f32(row[second[j]]) : 0.0f;
    }
  }
  template <class T>
  __device__ void store(T* row, const float (&a)[P], const float (&b)[P]) const {
#pragma unroll
    for (int j = 0; j < P; ++j) {
      if (!in[j]) continue;
      row[first[j]] = from_f32<T>(a[j]);
      row[second[j]] = from_f32<T>(b[j]);
    }
  }
};

template <int P>
__device__ __forceinline__ float sum_products(const float (&a)[P], const float (&b)[P],
                                              const float (&c)[P], const float (&d)[P]) {
  float sum = 0;
#pragma unroll
  for (int j = 0; j < P; ++j) sum += a[j] * c[j] + b[j] * d[j];
  return over_warp(sum, [](float x, float y) { return x + y; });
}

template <int P>
__device__ __forceinline__ void rotate(float (&a)[P], float (&b)[P], const float (&cos)[P],
                                       const float (&sin)[P], float sign) {
#pragma unroll
  for (int j = 0; j < P; ++j) {
    const float p = a[j], q = b[j], s = sign * sin[j];
    a[j] = p * cos[j] - q * s;
    b[j] = q * cos[j] + p * s;
  }
}

template <RopeStyle Style, int P, bool kBackward, class T>
__global__ void __launch_bounds__(kWarps* kWarp) norm_rope_kernel(NormRopeArgs<T> g) {
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (item >= g.count) return;
  const int64_t position = item / g.groups, b = position / g.steps, t = position % g.steps;
  const int h = static_cast<int>(item % g.groups) * kHeads;
  const int heads = g.heads - h < kHeads ? g.heads - h : kHeads;
  const Pairs<Style, P> pairs(lane, g.half);
  float cos[P], sin[P], w1[P], w2[P];
#pragma unroll
  for (int j = 0; j < P; ++j) {
    const bool turned = g.cos != nullptr && pairs.in[j], weighed = g.weight.data && pairs.in[j];
    const int64_t angle = t * g.half + lane + j * kWarp;
    cos[j] = turned ? g.cos[angle] : 1.0f, sin[j] = turned ? g.sin[angle] : 0.0f;
    w1[j] = weighed ? g.weight.at(0, pairs.first[j]) : 1.0f;
    w2[j] = weighed ? g.weight.at(0, pairs.second[j]) : 1.0f;
  }
  const auto row = [b, t, h](auto* p, const int64_t(&step)[3]) {
    return p + b * step[0] + t * step[1] + h * step[2];
  };
  const T* const x = row(g.x, g.x_step);
  T* const out = row(g.out, g.out_step);
  float a1[kHeads][P], a2[kHeads][P], d1[kHeads][P], d2[kHeads][P];
#pragma unroll
  for (int k = 0; k < kHeads; ++k) {
    const int at = k < heads ? k : 0;  // all lanes take part in the sums
    pairs.load(x + at * g.x_step[2], a1[k], a2[k]);
    if constexpr (kBackward) pairs.load(row(g.dy, g.dy_step) + at * g.dy_step[2], d1[k], d2[k]);
  }
  const float scale = 0.5f / static_cast<float>(g.half);
#pragma unroll
  for (int k = 0; k < kHeads; ++k) {
    const float rstd = rsqrtf(sum_products(a1[k], a2[k], a1[k], a2[k]) * scale + g.eps);
    if constexpr (kBackward) {
      rotate(d1[k], d2[k], cos, sin, -1);
#pragma unroll
      for (int j = 0; j < P; ++j) d1[k][j] *= w1[j], d2[k][j] *= w2[j];
      const float dot = sum_products(a1[k], a2[k], d1[k], d2[k]) * scale * rstd * rstd;
#pragma unroll
      for (int j = 0; j < P; ++j) {
        a1[k][j] = rstd * (d1[k][j] - a1[k][j] * dot);
        a2[k][j] = rstd * (d2[k][j] - a2[k][j] * dot);
      }
    } else {
#pragma unroll
      for (int j = 0; j < P; ++j) a1[k][j] *= rstd * w1[j], a2[k][j] *= rstd * w2[j];
      rotate(a1[k], a2[k], cos, sin, 1);
    }
    if (k < heads) pairs.store(out + k * g.out_step[2], a1[k], a2[k]);
  }
}

void set_steps(int64_t (&to)[3], const Tensor& t) {
  for (int i = 0; i < 3; ++i) to[i] = t.strides()[i];
}

template <class T, bool kBackward>
void run(const char* name, const Tensor& x, const NormRope& p, const Tensor& dy,
         const Tensor& out) {
  NormRopeArgs<T> g{};
  g.x = pointer<const T>(x), g.out = pointer<T>(out);
  set_steps(g.x_step, x), set_steps(g.out_step, out);
  if (kBackward) g.dy = pointer<const T>(dy), set_steps(g.dy_step, dy);
  g.weight = Parameter<T>(p.weight);
  g.cos = p.cos ? pointer<const float>(p.cos) : nullptr;
  g.sin = p.sin ? pointer<const float>(p.sin) : nullptr;
  g.steps = x.dim(1), g.heads = static_cast<int>(x.dim(2)), g.half = static_cast<int>(x.dim(3) / 2);
  g.groups = static_cast<int>(ceil_div(g.heads, kHeads));
  g.count = x.dim(0) * g.steps * g.groups, g.eps = static_cast<float>(p.eps);
  const auto with = [&]<RopeStyle Style, int P>(std::integral_constant<RopeStyle, Style>,
                                                std::integral_constant<int, P>) {
    launch({name, static_cast<unsigned>(ceil_div(g.count, kWarps)), kWarps * kWarp, x.device()},
           norm_rope_kernel<Style, P, kBackward, T>, g);
  };
  const auto sized = [&](auto style) {
    if (g.half <= kWarp) return with(style, std::integral_constant<int, 1>{});
    if (g.half <= 2 * kWarp) return with(style, std::integral_constant<int, 2>{});
    with(style, std::integral_constant<int, 4>{});
  };
  if (p.style == RopeStyle::pairs) {
    sized(std::integral_constant<RopeStyle, RopeStyle::pairs>{});
  } else {
    sized(std::integral_constant<RopeStyle, RopeStyle::halves>{});
  }
}

DType weight_dtype(const Tensor& x, const NormRope& p) {
  return p.weight && p.weight.dtype() == DType::f32 ? DType::f32 : x.dtype();
}

}  // namespace

void norm_rope(const Tensor& x, const NormRope& p, const Tensor& y) {
  check_norm_rope("norm_rope", x, p, weight_dtype(x, p), DType::f32);
  check_head_rows("norm_rope", "y", y, x);
  check_same_device("norm_rope", x, y, p.weight, p.cos, p.sin);
  visit_dtype_gpu(x.dtype(), "norm_rope", [&](auto type) {
    if (x.numel() > 0) run<decltype(type), false>("norm_rope", x, p, {}, y);
  });
}

void norm_rope_backward(const Tensor& x, const NormRope& p, const Tensor& dy, const Tensor& dx) {
  const char* name = "norm_rope_backward";
  check_norm_rope(name, x, p, weight_dtype(x, p), DType::f32);
  check_head_rows(name, "dy", dy, x);
  check_head_rows(name, "dx", dx, x);
  check_same_device(name, x, dy, dx, p.weight, p.cos, p.sin);
  visit_dtype_gpu(x.dtype(), name, [&](auto type) {
    if (x.numel() > 0) run<decltype(type), true>(name, x, p, dy, dx);
  });
}

}  // namespace parlo::cuda
