// Gradients of qk_norm_rope on a GPU. With g = dout rotated back and xhat = x rstd:
//   dx = rstd (g w - xhat mean(g w xhat)),  dw = sum g xhat
// rstd is computed again from x, which the norm needs anyway. Floor: bytes of x, dout and dx. Where
// a weight wants its gradient, a thread adds g xhat of its heads in registers, the block adds its
// teams and writes a row of partial sums, and combine() adds the rows in order. dx has the same
// bits with and without.
#include "kernels/cuda/qk_norm_rope_launch.cuh"

namespace parlo::cuda {
namespace {

constexpr int kHeads = 2;           // of a thread, in flight at once
constexpr unsigned kSumTurns = 16;  // chunks of heads of a team whose sums make one row

template <class S>
__device__ __forceinline__ void norm_backward(const typename S::Head& x,
                                              const typename S::Floats& weight, float rstd,
                                              float xhat_mean, typename S::Floats& g,
                                              typename S::Floats& sums, const int d, int split) {
  for_head<S>(d, split, [&](int side, int k, int, int) {
#pragma unroll
    for (int j = 0; j < S::kN; ++j) {
      const float xhat = x[side][k].at(j) * rstd;
      sums[side][k][j] = fmaf(g[side][k][j], xhat, sums[side][k][j]);
      g[side][k][j] = rstd * (g[side][k][j] * weight[side][k][j] - xhat * xhat_mean);
    }
  });
}

// The heads of one place; adds g xhat to sums.
template <class S, RopeStyle Style, class T = typename S::Type>
__device__ __forceinline__ void heads_backward(const HeadsArgs<T>& a, const PartArgs<T>& part,
                                               const Place& place, const typename S::Floats& weight,
                                               typename S::Floats& sums) {
  typename S::Head x[kHeads] = {}, dout[kHeads] = {};
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (h >= place.count) continue;
    load_head<S>(dout[h], part.dout.at(place.b, place.t, place.first + h), a.d, a.split);
    if (part.norm) load_head<S>(x[h], part.x.at(place.b, place.t, place.first + h), a.d, a.split);
  }
  Angles<S, Style> angles;
  if (part.rotates) {
    const int64_t at = int64_t{place.t} * (a.d / 2);
    angles.load(a.cos + at, a.sin + at, -1, a.d, a.split);
  }
  typename S::Floats g[kHeads] = {};
  float totals[2 * kHeads] = {};  // x^2 and g w x of each head
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    for_head<S>(a.d, a.split, [&](int side, int k, int, int) {
#pragma unroll
      for (int j = 0; j < S::kN; ++j) g[h][side][k][j] = dout[h][side][k].at(j);
    });
    if (part.rotates) angles.rotate(g[h]);
    for_head<S>(a.d, a.split, [&](int side, int k, int, int) {
#pragma unroll
      for (int j = 0; j < S::kN; ++j) {
        const float v = x[h][side][k].at(j);
        totals[2 * h] = fmaf(v, v, totals[2 * h]);
        totals[2 * h + 1] = fmaf(g[h][side][k][j] * weight[side][k][j], v, totals[2 * h + 1]);
      }
    });
  }
  if (part.norm) add_lanes<S>(totals);
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (h >= place.count) continue;
    const float rstd = 1.0f / sqrtf(totals[2 * h] * a.share + a.eps);
    if (part.norm)
      norm_backward<S>(x[h], weight, rstd, rstd * totals[2 * h + 1] * a.share, g[h], sums, a.d,
                       a.split);
    if (part.out.data)
      store_head<S>(part.out.at(place.b, place.t, place.first + h), g[h], a.d, a.split);
  }
}

// Adds the sums of a block's teams in order into row blockIdx.x of `to`.
template <class S>
__device__ __forceinline__ void write_sums(const typename S::Floats& sums, int d, int split,
                                           float* to) {
  SMEM(float, shared, [S::kTeams][2 * S::kSide]);
  for_head<S>(d, split, [&](int side, int k, int column, int) {
    const int slot = side * (S::kSide - split) + column;
    store_floats(&shared[threadIdx.x / S::kTeam][slot], sums[side][k]);
  });
  __syncthreads();
  for (int c = threadIdx.x; c < d; c += S::kThreads) {
    const int slot = c < split ? c : c - split + S::kSide;
    float total = 0;
#pragma unroll
    for (int team = 0; team < S::kTeams; ++team) total += shared[team][slot];
    to[int64_t{blockIdx.x} * d + c] = total;
  }
}

