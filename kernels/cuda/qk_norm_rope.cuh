// Heads in registers for kernels/cuda/qk_norm_rope*.cu. A team of a few lanes has the same columns
// of four heads of one token: their angles and weights are loaded once. A head is cut at `split`
// into two sides: lane t has pack t of both, so that with halves a pair meets in one thread.
#pragma once

#include "kernels/cuda/norm.cuh"
#include "kernels/rope.h"

namespace parlo::cuda {

constexpr int kWidestHead = 256;
constexpr int kMostParts = 3;  // q, k, v

template <class T>
struct HeadsView {
  T* data = nullptr;
  int64_t stride[3] = {};  // of B, T, H

  HeadsView() = default;
  explicit HeadsView(const Tensor& t) : data(pointer<T>(t)) {
    for (int i = 0; t && i < 3; ++i) stride[i] = t.strides()[i];
  }
  __device__ __forceinline__ T* at(unsigned b, unsigned t, int head) const {
    return data + b * stride[0] + t * stride[1] + head * stride[2];
  }
};

template <class T>
struct PartArgs {
  HeadsView<const T> x, dout;
  HeadsView<T> out;  // backward: dx, may be null
  Parameter<T> weight;
  float* sums = nullptr;  // of dout xhat, [blocks, D]
  int heads = 0;
  unsigned chunks = 0, items = 0;  // of the heads of a token, of all tokens
  bool norm = false, rotates = false;
};

template <class T>
struct HeadsArgs {
  PartArgs<T> parts[kMostParts];
  const float *cos, *sin;  // [T, D/2]
  unsigned positions;      // T
  int d, split;
  unsigned turns;    // items of a team, one after the other
  float share, eps;  // 1 / D
};

// Team lanes of N values in kPacks packs a side. Packed: each pack in one access.
template <class T, int N, int Team, int Packs, bool Packed>
struct HeadShape {
  using Type = T;
  static constexpr int kN = N, kTeam = Team, kPacks = Packs;
  static constexpr bool kPacked = Packed;
  static constexpr int kThreads = 128, kTeams = kThreads / Team;
  static constexpr int kSide = N * Team * Packs;
  using Head = RowPack<T, N>[2][Packs];
  using Floats = float[2][Packs][N];
};

// Heads `first` .. + `count` of one token; a team without work has none.
struct Place {
  unsigned b, t;
  int first, count;
};
template <int Heads, class T>
__device__ __forceinline__ Place place_of(const PartArgs<T>& part, unsigned positions,
                                          unsigned item) {
  if (item >= part.items) return {0, 0, 0, 0};
  const unsigned token = item / part.chunks;
  const int first = static_cast<int>(item - token * part.chunks) * Heads;
  return {token / positions, token % positions, first, min(part.heads - first, Heads)};
}

// fn(side, k, column, count) for the packs of this thread that have count > 0 values.
template <class S, class Fn>
__device__ __forceinline__ void for_head(int d, int split, Fn&& fn) {
#pragma unroll
  for (int side = 0; side < 2; ++side) {
#pragma unroll
    for (int k = 0; k < S::kPacks; ++k) {
      const int at = (k * S::kTeam + static_cast<int>(threadIdx.x) % S::kTeam) * S::kN;
      const int count = (side ? d - split : split) - at;
      if (count > 0) fn(side, k, side * split + at, count);
    }
  }
}

template <class S>
__device__ __forceinline__ void load_head(typename S::Head& head, const typename S::Type* from,
                                          int d, int split) {
  for_head<S>(d, split, [&](int side, int k, int column, int count) {
    if constexpr (S::kPacked) {
      head[side][k] = load_row_pack<S::kN>(from + column);
    } else {
#pragma unroll
      for (int j = 0; j < S::kN; ++j)
        if (j < count) head[side][k].v[j] = from[column + j];
    }
  });
}

template <class S>
__device__ __forceinline__ void store_head(typename S::Type* to, const typename S::Floats& v, int d,
                                           int split) {
  using T = typename S::Type;
  for_head<S>(d, split, [&](int side, int k, int column, int count) {
    Pack<T, S::kN> y;
#pragma unroll
    for (int j = 0; j < S::kN; ++j) y.v[j] = from_f32<T>(v[side][k][j]);
    if constexpr (S::kPacked) {
      store_pack<S::kN>(to + column, y);
    } else {
#pragma unroll
      for (int j = 0; j < S::kN; ++j)
        if (j < count) to[column + j] = y.v[j];
    }
  });
}

// 1 where there is no weight.
template <class S>
__device__ __forceinline__ void load_weight(const Parameter<typename S::Type>& weight, int d,
                                            int split, typename S::Floats& w) {
  for_head<S>(d, split, [&](int side, int k, int column, int count) {
#pragma unroll
    for (int j = 0; j < S::kN; ++j) w[side][k][j] = 1;
    if (!weight.data) return;
    if constexpr (S::kPacked) {
      weight.load(0, column, w[side][k]);
    } else {
#pragma unroll
      for (int j = 0; j < S::kN; ++j)
        if (j < count) w[side][k][j] = weight.at(0, column + j);
    }
  });
}

// The angles of this thread's pairs: pairs has N / 2 in a pack, halves N in the packs of both
// sides.
template <class S, RopeStyle Style>
struct Angles {
  static constexpr bool kPairs = Style == RopeStyle::pairs;
  static constexpr int kCount = kPairs ? S::kN / 2 : S::kN, kSides = kPairs ? 2 : 1;
  float cos[kSides][S::kPacks][kCount] = {}, sin[kSides][S::kPacks][kCount] = {};

  __device__ __forceinline__ void load(const float* from_cos, const float* from_sin, float sign,
                                       int d, int split) {
    for_head<S>(d, split, [&](int side, int k, int column, int count) {
      if (side >= kSides) return;
      const int at = kPairs ? column / 2 : column;
      if constexpr (S::kPacked) {
        load_floats(from_cos + at, cos[side][k]);
        load_floats(from_sin + at, sin[side][k]);
      } else {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
          if (i * (kPairs ? 2 : 1) >= count) continue;
          cos[side][k][i] = from_cos[at + i];
          sin[side][k][i] = from_sin[at + i];
        }
      }
#pragma unroll
      for (int i = 0; i < kCount; ++i) sin[side][k][i] *= sign;
    });
  }

  // (a, b) -> (a cos - b sin, b cos + a sin)
  __device__ __forceinline__ void rotate(typename S::Floats& v) const {
#pragma unroll
    for (int side = 0; side < kSides; ++side) {
#pragma unroll
      for (int k = 0; k < S::kPacks; ++k) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
          float& a = kPairs ? v[side][k][2 * i] : v[0][k][i];
          float& b = kPairs ? v[side][k][2 * i + 1] : v[1][k][i];
          const float p = a, q = b, c = cos[side][k][i], s = sin[side][k][i];
          a = p * c - q * s;
          b = q * c + p * s;
        }
      }
    }
  }
};

// Sums over a team, of several values at once; every lane of the warp calls it.
template <class S, int Count>
__device__ __forceinline__ void add_lanes(float (&x)[Count]) {
#pragma unroll
  for (int o = S::kTeam / 2; o > 0; o /= 2) {
#pragma unroll
    for (int i = 0; i < Count; ++i) x[i] += __shfl_xor_sync(kAllLanes, x[i], o);
  }
}

}  // namespace parlo::cuda
