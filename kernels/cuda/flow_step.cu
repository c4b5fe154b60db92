// The flow step (kernels/flow_step.h) on a GPU: noise, step, log-probability, KL, clipped loss and
// its gradient. Floor: bytes of x, v, next (v_ref, dv) once; latents are small, so what counts is
// launches: one up to D = 16384, two beyond.
#include "kernels/flow_step.h"

#include <numbers>

#include "kernels/cuda/flow_step.cuh"

namespace parlo::cuda {
namespace {

constexpr int kKeys = 64;  // that travel as a kernel's argument
struct Keys {
  uint64_t bits[kKeys];
};
struct NoKeys {};

// What follows once the sums of sample b over its blocks are known. All threads call it.
template <Flow kind, bool Packed, class T>
__device__ __forceinline__ void finish(const FlowArgs<T>& a, int64_t b, int64_t block,
                                       const double* squares, const double* distance) {
  const int warp = threadIdx.x / kWarp;
  SMEM(float, factors, [2]);
  if (warp == 0) {
    const double s = sum_blocks(squares, a.blocks);
    if constexpr (kind == Flow::loss) {
      const double d = sum_blocks(distance, a.blocks);
      if (threadIdx.x == 0) {
        const Factors f = sample_loss(a, b, block == 0, s, d);
        factors[0] = f.policy, factors[1] = f.kl;
      }
    } else if (threadIdx.x == 0) {
      a.log_prob[b] = log_prob_of(a, s);
    }
  }
  if constexpr (kind == Flow::loss) {
    if (!a.dv) return;
    __syncthreads();
    write_gradient<Packed>(a, b, block * (blockDim.x / kWarp) + warp, {factors[0], factors[1]});
  }
}

// The sums of one to four blocks of 4096, and of a sample that has no more than that all the rest.
template <Flow kind, bool Packed, class T, class K>
__global__ void __launch_bounds__(kMostThreads) flow_kernel(FlowArgs<T> a, K keys) {
  const int64_t b = blockIdx.x / a.grid, block = blockIdx.x % a.grid;
  const int warp = threadIdx.x / kWarp, blocks = blockDim.x / kBlockThreads;
  float sums[2] = {};
  uint64_t key = 0;
  if constexpr (kind == Flow::step) key = keys.bits[b];
  add_segment<kind, Packed>(a, key, b, block * (blockDim.x / kWarp) + warp, sums[0], sums[1]);
  SMEM(float, segments, [2][kMostWarps]);
  SMEM(double, totals, [2][kMostBlocks]);
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    const float sum = warp_sum(sums[which]);
    if (threadIdx.x % kWarp == 0) segments[which][warp] = sum;
  }
  __syncthreads();
  const int which = threadIdx.x / blocks, mine = threadIdx.x % blocks;
  if (which < 2) {
    double sum = 0;
#pragma unroll
    for (int w = 0; w < kBlockWarps; ++w) sum += segments[which][mine * kBlockWarps + w];
    totals[which][mine] = sum;
    if (a.partial) a.partial[(which * a.batch + b) * a.blocks + block] = sum;
  }
  __syncthreads();
  if (!a.partial) finish<kind, Packed>(a, b, block, totals[0], totals[1]);
}

template <Flow kind, bool Packed, class T>
__global__ void __launch_bounds__(kBlockThreads) flow_finish_kernel(FlowArgs<T> a) {
  const int64_t b = blockIdx.x / a.grid, block = blockIdx.x % a.grid;
  finish<kind, Packed>(a, b, block, a.partial + b * a.blocks, a.partial + (a.batch + b) * a.blocks);
}

template <class T>
FlowArgs<T> common_args(const FlowCoefficients& c, const FlowShape& s, const Tensor& x,
                        const Tensor& v, const Tensor& next) {
  FlowArgs<T> a{};
  a.cx = static_cast<float>(c.cx), a.cv = static_cast<float>(c.cv);
  a.std = static_cast<float>(c.std);
  if (c.noise == FlowNoise::cps) {
    a.log_scale = -1;
  } else if (c.noise != FlowNoise::ode) {
    a.log_scale = -1 / (2 * c.std * c.std);
    a.log_offset = -std::log(c.std) - 0.5 * std::log(2 * std::numbers::pi);
  }
  a.batch = s.batch, a.size = s.size, a.blocks = s.blocks;
  a.x = pointer<const T>(x), a.v = pointer<const T>(v), a.next = pointer<const T>(next);
  return a;
}

template <class T>
bool is_packed(const FlowArgs<T>& a) {
  return a.size % kLane == 0 && is_aligned(a.x) && is_aligned(a.v) && is_aligned(a.next) &&
         is_aligned(a.v_ref) && is_aligned(a.to_next) && is_aligned(a.mean) && is_aligned(a.dv);
}

template <Flow kind, class T, class K>
void run(const char* name, FlowArgs<T> a, const K& keys, Device device) {
  if (a.batch == 0) return;
  const bool one = a.blocks <= kMostBlocks;
  Tensor partial;
  if (!one) {
    partial = Tensor::empty(Shape{2, a.batch, a.blocks}, DType::f64, device);
    a.partial = partial.data<double>();
  }
  a.grid = one ? 1 : static_cast<int>(a.blocks);
  const auto grid = static_cast<unsigned>(a.batch * a.grid);
  const auto threads = static_cast<unsigned>(one ? a.blocks * kBlockThreads : kBlockThreads);
  with_packing(is_packed(a), [&](auto packed) {
    launch({name, grid, threads, device}, flow_kernel<kind, packed.value, T, K>, a, keys);
    if (one) return;
    if (kind != Flow::loss || !a.dv) a.grid = 1;
    launch({name, static_cast<unsigned>(a.batch * a.grid), kBlockThreads, device},
           flow_finish_kernel<kind, packed.value, T>, a);
  });
}

}  // namespace