template <class S, RopeStyle Style, bool Sums, class T = typename S::Type>
__global__ void __launch_bounds__(S::kThreads) qk_norm_rope_backward_kernel(HeadsArgs<T> a) {
  const PartArgs<T>& part = a.parts[blockIdx.y];
  const unsigned turns = Sums ? kSumTurns : 1, first = blockIdx.x * turns * S::kTeams;
  if (first >= part.items) return;  // the whole block: this part has fewer heads
  typename S::Floats weight = {}, sums = {};
  if (part.norm) load_weight<S>(part.weight, a.d, a.split, weight);
  for (unsigned turn = 0; turn < turns; ++turn) {
    const unsigned item = first + turn * S::kTeams + threadIdx.x / S::kTeam;
    heads_backward<S, Style>(a, part, place_of<kHeads>(part, a.positions, item), weight, sums);
  }
  if constexpr (Sums) {
    if (part.sums) write_sums<S>(sums, a.d, a.split, part.sums);
  }
}

bool zero_if_no_rows(const std::vector<HeadsPart>& parts, int64_t items) {
  for (const HeadsPart& part : parts)
    if (part.dweight && (items == 0 || part.any().numel() == 0)) part.dweight.fill(0);
  return items == 0;
}

// Partial sums of the parts that want them, and their addition after the kernel.
class WeightSums {
 public:
  WeightSums(const char* name, const std::vector<HeadsPart>& parts) : name_(name), parts_(parts) {}

  template <class T>
  void prepare(int64_t items_of_block, HeadsArgs<T>& args) {
    for (size_t i = 0; i < parts_.size(); ++i) {
      if (!parts_[i].dweight) continue;
      // Named: in a template, nvcc 13.0 makes a comma expression of a braced list in the call.
      const Shape blocks = {ceil_div(args.parts[i].items, items_of_block), args.d};
      rows_[i] = Tensor::empty(blocks, DType::f32, parts_[i].dweight.device());
      args.parts[i].sums = pointer<float>(rows_[i]);
    }
  }
  void add() const {
    for (size_t i = 0; i < parts_.size(); ++i) {
      if (!rows_[i] || rows_[i].numel() == 0) continue;
      ColumnSums sums;
      sums.P = pointer<float>(rows_[i]), sums.dweight = ParameterGrad(parts_[i].dweight);
      sums.per_group = rows_[i].dim(0), sums.columns = static_cast<int>(rows_[i].dim(1));
      combine(name_, sums, rows_[i].device());
    }
  }

 private:
  const char* name_;
  const std::vector<HeadsPart>& parts_;
  Tensor rows_[kMostParts];
};

}  // namespace

void qk_norm_rope_backward(const QkvHeads& x, const QkNormRope& p, const QkvHeads& dout,
                           const QkNormRopeGrads& grads) {
  const char* name = "qk_norm_rope_backward";
  const std::vector<HeadsPart> parts = backward_parts(x, p, dout, grads);
  if (parts.empty()) return;
  check_gpu_heads(name, parts, p);
  const Tensor& like = parts[0].dout;
  visit_dtype_gpu(like.dtype(), name, [&](auto type) {
    using T = decltype(type);
    HeadsArgs<T> args = heads_args<T>(parts, p);
    const int64_t items = like.dim(3) ? split_items(name, like, kHeads, args) : 0;
    if (zero_if_no_rows(parts, items)) return;
    WeightSums sums(name, parts);
    visit_heads(parts, p, args, [&](auto shape, auto style) {
      using S = decltype(shape);
      const auto grid = [&](int64_t items_of_block) {
        return dim3(static_cast<unsigned>(ceil_div(items, items_of_block)),
                    static_cast<unsigned>(parts.size()));
      };
      if (grads.dq_weight || grads.dk_weight) {
        constexpr int64_t kItems = int64_t{S::kTeams} * kSumTurns;
        sums.prepare(kItems, args);
        launch({name, grid(kItems), S::kThreads, like.device()},
               qk_norm_rope_backward_kernel<S, style.value, true>, args);
      } else {
        launch({name, grid(S::kTeams), S::kThreads, like.device()},
               qk_norm_rope_backward_kernel<S, style.value, false>, args);
      }
    });
    sums.add();
  });
}

}  // namespace parlo::cuda
