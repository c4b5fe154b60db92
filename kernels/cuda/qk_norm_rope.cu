// RMS norm of heads and rotary embedding (kernels/qk_norm_rope.h) on a GPU: q, k and v in one
// launch. Floor: bytes of the heads in and out; angles and weights, f32 also for bf16, come from
// the L1 once for several heads.
#include "kernels/cuda/qk_norm_rope_launch.cuh"

namespace parlo::cuda {
namespace {

constexpr int kHeads = 4;  // of a thread, in flight at once

template <class S, RopeStyle Style, class T = typename S::Type>
__global__ void __launch_bounds__(S::kThreads) qk_norm_rope_kernel(HeadsArgs<T> a) {
  const PartArgs<T>& part = a.parts[blockIdx.y];
  const Place place =
      place_of<kHeads>(part, a.positions, blockIdx.x * S::kTeams + threadIdx.x / S::kTeam);
  typename S::Head x[kHeads] = {};
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (h < place.count)
      load_head<S>(x[h], part.x.at(place.b, place.t, place.first + h), a.d, a.split);
  }
  typename S::Floats weight = {};
  Angles<S, Style> angles;
  float rstd[kHeads];
  if (part.rotates) {
    const int64_t at = int64_t{place.t} * (a.d / 2);
    angles.load(a.cos + at, a.sin + at, 1, a.d, a.split);
  }
  if (part.norm) {
    load_weight<S>(part.weight, a.d, a.split, weight);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      rstd[h] = 0;
      for_head<S>(a.d, a.split, [&](int side, int k, int, int) {
#pragma unroll
        for (int j = 0; j < S::kN; ++j)
          rstd[h] = fmaf(x[h][side][k].at(j), x[h][side][k].at(j), rstd[h]);
      });
    }
    add_lanes<S>(rstd);
  }
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (h >= place.count) continue;
    const float scale = part.norm ? 1.0f / sqrtf(rstd[h] * a.share + a.eps) : 1;
    typename S::Floats v = {};
    for_head<S>(a.d, a.split, [&](int side, int k, int, int) {
#pragma unroll
      for (int j = 0; j < S::kN; ++j) {
        v[side][k][j] = x[h][side][k].at(j);
        if (part.norm) v[side][k][j] *= scale * weight[side][k][j];
      }
    });
    if (part.rotates) angles.rotate(v);
    store_head<S>(part.out.at(place.b, place.t, place.first + h), v, a.d, a.split);
  }
}

}  // namespace

void qk_norm_rope(const QkvHeads& x, const QkNormRope& p, const QkvHeads& out) {
  const char* name = "qk_norm_rope";
  const std::vector<HeadsPart> parts = forward_parts(x, p, out);
  if (parts.empty()) return;
  check_gpu_heads(name, parts, p);
  const Tensor& like = parts[0].out;
  visit_dtype_gpu(like.dtype(), name, [&](auto type) {
    using T = decltype(type);
    HeadsArgs<T> args = heads_args<T>(parts, p);
    const int64_t items = like.dim(3) ? split_items(name, like, kHeads, args) : 0;
    if (items == 0) return;
    visit_heads(parts, p, args, [&](auto shape, auto style) {
      using S = decltype(shape);
      const dim3 grid(static_cast<unsigned>(ceil_div(items, S::kTeams)),
                      static_cast<unsigned>(parts.size()));
      launch({name, grid, S::kThreads, like.device()}, qk_norm_rope_kernel<S, style.value>, args);
    });
  });
}

}  // namespace parlo::cuda
