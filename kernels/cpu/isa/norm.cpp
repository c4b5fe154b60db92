#include "kernels/cpu/isa/norm_isa.h"

#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/regloop.h"

namespace parlo::cpu {
namespace {

// Picks the loop for a gain and an offset that are there or not.
template <class Fn>
inline void with_affine(const NormBlock<float>& b, Fn fn) {
  if (b.gain && b.offset)
    return fn([](Reg v, Reg gain, Reg offset) { return reg_fma(v, gain, offset); });
  if (b.gain) return fn([](Reg v, Reg gain, Reg) { return v * gain; });
  if (b.offset) return fn([](Reg v, Reg, Reg offset) { return v + offset; });
  fn([](Reg v, Reg, Reg) { return v; });
}

template <class Part>
inline Reg load_or_zero(const float* p, int64_t i, Part part) {
  return p ? part.load(p + i) : reg_zero();
}

// One register of rows at a time, and each pass over all of them before the next: the sum across
// the lanes of one row does not wait for that of another, roots and divisions cost as much as of
// one.
void layer_norm(const NormBlock<float>& b) {
  const int64_t C = b.columns;
  const Reg scale = reg_set(1.0f / static_cast<float>(C)), eps = reg_set(static_cast<float>(b.eps));
  with_affine(b, [&](auto affine) {
    for (int64_t first = 0; first < b.rows; first += kRegLanes) {
      const int64_t count = b.rows - first < kRegLanes ? b.rows - first : kRegLanes;
      float mean[kRegLanes] = {}, rstd[kRegLanes] = {};
      for (int64_t k = 0; k < count; ++k) {
        const float* x = b.x + (first + k) * C;
        mean[k] = sum_row(C, [x](Reg sum, int64_t i, auto part) { return sum + part.load(x + i); });
      }
      reg_store(mean, reg_load(mean) * scale);
      for (int64_t k = 0; k < count; ++k) {
        const float* x = b.x + (first + k) * C;
        const Reg m = reg_set(mean[k]);
        rstd[k] = sum_row(C, [x, m](Reg sum, int64_t i, auto part) {
          const Reg d = part.zero_rest(part.load(x + i) - m);
          return reg_fma(d, d, sum);
        });
      }
      reg_store(rstd, reg_set(1) / reg_sqrt(reg_fma(reg_load(rstd), scale, eps)));
      for (int64_t k = 0; k < count; ++k) {
        const float* x = b.x + (first + k) * C;
        float* y = b.y + (first + k) * C;
        b.mean[first + k] = mean[k], b.rstd[first + k] = rstd[k];
        const Reg m = reg_set(mean[k]), s = reg_set(rstd[k]);
        for_regs(C, [&](int64_t i, auto part) {
          const Reg xhat = (part.load(x + i) - m) * s;
          part.store(y + i,
                     affine(xhat, load_or_zero(b.gain, i, part), load_or_zero(b.offset, i, part)));
        });
      }
    }
  });
}

// With g = dy gain: dx = rstd (g - mean(g) - xhat mean(g xhat)).
template <bool kGain, bool kSums>
void layer_norm_backward_rows(const NormBlock<float>& b) {
  const int64_t C = b.columns;
  const float scale = 1.0f / static_cast<float>(C);
  for (int64_t r = 0; r < b.rows; ++r) {
    const float *x = b.x + r * C, *dy = b.dy + r * C;
    const Reg m = reg_set(b.mean[r]), s = reg_set(b.rstd[r]);
    Reg g_sum = reg_zero(), g_xhat_sum = reg_zero();
    for_regs(C, [&](int64_t i, auto part) {
      const Reg d = part.load(dy + i), xhat = (part.load(x + i) - m) * s;
      const Reg g = kGain ? d * part.load(b.gain + i) : d;
      g_sum = g_sum + g;
      g_xhat_sum = reg_fma(g, part.zero_rest(xhat), g_xhat_sum);
      if constexpr (kSums) {
        part.store(b.dy_xhat + i, reg_fma(d, xhat, part.load(b.dy_xhat + i)));
        part.store(b.dy_sum + i, part.load(b.dy_sum + i) + d);
      }
    });
    if (!b.dx) continue;
    float* dx = b.dx + r * C;
    const Reg constant = reg_set(-b.rstd[r] * (reg_sum(g_sum) * scale));
    const Reg slope = reg_set(-b.rstd[r] * (reg_sum(g_xhat_sum) * scale));
    for_regs(C, [&](int64_t i, auto part) {
      const Reg d = part.load(dy + i), xhat = (part.load(x + i) - m) * s;
      const Reg g = kGain ? d * part.load(b.gain + i) : d;
      part.store(dx + i, reg_fma(g, s, reg_fma(xhat, slope, constant)));
    });
  }
}

void layer_norm_backward(const NormBlock<float>& b) {
  const bool sums = b.dy_xhat != nullptr;
  if (b.gain)
    return sums ? layer_norm_backward_rows<true, true>(b)
                : layer_norm_backward_rows<true, false>(b);
  return sums ? layer_norm_backward_rows<false, true>(b)
              : layer_norm_backward_rows<false, false>(b);
}

// One register of rows at a time: the roots and divisions of all of them cost as much as of one.
template <bool kGain>
void rms_norm_rows(const NormBlock<float>& b) {
  const int64_t C = b.columns;
  const Reg scale = reg_set(1.0f / static_cast<float>(C)), eps = reg_set(static_cast<float>(b.eps));
  for (int64_t first = 0; first < b.rows; first += kRegLanes) {
    const int64_t count = b.rows - first < kRegLanes ? b.rows - first : kRegLanes;
    float lanes[kRegLanes] = {};
    for (int64_t k = 0; k < count; ++k) {
      const float* x = b.x + (first + k) * C;
      lanes[k] = sum_row(C, [x](Reg sum, int64_t i, auto part) {
        const Reg v = part.load(x + i);
        return reg_fma(v, v, sum);
      });
    }
    reg_store(lanes, reg_set(1) / reg_sqrt(reg_fma(reg_load(lanes), scale, eps)));
    for (int64_t k = 0; k < count; ++k) {
      const float* x = b.x + (first + k) * C;
      float* y = b.y + (first + k) * C;
      b.rstd[first + k] = lanes[k];
      const Reg s = reg_set(lanes[k]);
      for_regs(C, [&](int64_t i, auto part) {
        const Reg v = part.load(x + i) * s;
        part.store(y + i, kGain ? v * part.load(b.gain + i) : v);
      });
    }
  }
}

void rms_norm(const NormBlock<float>& b) {
  b.gain ? rms_norm_rows<true>(b) : rms_norm_rows<false>(b);
}

// With g = dy gain: dx = rstd (g - xhat mean(g xhat)).
template <bool kGain, bool kSums>
void rms_norm_backward_rows(const NormBlock<float>& b) {
  const int64_t C = b.columns;
  const float scale = 1.0f / static_cast<float>(C);
  for (int64_t r = 0; r < b.rows; ++r) {
    const float *x = b.x + r * C, *dy = b.dy + r * C;
    const float rstd = b.rstd[r];
    const Reg s = reg_set(rstd);
    Reg g_x_sum = reg_zero();
    for_regs(C, [&](int64_t i, auto part) {
      const Reg d = part.load(dy + i), xhat = part.load(x + i) * s;
      const Reg g = kGain ? d * part.load(b.gain + i) : d;
      g_x_sum = reg_fma(g, xhat, g_x_sum);
      if constexpr (kSums) part.store(b.dy_xhat + i, reg_fma(d, xhat, part.load(b.dy_xhat + i)));
    });
    if (!b.dx) continue;
    float* dx = b.dx + r * C;
    const Reg slope = reg_set(-rstd * rstd * (reg_sum(g_x_sum) * scale));
    for_regs(C, [&](int64_t i, auto part) {
      const Reg d = part.load(dy + i);
      const Reg g = kGain ? d * part.load(b.gain + i) : d;
      part.store(dx + i, reg_fma(g, s, part.load(x + i) * slope));
    });
  }
}

void rms_norm_backward(const NormBlock<float>& b) {
  const bool sums = b.dy_xhat != nullptr;
  if (b.gain)
    return sums ? rms_norm_backward_rows<true, true>(b) : rms_norm_backward_rows<true, false>(b);
  return sums ? rms_norm_backward_rows<false, true>(b) : rms_norm_backward_rows<false, false>(b);
}

}  // namespace

extern const NormIsa PARLO_ISA_NAME(norm);
const NormIsa PARLO_ISA_NAME(norm) = {layer_norm, layer_norm_backward, rms_norm, rms_norm_backward};

}  // namespace parlo::cpu
