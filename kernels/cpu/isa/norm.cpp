#include "kernels/cpu/isa/norm_isa.h"

#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/regloop.h"

namespace parlo::cpu {
namespace {

// Picks the loop for a gain and an offset that are there or not: affine(xhat, i, part). The
// pointers are copies, which no store to the output can change.
template <class Fn>
inline void with_affine(const NormBlock<float>& b, Fn fn) {
  const float *gain = b.gain, *offset = b.offset;
  if (gain && offset)
    return fn([=](Reg v, int64_t i, auto part) {
      return reg_fma(v, part.load(gain + i), part.load(offset + i));
    });
  if (gain) return fn([=](Reg v, int64_t i, auto part) { return v * part.load(gain + i); });
  if (offset) return fn([=](Reg v, int64_t i, auto part) { return v + part.load(offset + i); });
  fn([](Reg v, int64_t, auto) { return v; });
}

// The sums of one register of rows: term_of(k) is what row k adds, term(sum, x at i, part).
template <class TermOf>
inline Reg sum_rows(const float* x, int64_t count, int64_t columns, TermOf term_of) {
  Reg lanes[kRegLanes];
  for (int64_t k = count; k < kRegLanes; ++k) lanes[k] = reg_zero();
  for (int64_t k = 0; k < count; ++k) {
    const float* row = x + k * columns;
    const auto term = term_of(k);
    lanes[k] = sum_row_lanes(
        columns, [row, term](Reg sum, int64_t i, auto part) { return term(sum, row + i, part); });
  }
  return sum_lanes(lanes);
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
      const float* x = b.x + first * C;
      float mean[kRegLanes], rstd[kRegLanes];
      reg_store(mean, scale * sum_rows(x, count, C, [](int64_t) {
                        return
                            [](Reg sum, const float* at, auto part) { return sum + part.load(at); };
                      }));
      const Reg squares = sum_rows(x, count, C, [&mean](int64_t k) {
        return [m = reg_set(mean[k])](Reg sum, const float* at, auto part) {
          const Reg d = part.zero_rest(part.load(at) - m);
          return reg_fma(d, d, sum);
        };
      });
      reg_store(rstd, reg_set(1) / reg_sqrt(reg_fma(squares, scale, eps)));
      reg_store_part(b.mean + first, reg_load(mean), count);
      reg_store_part(b.rstd + first, reg_load(rstd), count);
      float* to = b.y + first * C;
      for (int64_t k = 0; k < count; ++k) {
        const float* row = x + k * C;
        float* y = to + k * C;
        const Reg m = reg_set(mean[k]), s = reg_set(rstd[k]);
        for_regs(C, [&](int64_t i, auto part) {
          const Reg xhat = (part.load(row + i) - m) * s;
          part.store(y + i, affine(xhat, i, part));
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

// One register of rows at a time, as layer_norm.
template <bool kGain>
void rms_norm_rows(const NormBlock<float>& b) {
  const int64_t C = b.columns;
  const Reg scale = reg_set(1.0f / static_cast<float>(C)), eps = reg_set(static_cast<float>(b.eps));
  for (int64_t first = 0; first < b.rows; first += kRegLanes) {
    const int64_t count = b.rows - first < kRegLanes ? b.rows - first : kRegLanes;
    const float *x = b.x + first * C, *gain = b.gain;
    float rstd[kRegLanes];
    const Reg squares = sum_rows(x, count, C, [](int64_t) {
      return [](Reg sum, const float* at, auto part) {
        const Reg v = part.load(at);
        return reg_fma(v, v, sum);
      };
    });
    reg_store(rstd, reg_set(1) / reg_sqrt(reg_fma(squares, scale, eps)));
    reg_store_part(b.rstd + first, reg_load(rstd), count);
    float* to = b.y + first * C;
    for (int64_t k = 0; k < count; ++k) {
      const float* row = x + k * C;
      float* y = to + k * C;
      const Reg s = reg_set(rstd[k]);
      for_regs(C, [&](int64_t i, auto part) {
        const Reg v = part.load(row + i) * s;
        part.store(y + i, kGain ? v * part.load(gain + i) : v);
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
