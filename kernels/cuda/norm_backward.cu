// Gradients of layer and RMS norm on a GPU. With xhat = (x - mean) rstd and g = dy gain:
//   dx = rstd (g - mean(g) - xhat mean(g xhat)),   RMS norm: without mean(g)
// Floor: bytes of x, dy and dx. Rows stay in registers as in norm.cu; frozen norms move nothing
// else. Where parameters want gradients, each team adds dy xhat and dy of its rows in registers,
// the block adds its teams and writes a row of partial sums, and combine() adds the blocks of each
// group in order. dx has the same bits with and without.
#include "kernels/cuda/norm.cuh"
#include "kernels/norm_checks.h"

namespace parlo::cuda {
namespace {

template <class T>
struct BackwardArgs {
  const T *x, *dy;
  T* dx;                     // or null
  const float *mean, *rstd;  // no mean: RMS norm
  Parameter<T> weight, scale;
  float *P = nullptr, *Q = nullptr;  // partial sums [blocks, C]
  RowBlocks blocks{1, 1, 1};
  int columns;
  float share;  // 1 / columns
};

// weight (1 + scale) of some columns.
template <int N, class T>
__device__ __forceinline__ void load_gain(const BackwardArgs<T>& a, int64_t group, int column,
                                          float (&gain)[N]) {
#pragma unroll
  for (int j = 0; j < N; ++j) gain[j] = 1;
  if (a.weight.data) a.weight.load(group, column, gain);
  if (a.scale.data) {
    float scale[N];
    a.scale.load(group, column, scale);
#pragma unroll
    for (int j = 0; j < N; ++j) gain[j] = fmaf(gain[j], scale[j], gain[j]);
  }
}

// One row; a team without a row has 0 columns. With kSums adds dy xhat to P and dy to Q.
template <class S, bool kSums, class T = typename S::Type>
__device__ __forceinline__ void row_backward(const BackwardArgs<T>& a, int64_t group, int64_t row,
                                             int columns, float (&P)[S::kPacks][S::kN],
                                             float (&Q)[S::kPacks][S::kN]) {
  typename S::Row x, dy;
  const auto load = [&](int start) {
    load_span<S>(x, a.x + row * a.columns, start, columns);
    load_span<S>(dy, a.dy + row * a.columns, start, columns);
  };
  if (S::kWhole) load(0);
  const float mean = columns > 0 && a.mean ? a.mean[row] : 0;
  const float rstd = columns > 0 ? a.rstd[row] : 0;
  float g_sum = 0, g_xhat_sum = 0;
  for_row<S>(columns, load, [&](int k, int column) {
    float gain[S::kN], part = 0, xhat_part = 0;
    load_gain(a, group, column, gain);
#pragma unroll
    for (int j = 0; j < S::kN; ++j) {
      const float d = dy[k].at(j), xhat = (x[k].at(j) - mean) * rstd;
      part = fmaf(d, gain[j], part);
      xhat_part = fmaf(d * gain[j], xhat, xhat_part);
      if (kSums) P[k][j] = fmaf(d, xhat, P[k][j]);
      if (kSums) Q[k][j] += d;
    }
    g_sum += part;
    g_xhat_sum += xhat_part;
  });
  if (!a.dx) return;
  team_sums<S>(g_sum, g_xhat_sum);
  const float g_mean = a.mean ? g_sum * a.share : 0, g_xhat_mean = g_xhat_sum * a.share;
  for_row<S>(columns, load, [&](int k, int column) {
    float gain[S::kN];
    load_gain(a, group, column, gain);
    Pack<T, S::kN> dx;
#pragma unroll
    for (int j = 0; j < S::kN; ++j) {
      const float xhat = (x[k].at(j) - mean) * rstd;
      const float g = dy[k].at(j) * gain[j];
      dx.v[j] = from_f32<T>(rstd * (g - g_mean - xhat * g_xhat_mean));
    }
    store_pack<S::kN>(a.dx + row * a.columns + column, dx);
  });
}

// Adds the sums of a block's teams in order into row blockIdx.x of `to`.
template <class S>
__device__ __forceinline__ void write_partial(const float (&sum)[S::kPacks][S::kN], int columns,
                                              float* to) {
  to += static_cast<int64_t>(blockIdx.x) * columns;
  if constexpr (S::kTeams == 1) {
    for_packs<S>(0, columns, [&](int k, int column) { store_floats(to + column, sum[k]); });
  } else {
    SMEM(float, shared, [S::kTeams][S::kSpan]);
    __syncthreads();  // an earlier call's sums were read
    for_packs<S>(0, columns, [&](int k, int column) {
      store_floats(&shared[threadIdx.x / S::kTeam][column], sum[k]);
    });
    __syncthreads();
    for (int c = threadIdx.x; c < columns; c += S::kThreads) {
      float total = 0;
#pragma unroll
      for (int team = 0; team < S::kTeams; ++team) total += shared[team][c];
      to[c] = total;
    }
  }
}

// Blocks on an SM: without this bound the compiler takes half as many registers again.
template <class S, bool kSums>
constexpr int kBlocksPerSM = std::max(1, (1 << 16) / S::kThreads /
                                             (40 + (kSums ? 36 : 24) * S::kPacks));

template <class S, bool kSums>
__global__ void __launch_bounds__(S::kThreads, kBlocksPerSM<S, kSums>)
    norm_backward_kernel(BackwardArgs<typename S::Type> a) {
  const auto [group, first, last] = a.blocks.at(blockIdx.x);
  float P[S::kPacks][S::kN] = {}, Q[S::kPacks][S::kN] = {};
  for (int64_t base = first; base < last; base += S::kTeams) {
    const int64_t row = base + threadIdx.x / S::kTeam;
    row_backward<S, kSums>(a, group, row, row < last ? a.columns : 0, P, Q);
  }
  if constexpr (kSums) {
    write_partial<S>(P, a.columns, a.P);
    if (a.Q) write_partial<S>(Q, a.columns, a.Q);
  }
}

constexpr int kColumnThreads = 128;

// P and Q where rows do not stay in registers: a thread for each column, which reads again.
template <class T>
__global__ void __launch_bounds__(kColumnThreads) column_sums_kernel(BackwardArgs<T> a) {
  const unsigned slabs = (a.columns + kColumnThreads - 1) / kColumnThreads;
  const unsigned block = blockIdx.x / slabs;
  const int column = static_cast<int>(blockIdx.x % slabs) * kColumnThreads + threadIdx.x;
  if (column >= a.columns) return;
  const auto [group, first, last] = a.blocks.at(block);
  float P = 0, Q = 0;
  for (int64_t row = first; row < last; ++row) {
    const int64_t at = row * a.columns + column;
    const float d = to_f32(a.dy[at]);
    P = fmaf(d, (to_f32(a.x[at]) - (a.mean ? a.mean[row] : 0)) * a.rstd[row], P);
    Q += d;
  }
  a.P[static_cast<int64_t>(block) * a.columns + column] = P;
  if (a.Q) a.Q[static_cast<int64_t>(block) * a.columns + column] = Q;
}

// Packs a thread are few: with their sums in f32 each takes 20 registers in bf16.
template <class T, class Fn>
void visit_backward_shape(int64_t columns, bool packed, Fn&& fn) {
  constexpr int N = kPack<T>;
  using Longest =
      std::conditional_t<N == 4, RowShape<T, N, 1024, 2>, RowShape<T, N, 512, 2>>;  // 8192
  visit_row_shape<RowShape<T, N, 8, 1>, RowShape<T, N, 16, 1>, RowShape<T, N, 32, 1>,
                  RowShape<T, N, 32, 2>, RowShape<T, N, 128, 1>, RowShape<T, N, 128, 2>,
                  RowShape<T, N, 128, 3>, RowShape<T, N, 256, 2>, Longest,
                  RowShape<T, 1, 256, 8, false>>(columns, packed, std::forward<Fn>(fn));
}

// Rows of a block whose sums are wanted: about 512 blocks for a group, but enough rows for the
// partial sums to be a small part of the traffic.
int64_t rows_for_sums(const NormShape& shape) {
  const int64_t least = std::max<int64_t>(16, 16384 / shape.columns);
  return std::clamp(ceil_div(shape.rows_per_group(), 512), least, 4 * least);
}

template <class T>
void run_sums(const char* name, BackwardArgs<T> args, const NormShape& shape, const NormParams& p,
              const NormGrads& grads, Device device, bool packed) {
  args.blocks = RowBlocks(shape.groups, shape.rows_per_group(), rows_for_sums(shape));
  const auto count = static_cast<unsigned>(args.blocks.count);
  const Shape partial = {args.blocks.count, shape.columns};
  const Tensor P = Tensor::empty(partial, DType::f32, device);
  const Tensor Q = args.mean ? Tensor::empty(partial, DType::f32, device) : Tensor();
  args.P = pointer<float>(P), args.Q = pointer<float>(Q);
  visit_backward_shape<T>(shape.columns, packed, [&](auto s) {
    using S = decltype(s);
    if constexpr (S::kWhole) {
      launch({name, count, S::kThreads, device}, norm_backward_kernel<S, true>, args);
    } else {
      if (args.dx) launch({name, count, S::kThreads, device}, norm_backward_kernel<S, false>, args);
      const auto slabs = static_cast<unsigned>(ceil_div(shape.columns, kColumnThreads));
      launch({name, count * slabs, kColumnThreads, device}, column_sums_kernel<T>, args);
    }
  });
  combine(
      name,
      {args.P, args.Q, args.blocks.per_group, shape.groups, args.columns, Parameter<bf16>(p.weight),
       Parameter<bf16>(p.bias), Parameter<bf16>(p.scale), ParameterGrad(grads.dweight),
       ParameterGrad(grads.dbias), ParameterGrad(grads.dscale), ParameterGrad(grads.dshift)},
      device);
}

void run(const char* name, const NormShape& shape, const Tensor& x, const NormParams& p,
         const Tensor& mean, const Tensor& rstd, const Tensor& dy, const NormGrads& grads) {
  visit_dtype_gpu(x.dtype(), name, [&](auto type) {
    using T = decltype(type);
    BackwardArgs<T> args;
    args.x = pointer<const T>(x), args.dy = pointer<const T>(dy), args.dx = pointer<T>(grads.dx);
    args.mean = pointer<const float>(mean), args.rstd = pointer<const float>(rstd);
    args.weight = Parameter<T>(p.weight), args.scale = Parameter<T>(p.scale);
    args.columns = static_cast<int>(shape.columns);
    args.share = 1.0f / static_cast<float>(shape.columns);
    const bool packed = shape.columns % kPack<T> == 0 && is_aligned(args.x) &&
                        is_aligned(args.dy) && is_aligned(args.dx) && args.weight.packed() &&
                        args.scale.packed();
    if (grads.dweight || grads.dbias || grads.dscale || grads.dshift)
      return run_sums(name, args, shape, p, grads, x.device(), packed);
    if (!grads.dx) return;
    visit_backward_shape<T>(shape.columns, packed, [&](auto s) {
      using S = decltype(s);
      args.blocks = RowBlocks(shape.groups, shape.rows_per_group(), S::kTeams);
      launch({name, static_cast<unsigned>(args.blocks.count), S::kThreads, x.device()},
             norm_backward_kernel<S, false>, args);
    });
  });
}

}  // namespace

void layer_norm_backward(const Tensor& x, const NormParams& p, const Tensor& mean,
                         const Tensor& rstd, const Tensor& dy, const NormGrads& grads) {
  const char* name = "layer_norm_backward";
  const NormShape shape = check_norm(name, x, p);
  check_grads(name, x, shape, grads);
  check_operand(name, "dy", dy, x.dtype(), x.numel());
  check_same_device(name, x, p.weight, p.bias, p.scale, p.shift, mean, rstd, dy, grads.dx,
                    grads.dweight, grads.dbias, grads.dscale, grads.dshift);
  if (zero_if_empty(x, grads)) return;
  check_operand(name, "mean", mean, statistics_dtype(x), shape.rows);
  check_operand(name, "rstd", rstd, statistics_dtype(x), shape.rows);
  run(name, shape, x, p, mean, rstd, dy, grads);
}

void rms_norm_backward(const Tensor& x, const NormParams& p, const Tensor& rstd, const Tensor& dy,
                       const NormGrads& grads) {
  const char* name = "rms_norm_backward";
  const NormParams used{p.weight, {}, {}, {}, p.eps};
  const NormShape shape = check_norm(name, x, used);
  CHECK(!grads.dbias && !grads.dscale && !grads.dshift,
        "rms_norm_backward: has gradients for dx and dweight only");
  check_grads(name, x, shape, grads);
  check_operand(name, "dy", dy, x.dtype(), x.numel());
  check_same_device(name, x, p.weight, rstd, dy, grads.dx, grads.dweight);
  if (zero_if_empty(x, grads)) return;
  check_operand(name, "rstd", rstd, statistics_dtype(x), shape.rows);
  run(name, shape, x, used, {}, rstd, dy, grads);
}

}  // namespace parlo::cuda
