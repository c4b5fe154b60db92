// Arguments and shapes of the launches of qk_norm_rope and its backward.
#pragma once

#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/qk_norm_rope.cuh"
#include "kernels/qk_norm_rope_checks.h"

namespace parlo::cuda {

// Calls fn with the shape that holds a head whose sides have `split` values.
template <class T, class Fn>
void visit_head_shape(int split, bool packed, Fn&& fn) {
  constexpr int N = kPack<T>;
  if (!packed) return fn(HeadShape<T, 2, 32, 2, false>{});
  if (split <= 4 * N) return fn(HeadShape<T, N, 4, 1, true>{});
  if (split <= 8 * N) return fn(HeadShape<T, N, 8, 1, true>{});
  if (split <= 16 * N) return fn(HeadShape<T, N, 16, 1, true>{});
  if constexpr (N == 4) fn(HeadShape<T, N, 32, 1, true>{});
}

// Arguments of a launch, but for what depends on the kernel: out of parts of the same B, T and D.
template <class T>
HeadsArgs<T> heads_args(const std::vector<HeadsPart>& parts, const QkNormRope& p) {
  const Tensor& like = parts[0].any();
  HeadsArgs<T> args{};
  for (size_t i = 0; i < parts.size(); ++i) {
    PartArgs<T>& to = args.parts[i];
    to.x = HeadsView<const T>(parts[i].x), to.dout = HeadsView<const T>(parts[i].dout);
    to.out = HeadsView<T>(parts[i].out), to.weight = Parameter<T>(parts[i].weight);
    to.heads = static_cast<int>(parts[i].any().dim(2)), to.norm = parts[i].norm,
    to.rotates = parts[i].rotates;
  }
  args.cos = pointer<const float>(p.cos), args.sin = pointer<const float>(p.sin);
  args.positions = static_cast<unsigned>(like.dim(1));
  args.d = static_cast<int>(like.dim(3));
  args.share = 1.0f / static_cast<float>(args.d), args.eps = static_cast<float>(p.eps);
  return args;
}

// Splits the heads of each part into items of `heads`; the largest number of items of a part.
template <class T>
int64_t split_items(const char* name, const Tensor& like, int heads, HeadsArgs<T>& args) {
  int64_t most = 0;
  for (PartArgs<T>& part : args.parts) {
    const int64_t chunks = ceil_div(part.heads, heads), items = like.dim(0) * like.dim(1) * chunks;
    CHECK(items < int64_t{1} << 31, name, ": ", like.shape(), " is more than one launch takes");
    part.chunks = static_cast<unsigned>(chunks), part.items = static_cast<unsigned>(items);
    most = std::max(most, items);
  }
  return most;
}

inline bool parts_packed(const std::vector<HeadsPart>& parts, const QkNormRope& p) {
  bool packed = (!p.cos || is_aligned(p.cos.raw())) && (!p.sin || is_aligned(p.sin.raw()));
  for (const HeadsPart& part : parts) {
    packed = packed && (!part.weight || is_aligned(part.weight.raw()));
    for (const Tensor* t : {&part.x, &part.dout, &part.out})
      packed = packed && (!*t || heads_aligned(*t));
  }
  return packed;
}

// Calls fn(shape, style) after setting args.split. Sides of halves are the halves; others are whole
// packs.
template <class T, class Fn>
void visit_heads(const std::vector<HeadsPart>& parts, const QkNormRope& p, HeadsArgs<T>& args,
                 Fn&& fn) {
  constexpr int N = kPack<T>;
  const bool halves = p.cos && p.style == RopeStyle::halves;
  const bool packed = parts_packed(parts, p) && args.d % N == 0 && (!halves || args.d / 2 % N == 0);
  const int unit = packed ? N : 2;
  const int whole = static_cast<int>(ceil_div(args.d, 2 * unit)) * unit;
  args.split = halves ? args.d / 2 : std::min(args.d, whole);
  visit_head_shape<T>(args.split, packed, [&](auto shape) {
    if (halves) {
      fn(shape, std::integral_constant<RopeStyle, RopeStyle::halves>{});
    } else {
      fn(shape, std::integral_constant<RopeStyle, RopeStyle::pairs>{});
    }
  });
}

// What a launch refuses, beside what both backends do.
inline void check_gpu_heads(const char* name, const std::vector<HeadsPart>& parts,
                            const QkNormRope& p) {
  for (const HeadsPart& part : parts) {
    check_same_device(name, parts[0].any(), part.x, part.dout, part.out, part.weight, part.dweight,
                      p.cos, p.sin);
    CHECK(part.any().dim(3) <= kWidestHead, name, ": heads of ", part.any().dim(3),
          ", expected at most ", kWidestHead);
  }
}

}  // namespace parlo::cuda
