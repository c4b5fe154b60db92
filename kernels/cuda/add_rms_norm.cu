// RMS norm of a sum that is kept (kernels/add_rms_norm.h) on a GPU. Floor: bytes of x, residual,
// sum and y; backward: of sum, dy, dsum and dx. Rows stay in registers as in norm.cu. A weight's
// gradient, which frozen norms do not want, is rms_norm_backward's.
#include "kernels/add_rms_norm_checks.h"
#include "kernels/cuda/norm.cuh"

namespace parlo::cuda {
namespace {

template <class T>
struct AddNormArgs {
  const T *x, *residual;  // backward: dy, and dsum or null
  T *sum, *y;             // backward: sum is read, y is dx
  float* rstd;
  Parameter<T> weight;
  int64_t rows;
  int columns;
  float share, eps;  // 1 / columns
};

// What a team does with its row; a team without one has 0 columns.
template <class S>
struct TeamRow {
  int64_t row, at;
  int columns;
  template <class T>
  __device__ explicit TeamRow(const AddNormArgs<T>& a)
      : row(int64_t{blockIdx.x} * S::kTeams + threadIdx.x / S::kTeam),
        at(row * a.columns),
        columns(row < a.rows ? a.columns : 0) {}
  __device__ bool leads() const { return columns > 0 && threadIdx.x % S::kTeam == 0; }
};

// Stores values as T; the same, rounded, for registers.
template <int N, class T>
__device__ __forceinline__ RowPack<T, N> store_values(T* to, const float (&v)[N]) {
  Pack<T, N> rounded;
#pragma unroll
  for (int j = 0; j < N; ++j) rounded.v[j] = from_f32<T>(v[j]);
  store_pack<N>(to, rounded);
  RowPack<T, N> row;
  __builtin_memcpy(&row, &rounded, sizeof(row));
  return row;
}

template <class S>
__global__ void __launch_bounds__(S::kThreads)
    add_rms_norm_kernel(AddNormArgs<typename S::Type> a) {
  constexpr int N = S::kN;
  const TeamRow<S> team(a);
  typename S::Row x, residual;
  const auto load = [&](int start) {
    load_span<S>(x, a.x + team.at, start, team.columns);
    load_span<S>(residual, a.residual + team.at, start, team.columns);
  };
  if (S::kWhole) load(0);
  float squares = 0;
  for_row<S>(team.columns, load, [&](int k, int column) {
    float v[N], part = 0;
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = x[k].at(j) + residual[k].at(j);
    const auto sum = store_values(a.sum + team.at + column, v);
    if (S::kWhole) x[k] = sum;
#pragma unroll
    for (int j = 0; j < N; ++j) part = fmaf(sum.at(j), sum.at(j), part);
    squares += part;
  });
  const float rstd = 1.0f / sqrtf(team_sum<S>(squares) * a.share + a.eps);
  if (team.leads()) a.rstd[team.row] = rstd;
  // A row that is not whole comes back from the sum, which this thread wrote.
  const auto load_sum = [&](int start) { load_span<S>(x, a.sum + team.at, start, team.columns); };
  for_row<S>(team.columns, load_sum, [&](int k, int column) {
    float v[N], weight[N];
    if (a.weight.data) a.weight.load(0, column, weight);
#pragma unroll
    for (int j = 0; j < N; ++j) v[j] = x[k].at(j) * rstd * (a.weight.data ? weight[j] : 1);
    store_values(a.y + team.at + column, v);
  });
}

// dx = dsum + rstd (g - xhat mean(g xhat)),  g = dy weight
template <class S>
__global__ void __launch_bounds__(S::kThreads)
    add_rms_norm_backward_kernel(AddNormArgs<typename S::Type> a) {
  constexpr int N = S::kN;
  const TeamRow<S> team(a);
  typename S::Row sum, dy, dsum = {};
  const auto load = [&](int start) {
    load_span<S>(sum, a.sum + team.at, start, team.columns);
    load_span<S>(dy, a.x + team.at, start, team.columns);
    if (a.residual) load_span<S>(dsum, a.residual + team.at, start, team.columns);
  };
  if (S::kWhole) load(0);
  const float rstd = team.columns > 0 ? a.rstd[team.row] : 0;
  const auto load_weight = [&](int column, float(&weight)[N]) {
#pragma unroll
    for (int j = 0; j < N; ++j) weight[j] = 1;
    if (a.weight.data) a.weight.load(0, column, weight);
  };
  float dot = 0;
  for_row<S>(team.columns, load, [&](int k, int column) {
    float weight[N], part = 0;
    load_weight(column, weight);
#pragma unroll
    for (int j = 0; j < N; ++j) part = fmaf(dy[k].at(j) * weight[j], sum[k].at(j) * rstd, part);
    dot += part;
  });
  const float mean = team_sum<S>(dot) * a.share;
  for_row<S>(team.columns, load, [&](int k, int column) {
    float v[N], weight[N];
    load_weight(column, weight);
#pragma unroll
    for (int j = 0; j < N; ++j)
      v[j] = dsum[k].at(j) + rstd * (dy[k].at(j) * weight[j] - sum[k].at(j) * rstd * mean);
    store_values(a.y + team.at + column, v);
  });
}

template <class T, class Fn>
void visit_forward_shape(int64_t columns, bool packed, Fn&& fn) {
  constexpr int N = kPack<T>;
  visit_row_shape<RowShape<T, N, 32, 1>, RowShape<T, N, 32, 2>, RowShape<T, N, 32, 4>,
                  RowShape<T, N, 128, 2>, RowShape<T, N, 128, 4>, RowShape<T, N, 256, 4>,
                  RowShape<T, N, 512, 4>, RowShape<T, 1, 256, 4, false>>(columns, packed,
                                                                         std::forward<Fn>(fn));
}

// Packs a thread are few: three operands are in registers at once.
template <class T, class Fn>
void visit_backward_shape(int64_t columns, bool packed, Fn&& fn) {
  constexpr int N = kPack<T>;
  visit_row_shape<RowShape<T, N, 32, 1>, RowShape<T, N, 32, 2>, RowShape<T, N, 128, 1>,
                  RowShape<T, N, 128, 2>, RowShape<T, N, 256, 2>, RowShape<T, N, 512, 2>,
                  RowShape<T, N, 1024, 2>, RowShape<T, 1, 256, 4, false>>(columns, packed,
                                                                          std::forward<Fn>(fn));
}

template <class T>
AddNormArgs<T> args_of(const NormShape& shape, const Tensor& a, const Tensor& b, const Tensor& sum,
                       const Tensor& y, const Tensor& rstd, const NormParams& p) {
  const float share = 1.0f / static_cast<float>(shape.columns);
  return {pointer<const T>(a),
          pointer<const T>(b),
          pointer<T>(sum),
          pointer<T>(y),
          pointer<float>(rstd),
          Parameter<T>(p.weight),
          shape.rows,
          static_cast<int>(shape.columns),
          share,
          static_cast<float>(p.eps)};
}

template <class T>
bool rows_packed(const AddNormArgs<T>& a) {
  return a.columns % kPack<T> == 0 && is_aligned(a.x) && is_aligned(a.residual) &&
         is_aligned(a.sum) && is_aligned(a.y) && a.weight.packed();
}

template <class S>
unsigned blocks_of(int64_t rows) {
  return static_cast<unsigned>(ceil_div(rows, S::kTeams));
}

}  // namespace

void add_rms_norm(const Tensor& x, const Tensor& residual, const NormParams& p, const Tensor& sum,
                  const Tensor& y, const Tensor& rstd) {
  const char* name = "add_rms_norm";
  const NormShape shape = check_add_rms_norm(x, residual, p, sum, y, rstd);
  check_same_device(name, x, residual, p.weight, sum, y, rstd);
  if (x.numel() == 0) return;
  visit_dtype_gpu(x.dtype(), name, [&](auto type) {
    using T = decltype(type);
    const AddNormArgs<T> args = args_of<T>(shape, x, residual, sum, y, rstd, p);
    visit_forward_shape<T>(shape.columns, rows_packed(args), [&](auto s) {
      using S = decltype(s);
      launch({name, blocks_of<S>(shape.rows), S::kThreads, x.device()}, add_rms_norm_kernel<S>,
             args);
    });
  });
}

void add_rms_norm_backward(const Tensor& sum, const NormParams& p, const Tensor& rstd,
                           const Tensor& dy, const Tensor& dsum, const Tensor& dx,
                           const Tensor& dweight) {
  const char* name = "add_rms_norm_backward";
  const NormShape shape = check_add_rms_norm_backward(sum, p, rstd, dy, dsum, dx, dweight);
  check_same_device(name, sum, p.weight, rstd, dy, dsum, dx, dweight);
  if (dweight) rms_norm_backward(sum, p, rstd, dy, {{}, dweight, {}, {}, {}});
  if (sum.numel() == 0 || !dx) return;
  visit_dtype_gpu(sum.dtype(), name, [&](auto type) {
    using T = decltype(type);
    const AddNormArgs<T> args = args_of<T>(shape, dy, dsum, sum, dx, rstd, p);
    visit_backward_shape<T>(shape.columns, rows_packed(args), [&](auto s) {
      using S = decltype(s);
      launch({name, blocks_of<S>(shape.rows), S::kThreads, sum.device()},
             add_rms_norm_backward_kernel<S>, args);
    });
  });
}

}  // namespace parlo::cuda
