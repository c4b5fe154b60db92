// The flow step. A sample's D elements are cut into blocks that depend on D alone; per block the
// residual next - mean is recomputed from the stored next by one function, in the rollout, for the
// log-probability and in the loss, so equal inputs give equal bits everywhere.
#include "kernels/flow_step.h"

#include <cmath>
#include <numbers>
#include <vector>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/isa/flow_step_isa.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/random_fill.h"
#include "kernels/flow_checks.h"
#include "tensor/parallel.h"

namespace parlo {

FlowCoefficients flow_coefficients(FlowNoise noise, double s, double s_next, double a,
                                   double s_cap) {
  // A schedule's first sigma is 1 up to rounding (FLUX: e^mu / (e^mu + 1/s - 1)).
  const bool start = std::abs(s - 1) < 1e-6;
  if (start) s = 1;
  CHECK(s > 0 && s <= 1 && s_next >= 0 && s_next < s, "flow_coefficients: expected 1 >= s > s_next",
        " >= 0, got s ", s, " and s_next ", s_next);
  CHECK(a >= 0, "flow_coefficients: noise level must not be negative, got ", a);
  FlowCoefficients c;
  c.noise = a == 0 ? FlowNoise::ode : noise;
  c.dt = s_next - s;
  c.cv = c.dt;
  if (c.noise == FlowNoise::ode) return c;
  if (c.noise == FlowNoise::cps) {
    CHECK(a <= 1, "flow_coefficients: cps needs a noise level of at most 1, got ", a);
    c.std = c.kl_std = s_next * std::sin(a * std::numbers::pi / 2);
    const double keep = s_next * std::cos(a * std::numbers::pi / 2);  // sqrt(s_next^2 - std^2)
    c.cx = (1 - s_next) + keep;
    c.cv = -(1 - s_next) * s + keep * (1 - s);
    return c;
  }
  if (c.noise == FlowNoise::sde) {
    const double capped = start ? s_cap : s;
    CHECK(capped > 0 && capped < 1, "flow_coefficients: s_cap must lie in (0, 1), got ", s_cap);
    c.kl_std = a * std::sqrt(s / (1 - capped));
  } else {
    c.kl_std = a;
  }
  const double variance = c.kl_std * c.kl_std;
  c.cx = 1 + variance * c.dt / (2 * s);
  c.cv = (1 + variance * (1 - s) / (2 * s)) * c.dt;
  c.std = c.kl_std * std::sqrt(-c.dt);
  return c;
}

namespace cpu {
namespace {

// The f64 loops; f32 goes to isa/flow_step.cpp, which does the same.
double mean_at(const FlowBlock<double>& b, int64_t i) {
  return std::fma(b.cv, b.v[i], b.cx * b.x[i]);
}

struct Flow64 {
  static void mean(const FlowBlock<double>& b, double* mean) {
    for (int64_t i = 0; i < b.n; ++i) mean[i] = mean_at(b, i);
  }
  static void noise(const FlowBlock<double>& b, double std, const float* z, double* next) {
    for (int64_t i = 0; i < b.n; ++i) next[i] = std::fma(std, double{z[i]}, mean_at(b, i));
  }
  static double residual(const FlowBlock<double>& b, const double* next) {
    double sum = 0;
    for (int64_t i = 0; i < b.n; ++i) sum += std::pow(next[i] - mean_at(b, i), 2);
    return sum;
  }
  static double distance(const double* a, const double* b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += std::pow(a[i] - b[i], 2);
    return sum;
  }
  static void gradient(const FlowBlock<double>& b, const double* next, const double* v_ref,
                       double policy, double kl, double* dv) {
    for (int64_t i = 0; i < b.n; ++i) {
      const double g = policy * (next[i] - mean_at(b, i));
      dv[i] = v_ref ? std::fma(kl, b.v[i] - v_ref[i], g) : g;
    }
  }
};

template <class T>
auto loops() {
  if constexpr (std::is_same_v<T, float>) {
    return PARLO_ISA_TABLE(flow_step);
  } else {
    return Flow64{};
  }
}

// Calls body(b, block index, offset) for every block of every sample, in parallel.
template <class T, class Body>
void for_blocks(const FlowCoefficients& c, const FlowShape& s, const Tensor& x, const Tensor& v,
                Body&& body) {
  const T cx = static_cast<T>(c.cx), cv = static_cast<T>(c.cv);
  parallel_for(
      s.batch * s.blocks, row_grain(std::min(s.size, kFlowBlock)), [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) {
          const int64_t first = k % s.blocks * kFlowBlock;
          const int64_t offset = k / s.blocks * s.size + first;
          const int64_t n = std::min(kFlowBlock, s.size - first);
          body(FlowBlock<T>{cx, cv, x.data<T>() + offset, v.data<T>() + offset, n}, k, offset);
        }
      });
}

double sum_blocks(const std::vector<double>& partial, int64_t sample, int64_t blocks) {
  double sum = 0;
  for (int64_t k = 0; k < blocks; ++k) sum += partial[static_cast<size_t>(sample * blocks + k)];
  return sum;
}

double log_prob_of(const FlowCoefficients& c, double squares, int64_t size) {
  const double mean = squares / static_cast<double>(size);
  if (c.noise == FlowNoise::ode) return 0;
  if (c.noise == FlowNoise::cps) return -mean;
  return -mean / (2 * c.std * c.std) - std::log(c.std) - 0.5 * std::log(2 * std::numbers::pi);
}

template <class T>
void write_log_probs(const FlowCoefficients& c, const FlowShape& s,
                     const std::vector<double>& partial, T* log_prob) {
  for (int64_t b = 0; b < s.batch; ++b)
    log_prob[b] = static_cast<T>(log_prob_of(c, sum_blocks(partial, b, s.blocks), s.size));
}

}  // namespace

void flow_step(const FlowCoefficients& c, const Tensor& x, const Tensor& v, const RandomKey* keys,
               const Tensor& next, const Tensor& log_prob, const Tensor& mean) {
  const FlowShape s = check_flow_step(c, x, v, keys, next, log_prob, mean, x.dtype());
  const bool noisy = c.noise != FlowNoise::ode;
  visit_float(x.dtype(), "flow_step", [&](auto type) {
    using T = decltype(type);
    const auto loop = loops<T>();
    std::vector<double> partial(static_cast<size_t>(s.batch * s.blocks));
    for_blocks<T>(c, s, x, v, [&](const FlowBlock<T>& b, int64_t k, int64_t offset) {
      T* to = next.data<T>() + offset;
      if (mean) loop.mean(b, mean.data<T>() + offset);
      if (!noisy) return loop.mean(b, to);
      float z[kFlowBlock];
      fill_normal(keys[k / s.blocks], offset - k / s.blocks * s.size, z, b.n);
      loop.noise(b, static_cast<T>(c.std), z, to);
      partial[static_cast<size_t>(k)] = loop.residual(b, to);
    });
    write_log_probs(c, s, partial, log_prob.data<T>());
  });
}

void flow_log_prob(const FlowCoefficients& c, const Tensor& x, const Tensor& v, const Tensor& next,
                   const Tensor& log_prob) {
  const FlowShape s = check_flow_log_prob(x, v, next, log_prob, x.dtype());
  visit_float(x.dtype(), "flow_log_prob", [&](auto type) {
    using T = decltype(type);
    const auto loop = loops<T>();
    std::vector<double> partial(static_cast<size_t>(s.batch * s.blocks));
    for_blocks<T>(c, s, x, v, [&](const FlowBlock<T>& b, int64_t k, int64_t offset) {
      partial[static_cast<size_t>(k)] = loop.residual(b, next.data<T>() + offset);
    });
    write_log_probs(c, s, partial, log_prob.data<T>());
  });
}

namespace {

// Loss of one sample and the factors of its gradient.
struct SampleLoss {
  double ratio, kl, loss;
  double policy_factor, kl_factor;  // dv = policy (next - mean) + kl (v - v_ref)
};

SampleLoss sample_loss(const FlowCoefficients& c, const FlowLossArgs& args, double log_ratio,
                       double advantage, double distance, int64_t size) {
  SampleLoss out{};
  const double D = static_cast<double>(size), low = 1 - args.clip_low, high = 1 + args.clip_high;
  const double r = out.ratio = std::exp(log_ratio);
  const double clipped = r < low ? low : (r > high ? high : r);  // NaN stays
  const double plain = -advantage * r, limited = -advantage * clipped;
  const double policy = plain < limited ? limited : plain;
  const bool is_clipped = (advantage > 0 && r > high) || (advantage < 0 && r < low);
  // d log_prob / d mean is residual / (D n^2), for cps 2 residual / D.
  const double slope = c.noise == FlowNoise::cps ? 2 / D : 1 / (D * c.std * c.std);
  out.policy_factor = is_clipped ? 0 : plain * slope * c.cv;
  const double std = args.exact_kl ? c.std : c.kl_std;
  const double kl_scale = distance == 0 && std == 0 ? 0 : c.cv * c.cv / (D * std * std);
  out.kl = 0.5 * kl_scale * distance;
  out.kl_factor = args.kl_beta * kl_scale;
  out.loss = policy + args.kl_beta * out.kl;
  return out;
}

}  // namespace

void flow_loss(const FlowCoefficients& c, const Tensor& x, const Tensor& v, const Tensor& next,
               const Tensor& old_log_prob, const Tensor& advantage, const Tensor& v_ref,
               const FlowLossArgs& args, const Tensor& loss, const Tensor& ratio, const Tensor& kl,
               const Tensor& dv) {
  const FlowShape s = check_flow_loss(c, x, v, next, old_log_prob, advantage, v_ref, args, loss,
                                      ratio, kl, dv, x.dtype());
  visit_float(x.dtype(), "flow_loss", [&](auto type) {
    using T = decltype(type);
    const auto loop = loops<T>();
    const T* reference = data_or_null<T>(v_ref);
    std::vector<double> partial(static_cast<size_t>(s.batch * s.blocks)), distance(partial.size());
    for_blocks<T>(c, s, x, v, [&](const FlowBlock<T>& b, int64_t k, int64_t offset) {
      partial[static_cast<size_t>(k)] = loop.residual(b, next.data<T>() + offset);
      if (reference) distance[static_cast<size_t>(k)] = loop.distance(b.v, reference + offset, b.n);
    });
    std::vector<T> log_prob(static_cast<size_t>(s.batch));
    write_log_probs(c, s, partial, log_prob.data());
    std::vector<SampleLoss> samples(static_cast<size_t>(s.batch));
    for (int64_t b = 0; b < s.batch; ++b) {
      // Both log-probabilities are rounded to the dtype: equal bits give a ratio of exactly 1.
      const double log_ratio = double{log_prob[static_cast<size_t>(b)]} - old_log_prob.data<T>()[b];
      const SampleLoss sample = sample_loss(c, args, log_ratio, advantage.data<T>()[b],
                                            sum_blocks(distance, b, s.blocks), s.size);
      samples[static_cast<size_t>(b)] = sample;
      loss.data<T>()[b] = static_cast<T>(sample.loss);
      ratio.data<T>()[b] = static_cast<T>(sample.ratio);
      kl.data<T>()[b] = static_cast<T>(sample.kl);
    }
    if (!dv) return;
    for_blocks<T>(c, s, x, v, [&](const FlowBlock<T>& b, int64_t k, int64_t offset) {
      const SampleLoss& sample = samples[static_cast<size_t>(k / s.blocks)];
      const bool use_kl = reference && args.kl_beta != 0;
      loop.gradient(b, next.data<T>() + offset, use_kl ? reference + offset : nullptr,
                    static_cast<T>(sample.policy_factor), static_cast<T>(sample.kl_factor),
                    dv.data<T>() + offset);
    });
  });
}

}  // namespace cpu
}  // namespace parlo