void flow_step(const FlowCoefficients& c, const Tensor& x, const Tensor& v, const RandomKey* keys,
               const Tensor& next, const Tensor& log_prob, const Tensor& mean) {
  const FlowShape s = check_flow_step(c, x, v, keys, next, log_prob, mean, DType::f32);
  check_same_device("flow_step", x, v, next, log_prob, mean);
  visit_dtype_gpu(x.dtype(), "flow_step", [&](auto type) {
    using T = decltype(type);
    FlowArgs<T> a = common_args<T>(c, s, x, v, next);
    const auto advanced = [](auto* p, int64_t by) { return p ? p + by : p; };
    for (int64_t first = 0; first < s.batch; first += kKeys) {
      a.batch = std::min<int64_t>(kKeys, s.batch - first);
      const int64_t at = first * s.size;
      a.x = pointer<const T>(x) + at, a.v = pointer<const T>(v) + at;
      a.to_next = pointer<T>(next) + at, a.mean = advanced(pointer<T>(mean), at);
      a.log_prob = pointer<float>(log_prob) + first;
      Keys some{};
      for (int64_t b = 0; keys && b < a.batch; ++b) some.bits[b] = keys[first + b].bits();
      run<Flow::step>("flow_step", a, some, x.device());
    }
  });
}

void flow_log_prob(const FlowCoefficients& c, const Tensor& x, const Tensor& v, const Tensor& next,
                   const Tensor& log_prob) {
  const FlowShape s = check_flow_log_prob(x, v, next, log_prob, DType::f32);
  check_same_device("flow_log_prob", x, v, next, log_prob);
  visit_dtype_gpu(x.dtype(), "flow_log_prob", [&](auto type) {
    using T = decltype(type);
    FlowArgs<T> a = common_args<T>(c, s, x, v, next);
    a.log_prob = pointer<float>(log_prob);
    run<Flow::log_prob>("flow_log_prob", a, NoKeys{}, x.device());
  });
}

void flow_loss(const FlowCoefficients& c, const Tensor& x, const Tensor& v, const Tensor& next,
               const Tensor& old_log_prob, const Tensor& advantage, const Tensor& v_ref,
               const FlowLossArgs& args, const Tensor& loss, const Tensor& ratio, const Tensor& kl,
               const Tensor& dv) {
  const FlowShape s = check_flow_loss(c, x, v, next, old_log_prob, advantage, v_ref, args, loss,
                                      ratio, kl, dv, DType::f32);
  check_same_device("flow_loss", x, v, next, old_log_prob, advantage, v_ref, loss, ratio, kl, dv);
  visit_dtype_gpu(x.dtype(), "flow_loss", [&](auto type) {
    using T = decltype(type);
    FlowArgs<T> a = common_args<T>(c, s, x, v, next);
    const double D = static_cast<double>(s.size), std = args.exact_kl ? c.std : c.kl_std;
    // d log_prob / d mean is residual / (D n^2), for cps 2 residual / D.
    a.slope = (c.noise == FlowNoise::cps ? 2 / D : 1 / (D * c.std * c.std)) * c.cv;
    a.kl_scale = c.cv * c.cv / (D * std * std);
    a.low = 1 - args.clip_low, a.high = 1 + args.clip_high, a.kl_beta = args.kl_beta;
    a.v_ref = pointer<const T>(v_ref), a.dv = pointer<T>(dv);
    a.old_log_prob = pointer<const float>(old_log_prob);
    a.advantage = pointer<const float>(advantage);
    a.loss = pointer<float>(loss), a.ratio = pointer<float>(ratio), a.kl = pointer<float>(kl);
    run<Flow::loss>("flow_loss", a, NoKeys{}, x.device());
  });
}

}  // namespace parlo::cuda
