// Gradients of group norm on a GPU. Sums of dy and dy xhat of each channel, then, as for layer
// norm,
//   dx = rstd (g - mean(g) - xhat mean(g xhat)),  g = dy weight,
// where dy has gone through silu first if the forward did, with the group's means joined from those
// sums; combine() adds them over the batch for dweight and dbias. Floor: bytes of x, dy and dx.
#include "kernels/cuda/norm_group.cuh"

namespace parlo::cuda {
namespace {

// dy of the norm itself: through the slope of silu at what the norm gave.
template <class T>
__device__ __forceinline__ float norm_gradient(const GroupArgs<T>& a, float dy, float xhat,
                                               float weight, float bias) {
  return a.silu ? dy * activation_slope<Activation::silu>(fmaf(xhat, weight, bias)) : dy;
}

template <class T>
__device__ __forceinline__ float weight_of(const GroupArgs<T>& a, int64_t channel) {
  return a.weight.data ? a.weight.at(0, channel) : 1;
}
template <class T>
__device__ __forceinline__ float bias_of(const GroupArgs<T>& a, int64_t channel) {
  return a.silu && a.bias.data ? a.bias.at(0, channel) : 0;
}

// first = sum dy, second = sum dy xhat of each span of a channel: rows of C for each span of a
// sample, as combine() adds them.
template <class S>
__global__ void __launch_bounds__(S::kThreads) channel_sums_kernel(GroupArgs<typename S::Type> a) {
  const GroupSpan<S> span(a.from * a.group_channels, a.until * a.group_channels, a.channel_spans,
                          a.positions);
  const int64_t offset = span.row * a.positions + span.start;
  typename S::Row x, dy;
  load_span<S>(x, a.x + offset, 0, span.columns);
  load_span<S>(dy, a.dy + offset, 0, span.columns);
  const int64_t group = span.columns > 0 ? span.row / a.group_channels : a.from;
  const float mean = a.mean[group], rstd = a.rstd[group];
  const int64_t channel = span.columns > 0 ? span.row % a.channels : 0;
  const float weight = weight_of(a, channel), bias = bias_of(a, channel);
  float sum = 0, xhat_sum = 0;
  for_packs<S>(0, span.columns, [&](int k, int) {
#pragma unroll
    for (int j = 0; j < S::kN; ++j) {
      const float xhat = (x[k].at(j) - mean) * rstd;
      const float g = norm_gradient(a, dy[k].at(j), xhat, weight, bias);
      sum += g;
      xhat_sum = fmaf(g, xhat, xhat_sum);
    }
  });
  team_sums<S>(sum, xhat_sum);
  if (threadIdx.x % S::kTeam > 0 || span.columns == 0) return;
  const int64_t sample = span.row / a.channels;
  const int64_t at = (sample * a.channel_spans + span.index) * a.channels + channel;
  a.first[at] = sum;
  a.second[at] = xhat_sum;
}

template <class S>
__global__ void __launch_bounds__(S::kThreads) group_dx_kernel(GroupArgs<typename S::Type> a) {
  using T = typename S::Type;
  const GroupSpan<S> span(a.from, a.until, a.spans, a.size);
  const int64_t offset = span.row * a.size + span.start;
  typename S::Row x, dy;
  load_span<S>(x, a.x + offset, 0, span.columns);
  load_span<S>(dy, a.dy + offset, 0, span.columns);
  const int64_t sample = span.row / a.groups, channel = span.row % a.groups * a.group_channels;
  float g_sum = 0, g_xhat_sum = 0;
  for (unsigned i = threadIdx.x; i < a.group_channels * a.channel_spans; i += S::kThreads) {
    const int64_t c = channel + i % a.group_channels, part = i / a.group_channels;
    const int64_t at = (sample * a.channel_spans + part) * a.channels + c;
    const float weight = weight_of(a, c);
    g_sum = fmaf(weight, a.first[at], g_sum);
    g_xhat_sum = fmaf(weight, a.second[at], g_xhat_sum);
  }
  team_sums<S>(g_sum, g_xhat_sum);
  const float size = static_cast<float>(a.size), g_mean = g_sum / size;
  const float g_xhat_mean = g_xhat_sum / size;
  const float mean = a.mean[span.row], rstd = a.rstd[span.row];
  for_packs<S>(0, span.columns, [&](int k, int column) {
    const int64_t c = channel + (span.start + column) / a.positions;
    const float weight = weight_of(a, c), bias = bias_of(a, c);
    Pack<T, S::kN> dx;
#pragma unroll
    for (int j = 0; j < S::kN; ++j) {
      const float xhat = (x[k].at(j) - mean) * rstd;
      const float g = norm_gradient(a, dy[k].at(j), xhat, weight, bias);
      dx.v[j] = from_f32<T>(rstd * (g * weight - g_mean - xhat * g_xhat_mean));
    }
    store_pack<S::kN>(a.y + offset + column, dx);
  });
}

template <class T, int N>
void run_backward(const char* name, GroupArgs<T> args, const GroupShape& s, const NormGrads& grads,
                  Device device) {
  using Wide = RowShape<T, N, kGroupTeam, 4>;
  visit_row_shape<RowShape<T, N, kWarp, 4>, Wide>(args.positions, true, [&](auto shape) {
    using S = decltype(shape);
    args.channel_spans = static_cast<unsigned>(ceil_div(args.positions, S::kSpan));
    args.spans = static_cast<unsigned>(ceil_div(args.size, Wide::kSpan));
    const int64_t rows = s.batch * args.channel_spans;
    const Tensor parts = Tensor::empty({2, rows, s.channels}, DType::f32, device);
    args.first = pointer<float>(parts), args.second = args.first + parts.numel() / 2;
    for_portions(args, s, device, [&](const GroupArgs<T>& a) {
      const int64_t items = int64_t{a.group_channels} * a.channel_spans;
      launch(grid_of<S>(name, a, items, device), channel_sums_kernel<S>, a);
      if (a.y) launch(grid_of<Wide>(name, a, a.spans, device), group_dx_kernel<Wide>, a);
    });
    if (!grads.dweight && !grads.dbias) return;
    ColumnSums sums;
    sums.P = args.second, sums.Q = args.first;
    sums.per_group = rows, sums.columns = static_cast<int>(s.channels);
    sums.dweight = ParameterGrad(grads.dweight), sums.dbias = ParameterGrad(grads.dbias);
    combine(name, sums, device);
  });
}

}  // namespace

void group_norm_backward(const Tensor& x, int64_t groups, const NormParams& p, const Tensor& mean,
                         const Tensor& rstd, const Tensor& dy, const NormGrads& grads) {
  const char* name = "group_norm_backward";
  const GroupShape s = check_group_norm_backward(name, x, groups, p, mean, rstd, dy, grads);
  check_same_device(name, x, p.weight, p.bias, mean, rstd, dy, grads.dx, grads.dweight,
                    grads.dbias);
  if (zero_if_empty(x, grads) || (!grads.dx && !grads.dweight && !grads.dbias)) return;
  visit_dtype_gpu(x.dtype(), name, [&](auto type) {
    using T = decltype(type);
    GroupArgs<T> args = group_args<T>(name, s, x, p, mean, rstd);
    args.dy = pointer<const T>(dy), args.y = pointer<T>(grads.dx);
    if (is_packed(args)) {
      run_backward<T, kPack<T>>(name, args, s, grads, x.device());
    } else {
      run_backward<T, 1>(name, args, s, grads, x.device());
    }
  });
}

}  // namespace parlo::cuda
