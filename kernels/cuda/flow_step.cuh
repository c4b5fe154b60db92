// The arithmetic of the flow step inside kernels. The rollout, flow_log_prob and flow_loss share it
// and every operation in it, so that equal velocities give equal bits.
// The squares of a sample are summed by warps over segments of 512, these by eights in f64, and the
// blocks of 4096 by one warp: an order that depends on D alone.
#pragma once

#include "kernels/cuda/philox.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/flow_checks.h"

namespace parlo::cuda {

constexpr int kPacks = 4, kLane = 4;                                  // a lane's share of a segment
constexpr int kSegment = kWarp * kPacks * kLane;                      // 512
constexpr int kBlockWarps = static_cast<int>(kFlowBlock) / kSegment;  // 8
constexpr int kBlockThreads = kBlockWarps * kWarp;
constexpr int kMostBlocks = 4;  // of a sample, in one thread block
constexpr int kMostWarps = kMostBlocks * kBlockWarps, kMostThreads = kMostWarps * kWarp;

enum class Flow { step, log_prob, loss };

template <class T>
struct FlowArgs {
  float cx, cv, std;
  double log_scale, log_offset;  // log_prob = log_scale * mean square + log_offset; 0: ode
  int64_t batch, size, blocks;   // [B, D], blocks of 4096 a sample
  int grid;                      // thread blocks a sample
  const T *x, *v, *next;
  float* log_prob = nullptr;
  T *to_next = nullptr, *mean = nullptr;  // step
  // loss
  double low, high, slope, kl_scale, kl_beta;  // slope = d log_prob / d mean * cv / residual
  const T* v_ref = nullptr;
  const float *old_log_prob = nullptr, *advantage = nullptr;
  float *loss = nullptr, *ratio = nullptr, *kl = nullptr;
  T* dv = nullptr;
  double* partial = nullptr;  // [2, B, blocks]: squares, distances; null with one thread block
};

// Explicit operations: a compiler that fuses here and not there would change bits.
template <class T>
__device__ __forceinline__ float mean_at(const FlowArgs<T>& a, float x, float v) {
  return __fmaf_rn(a.cv, v, __fmul_rn(a.cx, x));
}

__device__ __forceinline__ void add_squares(float& sum, const float (&a)[kLane],
                                            const float (&b)[kLane]) {
#pragma unroll
  for (int k = 0; k < kLane; ++k) {
    const float d = __fsub_rn(a[k], b[k]);
    sum = __fmaf_rn(d, d, sum);
  }
}

// next = mean + std z from the key's block i / 4, as it will be read again; 0 beyond the sample.
template <class T>
__device__ __forceinline__ void draw_next(const FlowArgs<T>& a, uint64_t key, int64_t i,
                                          const float (&mean)[kLane], float (&next)[kLane]) {
  Draws z{};
  if (a.log_scale != 0 && i < a.size) z = draw_normal(key, static_cast<uint64_t>(i) / 4);
#pragma unroll
  for (int k = 0; k < kLane; ++k) {
    const float value = a.log_scale != 0 ? __fmaf_rn(a.std, z.v[k], mean[k]) : mean[k];
    next[k] = i + k < a.size ? to_f32(from_f32<T>(value)) : 0.0f;
  }
}

// Pack p of this lane in segment s of the sample.
__device__ __forceinline__ int64_t place_of(int64_t segment, int p) {
  return segment * kSegment + (p * kWarp + static_cast<int>(threadIdx.x) % kWarp) * kLane;
}

// What one lane reads of a pack.
template <class T>
struct FlowPack {
  Pack<T, kLane> x, v, next, v_ref;
};
template <bool Packed, class T>
__device__ __forceinline__ FlowPack<T> load_flow(const FlowArgs<T>& a, int64_t row, int64_t i,
                                                 bool next, bool v_ref) {
  FlowPack<T> p{};
  p.x = load_some<Packed, kLane>(a.x + row, i, a.size);
  p.v = load_some<Packed, kLane>(a.v + row, i, a.size);
  if (next) p.next = load_some<Packed, kLane>(a.next + row, i, a.size);
  if (v_ref) p.v_ref = load_some<Packed, kLane>(a.v_ref + row, i, a.size);
  return p;
}

// use(pack, place) for this lane's packs of a segment; two are on their way at a time.
template <bool Packed, class T, class Use>
__device__ __forceinline__ void for_flow_packs(const FlowArgs<T>& a, int64_t row, int64_t segment,
                                               bool next, bool v_ref, Use use) {
  constexpr int kBatch = Packed ? 2 : 1;
#pragma unroll
  for (int p = 0; p < kPacks; p += kBatch) {
    FlowPack<T> loaded[kBatch];
#pragma unroll
    for (int u = 0; u < kBatch; ++u)
      loaded[u] = load_flow<Packed>(a, row, place_of(segment, p + u), next, v_ref);
#pragma unroll
    for (int u = 0; u < kBatch; ++u) use(loaded[u], place_of(segment, p + u));
  }
}

// This lane's squares of next - mean in a segment, and of v - v_ref. A step writes next first.
template <Flow kind, bool Packed, class T>
__device__ __forceinline__ void add_segment(const FlowArgs<T>& a, uint64_t key, int64_t b,
                                            int64_t segment, float& squares, float& distance) {
  const int64_t row = b * a.size;
  const bool with_ref = kind == Flow::loss && a.v_ref;
  const auto use = [&](const FlowPack<T>& p, int64_t i) {
    float x[kLane], v[kLane], mean[kLane], next[kLane], ref[kLane];
    unpack(x, p.x);
    unpack(v, p.v);
#pragma unroll
    for (int k = 0; k < kLane; ++k) mean[k] = mean_at(a, x[k], v[k]);
    if constexpr (kind == Flow::step) {
      draw_next(a, key, i, mean, next);
      store_row<Packed>(a.to_next + row, i, a.size, next);
      if (a.mean) store_row<Packed>(a.mean + row, i, a.size, mean);
    } else {
      unpack(next, p.next);
    }
    add_squares(squares, next, mean);
    unpack(ref, p.v_ref);
    if (with_ref) add_squares(distance, v, ref);
  };
  for_flow_packs<Packed>(a, row, segment, kind != Flow::step, with_ref, use);
}

// One warp adds the blocks of a sample.
__device__ __forceinline__ double sum_blocks(const double* partial, int64_t blocks) {
  double sum = 0;
  for (int64_t i = threadIdx.x % kWarp; i < blocks; i += kWarp) sum += partial[i];
  return warp_sum(sum);
}

template <class T>
__device__ __forceinline__ float log_prob_of(const FlowArgs<T>& a, double squares) {
  if (a.log_scale == 0) return 0;
  return static_cast<float>(fma(a.log_scale, squares / static_cast<double>(a.size), a.log_offset));
}

// dv = policy (next - mean) + kl (v - v_ref)
struct Factors {
  float policy, kl;
};

template <class T>
__device__ Factors sample_loss(const FlowArgs<T>& a, int64_t b, bool write, double squares,
                               double distance) {
  // Both log-probabilities are rounded to f32: equal bits give a ratio of exactly 1.
  const double r = exp(static_cast<double>(log_prob_of(a, squares)) - a.old_log_prob[b]);
  const double advantage = a.advantage[b];
  const double clipped = r < a.low ? a.low : (r > a.high ? a.high : r);  // NaN stays
  const double plain = -advantage * r, limited = -advantage * clipped;
  const double policy = plain < limited ? limited : plain;
  const bool is_clipped = (advantage > 0 && r > a.high) || (advantage < 0 && r < a.low);
  const double kl_scale = distance == 0 ? 0 : a.kl_scale;  // infinite without noise
  const double kl = 0.5 * kl_scale * distance;
  if (write) {
    a.ratio[b] = static_cast<float>(r);
    a.kl[b] = static_cast<float>(kl);
    a.loss[b] = static_cast<float>(policy + a.kl_beta * kl);
  }
  return {is_clipped ? 0.0f : static_cast<float>(plain * a.slope),
          static_cast<float>(a.kl_beta * kl_scale)};
}

template <bool Packed, class T>
__device__ __forceinline__ void write_gradient(const FlowArgs<T>& a, int64_t b, int64_t segment,
                                               Factors factors) {
  const int64_t row = b * a.size;
  const bool with_ref = a.v_ref && a.kl_beta != 0;
  const auto use = [&](const FlowPack<T>& p, int64_t i) {
    float x[kLane], v[kLane], next[kLane], ref[kLane], g[kLane];
    unpack(x, p.x);
    unpack(v, p.v);
    unpack(next, p.next);
    unpack(ref, p.v_ref);
#pragma unroll
    for (int k = 0; k < kLane; ++k) {
      g[k] = factors.policy * (next[k] - mean_at(a, x[k], v[k]));
      if (with_ref) g[k] = fmaf(factors.kl, v[k] - ref[k], g[k]);
    }
    store_row<Packed>(a.dv + row, i, a.size, g);
  };
  for_flow_packs<Packed>(a, row, segment, true, with_ref, use);
}

}  // namespace parlo::cuda
