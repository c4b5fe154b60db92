// Layer and RMS norm (kernels/norm.h) on a GPU: a row is read once, kept in registers for its mean,
// its variance about that mean and the result, and written once. Floor: bytes of x and y.
// A warp, or a part of one, has a row of up to 6 KB: no barriers, all of it in flight at once. A
// longer one takes a block: more registers a thread leave too few warps. Parameters come from the
// L1, where the next row of the group finds them again.
#include "kernels/cuda/norm.cuh"
#include "kernels/norm_checks.h"

namespace parlo::cuda {
namespace {

template <class T>
struct NormArgs {
  const T* x;
  T* y;
  float *mean, *rstd;  // no mean: RMS norm
  Parameter<T> weight, bias, scale, shift;
  RowBlocks blocks{1, 1, 1};
  int columns;
  float share, eps;  // 1 / columns
};

// Rows a team has at a time: short ones need several for enough bytes in flight.
template <class S>
constexpr int kRows = !S::kWhole ? 1 : (S::kPacks == 1 ? 4 : (S::kPacks == 2 ? 2 : 1));

template <int N, class T>
__device__ __forceinline__ void modulate(const NormArgs<T>& a, int64_t group, int column,
                                         float (&v)[N]) {
  float p[N];
  const auto each = [&](const Parameter<T>& parameter, auto&& f) {
    if (!parameter.data) return;
    parameter.load(group, column, p);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = f(v[j], p[j]);
  };
  each(a.weight, [](float x, float w) { return x * w; });
  each(a.bias, [](float x, float b) { return x + b; });
  each(a.scale, [](float x, float s) { return fmaf(x, s, x); });
  each(a.shift, [](float x, float s) { return x + s; });
}

// A team without a row has 0 columns.
template <class S, class T = typename S::Type>
__device__ __forceinline__ void normalise(const NormArgs<T>& a, typename S::Row& x, int64_t group,
                                          int64_t row, int columns) {
  const auto load = [&](int start) { load_span<S>(x, a.x + row * a.columns, start, columns); };
  float mean = 0;
  if (a.mean) {
    float sum = 0;
    for_row<S>(columns, load, [&](int k, int) {
      float part = 0;
#pragma unroll
      for (int j = 0; j < S::kN; ++j) part += x[k].at(j);
      sum += part;
    });
    mean = team_sum<S>(sum) * a.share;
  }
  float squares = 0;
  for_row<S>(columns, load, [&](int k, int) {
    float part = 0;
#pragma unroll
    for (int j = 0; j < S::kN; ++j) {
      const float d = x[k].at(j) - mean;
      part = fmaf(d, d, part);
    }
    squares += part;
  });
  const float rstd = 1.0f / sqrtf(team_sum<S>(squares) * a.share + a.eps);
  if (columns > 0 && threadIdx.x % S::kTeam == 0) {
    if (a.mean) a.mean[row] = mean;
    a.rstd[row] = rstd;
  }
  for_row<S>(columns, load, [&](int k, int column) {
    float v[S::kN];
#pragma unroll
    for (int j = 0; j < S::kN; ++j) v[j] = (x[k].at(j) - mean) * rstd;
    modulate(a, group, column, v);
    Pack<T, S::kN> y;
#pragma unroll
    for (int j = 0; j < S::kN; ++j) y.v[j] = from_f32<T>(v[j]);
    store_pack<S::kN>(a.y + row * a.columns + column, y);
  });
}

template <class S>
__global__ void __launch_bounds__(S::kThreads) norm_kernel(NormArgs<typename S::Type> a) {
  const auto [group, first, last] = a.blocks.at(blockIdx.x);
  typename S::Row x[kRows<S>];
  const int64_t mine = first + threadIdx.x / S::kTeam;
  const auto columns_of_row = [&](int i) { return mine + i * S::kTeams < last ? a.columns : 0; };
#pragma unroll
  for (int i = 0; i < kRows<S> && S::kWhole; ++i)
    load_span<S>(x[i], a.x + (mine + i * S::kTeams) * a.columns, 0, columns_of_row(i));
#pragma unroll
  for (int i = 0; i < kRows<S>; ++i)
    normalise<S>(a, x[i], group, mine + i * S::kTeams, columns_of_row(i));
}

template <class T, class Fn>
void visit_forward_shape(int64_t columns, bool packed, Fn&& fn) {
  constexpr int N = kPack<T>;
  visit_row_shape<RowShape<T, N, 8, 1>, RowShape<T, N, 16, 1>, RowShape<T, N, 32, 1>,
                  RowShape<T, N, 32, 2>, RowShape<T, N, 32, 4>, RowShape<T, N, 32, 8>,
                  RowShape<T, N, 32, 12>, RowShape<T, N, 128, 4>, RowShape<T, N, 256, 4>,
                  RowShape<T, N, 512, 4>, RowShape<T, 1, 256, 8, false>>(columns, packed,
                                                                         std::forward<Fn>(fn));
}

void run(const char* name, const NormShape& shape, const Tensor& x, const NormParams& p,
         const Tensor& y, const Tensor& mean, const Tensor& rstd) {
  visit_dtype_gpu(x.dtype(), name, [&](auto type) {
    using T = decltype(type);
    NormArgs<T> args;
    args.x = pointer<const T>(x), args.y = pointer<T>(y);
    args.mean = pointer<float>(mean), args.rstd = pointer<float>(rstd);
    args.weight = Parameter<T>(p.weight), args.bias = Parameter<T>(p.bias);
    args.scale = Parameter<T>(p.scale), args.shift = Parameter<T>(p.shift);
    args.columns = static_cast<int>(shape.columns);
    args.share = 1.0f / static_cast<float>(shape.columns);
    args.eps = static_cast<float>(p.eps);
    const bool packed = shape.columns % kPack<T> == 0 && is_aligned(args.x) && is_aligned(args.y) &&
                        args.weight.packed() && args.bias.packed() && args.scale.packed() &&
                        args.shift.packed();
    visit_forward_shape<T>(shape.columns, packed, [&](auto s) {
      using S = decltype(s);
      args.blocks = RowBlocks(shape.groups, shape.rows_per_group(), S::kTeams * kRows<S>);
      launch({name, static_cast<unsigned>(args.blocks.count), S::kThreads, x.device()},
             norm_kernel<S>, args);
    });
  });
}

}  // namespace

void layer_norm(const Tensor& x, const NormParams& p, const Tensor& y, const Tensor& mean,
                const Tensor& rstd) {
  const char* name = "layer_norm";
  const NormShape shape = check_norm(name, x, p);
  check_output(name, "y", y, x.dtype(), x.numel());
  check_same_device(name, x, p.weight, p.bias, p.scale, p.shift, y, mean, rstd);
  if (x.numel() == 0) return;
  check_output(name, "mean", mean, statistics_dtype(x), shape.rows);
  check_output(name, "rstd", rstd, statistics_dtype(x), shape.rows);
  run(name, shape, x, p, y, mean, rstd);
}

void rms_norm(const Tensor& x, const NormParams& p, const Tensor& y, const Tensor& rstd) {
  const char* name = "rms_norm";
  const NormParams used{p.weight, {}, {}, {}, p.eps};
  const NormShape shape = check_norm(name, x, used);
  check_output(name, "y", y, x.dtype(), x.numel());
  check_same_device(name, x, p.weight, y, rstd);
  if (x.numel() == 0) return;
  check_output(name, "rstd", rstd, statistics_dtype(x), shape.rows);
  run(name, shape, x, used, y, {}, rstd);
}

}  // namespace parlo::cuda
