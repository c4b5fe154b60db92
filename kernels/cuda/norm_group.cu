// Group norm (kernels/norm.h) over x [B, C, S] on a GPU: one kernel takes the mean and the squared
// deviations of each span of a group, a second one joins them and writes y, through silu where
// asked. Floor: bytes of x and
// y.
#include "kernels/cuda/channel_rows.cuh"
#include "kernels/cuda/norm_group.cuh"

namespace parlo::cuda {
namespace {

template <class S>
__global__ void __launch_bounds__(S::kThreads) group_spans_kernel(GroupArgs<typename S::Type> a) {
  const GroupSpan<S> span(a.from, a.until, a.spans, a.size);
  typename S::Row x;
  load_span<S>(x, a.x + span.row * a.size + span.start, 0, span.columns);
  float sum = 0, squares = 0;
  for_packs<S>(0, span.columns, [&](int k, int) {
#pragma unroll
    for (int j = 0; j < S::kN; ++j) sum += x[k].at(j);
  });
  const float mean = team_sum<S>(sum) / static_cast<float>(span.columns);
  for_packs<S>(0, span.columns, [&](int k, int) {
#pragma unroll
    for (int j = 0; j < S::kN; ++j) squares = fmaf(x[k].at(j) - mean, x[k].at(j) - mean, squares);
  });
  squares = team_sum<S>(squares);
  if (threadIdx.x > 0) return;
  a.first[span.row * a.spans + span.index] = mean;
  a.second[span.row * a.spans + span.index] = squares;
}

// Mean and 1 / deviation of a group, from its spans: every block joins them for itself.
template <class S, class T>
__device__ __forceinline__ void join_spans(const GroupArgs<T>& a, int64_t group, float& mean,
                                           float& rstd) {
  const float *means = a.first + group * a.spans, *squares = a.second + group * a.spans;
  const float size = static_cast<float>(a.size);
  float sum = 0;
  for (unsigned i = threadIdx.x; i < a.spans; i += S::kThreads)
    sum = fmaf(static_cast<float>(GroupSpan<S>::length(i, a.size)), means[i], sum);
  mean = team_sum<S>(sum) / size;
  sum = 0;
  for (unsigned i = threadIdx.x; i < a.spans; i += S::kThreads) {
    const float d = means[i] - mean;
    sum += fmaf(static_cast<float>(GroupSpan<S>::length(i, a.size)) * d, d, squares[i]);
  }
  rstd = 1.0f / sqrtf(team_sum<S>(sum) / size + a.eps);
}

template <class S>
__global__ void __launch_bounds__(S::kThreads) group_norm_kernel(GroupArgs<typename S::Type> a) {
  using T = typename S::Type;
  const GroupSpan<S> span(a.from, a.until, a.spans, a.size);
  const int64_t offset = span.row * a.size + span.start;
  typename S::Row x;
  load_span<S>(x, a.x + offset, 0, span.columns);
  float mean, rstd;
  join_spans<S>(a, span.row, mean, rstd);
  if (span.index == 0 && threadIdx.x == 0) a.mean[span.row] = mean, a.rstd[span.row] = rstd;
  const int64_t channel = span.row % a.groups * a.group_channels;
  for_packs<S>(0, span.columns, [&](int k, int column) {
    const int64_t c = channel + (span.start + column) / a.positions;  // of the whole pack
    const float gain = a.weight.data ? rstd * a.weight.at(0, c) : rstd;
    const float bias = a.bias.data ? a.bias.at(0, c) : 0;
    Pack<T, S::kN> y;
#pragma unroll
    for (int j = 0; j < S::kN; ++j) {
      const float z = fmaf(x[k].at(j) - mean, gain, bias);
      y.v[j] = from_f32<T>(a.silu ? activate<Activation::silu>(z) : z);
    }
    store_pack<S::kN>(a.y + offset + column, y);
  });
}

// --- y as rows of channels ---

template <class S>
__global__ void __launch_bounds__(S::kThreads) group_join_kernel(GroupArgs<typename S::Type> a) {
  const int64_t group = a.from + blockIdx.x;
  float mean, rstd;
  join_spans<S>(a, group, mean, rstd);
  if (threadIdx.x == 0) a.mean[group] = mean, a.rstd[group] = rstd;
}

template <int N, class T>
__global__ void __launch_bounds__(kRowsThreads) group_rows_kernel(GroupArgs<T> a) {
  const int64_t sample = a.from / a.groups;
  const int64_t offset = sample * a.channels * a.positions;
  const int channels = static_cast<int>(a.channels);
  write_channel_rows<N>(
      ChannelTile<T>{a.x + offset, a.y + offset, a.positions, a.channels, channels, channels,
                     int64_t{blockIdx.x} * kRowsTile, static_cast<int>(blockIdx.y) * kRowsTile},
      [&](int channel) {
        const int64_t group = sample * a.groups + channel / a.group_channels;
        const float mean = a.mean[group], rstd = a.rstd[group];
        const float gain = a.weight.data ? rstd * a.weight.at(0, channel) : rstd;
        const float bias = a.bias.data ? a.bias.at(0, channel) : 0;
        const bool silu = a.silu;
        return [=](float x) {
          const float z = fmaf(x - mean, gain, bias);
          return silu ? activate<Activation::silu>(z) : z;
        };
      });
}

// Sample after sample, so that the second reading finds what fits the L2 there.
template <class S>
void run_rows(GroupArgs<typename S::Type> a, const GroupShape& s, Device device) {
  using T = typename S::Type;
  const dim3 grid(static_cast<unsigned>(ceil_div(s.positions, kRowsTile)),
                  static_cast<unsigned>(ceil_div(s.channels, kRowsTile)));
  const bool packed = s.positions % kPack<T> == 0 && is_aligned(a.x);
  for (int64_t b = 0; b < s.batch; ++b) {
    a.from = b * s.groups, a.until = a.from + s.groups;
    launch(grid_of<S>("group_norm", a, a.spans, device), group_spans_kernel<S>, a);
    launch({"group_norm", static_cast<unsigned>(s.groups), S::kThreads, device},
           group_join_kernel<S>, a);
    launch({"group_norm", grid, kRowsThreads, device},
           packed ? group_rows_kernel<kPack<T>, T> : group_rows_kernel<1, T>, a);
  }
}

// Is y [B, C, S] rows of channels?
bool is_rows(const Tensor& y, const GroupShape& s) {
  return !y.is_contiguous() && y.rank() == 3 && y.transpose(1, 2).is_contiguous() &&
         s.channels % 8 == 0 && is_aligned(y.raw());
}

}  // namespace

void group_norm(const Tensor& x, int64_t groups, const NormParams& p, const Tensor& y,
                const Tensor& mean, const Tensor& rstd) {
  const char* name = "group_norm";
  const GroupShape s = check_group_norm(name, x, groups, p);
  const bool rows = is_rows(y, s);
  check_output(name, "y", rows ? y.transpose(1, 2) : y, x.dtype(), x.numel());
  check_output(name, "mean", mean, statistics_dtype(x), s.batch * groups);
  check_output(name, "rstd", rstd, statistics_dtype(x), s.batch * groups);
  check_same_device(name, x, p.weight, p.bias, y, mean, rstd);
  if (x.numel() == 0) return;
  visit_dtype_gpu(x.dtype(), name, [&](auto type) {
    using T = decltype(type);
    GroupArgs<T> args = group_args<T>(name, s, x, p, mean, rstd);
    args.y = pointer<T>(y);
    visit_row_shape<RowShape<T, kPack<T>, kGroupTeam, 8>, RowShape<T, 1, kGroupTeam, 8>>(
        0, is_packed(args), [&](auto shape) {
          using S = decltype(shape);
          args.spans = static_cast<unsigned>(ceil_div(args.size, S::kSpan));
          const int64_t spans = args.spans;
          const Tensor parts = Tensor::empty({2, s.batch * groups, spans}, DType::f32, x.device());
          args.first = pointer<float>(parts), args.second = args.first + parts.numel() / 2;
          if (rows) return run_rows<S>(args, s, x.device());
          for_portions(args, s, x.device(), [&](const GroupArgs<T>& a) {
            launch(grid_of<S>(name, a, spans, x.device()), group_spans_kernel<S>, a);
            launch(grid_of<S>(name, a, spans, x.device()), group_norm_kernel<S>, a);
          });
        });
  });
}

}  // namespace parlo::cuda
