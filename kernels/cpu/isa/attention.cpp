#include "kernels/cpu/isa/attention_isa.h"

#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/regmath.h"

namespace parlo::cpu {
namespace {

constexpr float kLn2 = 0.693147181f, kLog2e = 1.44269504f;
constexpr float kNone = -__builtin_inff();

inline int64_t visible_keys(const AttentionTile& t, int64_t i) {
  const int64_t n = t.first_keys + i * t.step;
  return n < 0 ? 0 : n > t.cols ? t.cols : n;
}

// Calls fn(j, lanes) for the registers of [0, n).
template <class Fn>
inline void over_registers(int64_t n, Fn fn) {
  int64_t j = 0;
  for (; j + kRegLanes <= n; j += kRegLanes) fn(j, int64_t{kRegLanes});
  if (j < n) fn(j, n - j);
}

inline void clear(float* p, int64_t from, int64_t to) {
  for (int64_t j = from; j < to; ++j) p[j] = 0;
}

inline void scale_row(float* p, int64_t n, float factor) {
  const Reg f = reg_set(factor);
  over_registers(n, [&](int64_t j, int64_t lanes) {
    reg_store_upto(p + j, reg_load_upto(p + j, lanes) * f, lanes);
  });
}

inline float row_top2(const float* s, int64_t n, Reg scale2) {
  Reg top = reg_set(kNone);
  int64_t j = 0;
  for (; j + kRegLanes <= n; j += kRegLanes) top = reg_max(reg_load(s + j) * scale2, top);
  if (j < n) {
    const Reg rest = reg_load_part(s + j, n - j) * scale2;
    float lanes[kRegLanes];
    reg_store(lanes, rest);
    top = reg_max(reg_load_part_or(lanes, n - j, reg_set(kNone)), top);
  }
  return reg_max_lane(top);
}

inline float exponentials(float* s, int64_t n, Reg scale2, Reg minus_top) {
  Reg sum = reg_zero();
  int64_t j = 0;
  for (; j + kRegLanes <= n; j += kRegLanes) {
    const Reg p = reg_exp2(reg_fma(reg_load(s + j), scale2, minus_top));
    reg_store(s + j, p);
    sum = sum + p;
  }
  if (j < n) {
    const Reg p = reg_exp2(reg_fma(reg_load_part(s + j, n - j), scale2, minus_top));
    reg_store_part(s + j, p, n - j);
    float lanes[kRegLanes];
    reg_store(lanes, p);
    sum = sum + reg_load_part(lanes, n - j);
  }
  return reg_sum(sum);
}

// One register of rows at a time, and each pass over all of them before the next: what is done
// across the lanes of one row does not wait for that of another.
void softmax_step(const SoftmaxStep& g) {
  const AttentionTile& t = g.tile;
  const Reg scale2 = reg_set(t.scale2), none = reg_set(kNone);
  for (int64_t first = 0; first < t.rows; first += kRegLanes) {
    const int64_t count = t.rows - first < kRegLanes ? t.rows - first : kRegLanes;
    float before[kRegLanes], top[kRegLanes] = {}, sum[kRegLanes] = {}, factor[kRegLanes];
    for (int64_t k = 0; k < count; ++k) {
      float* s = t.s + (first + k) * t.row;
      const int64_t n = visible_keys(t, first + k);
      clear(s, n, t.cols);
      top[k] = row_top2(s, n, scale2);
    }
    const Reg old = reg_load_upto(g.top2 + first, count), above = reg_max(reg_load(top), old);
    // 0 before the first key, 1 where the maximum stays.
    const Reg fall = reg_if_less(none, old, reg_exp2(old - above), reg_zero());
    reg_store(before, old), reg_store(top, above), reg_store(factor, fall);
    reg_store_upto(g.top2 + first, above, count);
    for (int64_t k = 0; k < count; ++k) {
      float* s = t.s + (first + k) * t.row;
      sum[k] = exponentials(s, visible_keys(t, first + k), scale2, reg_set(-top[k]));
      if (before[k] != kNone && factor[k] != 1) {
        scale_row(g.out + (first + k) * g.out_row, g.d, factor[k]);
      }
    }
    const Reg total = reg_load_upto(g.sum + first, count);
    reg_store_upto(g.sum + first, reg_fma(total, fall, reg_load(sum)), count);
  }
}

void softmax_end(const SoftmaxEnd& g) {
  for (int64_t i = 0; i < g.rows; ++i) {
    float* out = g.out + i * g.out_row;
    if (g.top2[i] == kNone && g.sum[i] == 0) {
      clear(out, 0, g.d);
    } else {
      scale_row(out, g.d, 1 / g.sum[i]);
    }
  }
  // Without keys: -infinity + log 0.
  over_registers(g.rows, [&](int64_t i, int64_t lanes) {
    const Reg log_sum = reg_log(reg_load_upto(g.sum + i, lanes));
    const Reg top2 = reg_load_upto(g.top2 + i, lanes);
    reg_store_upto(g.lse + i, reg_fma(top2, reg_set(kLn2), log_sum), lanes);
  });
}

void softmax_backward(const SoftmaxBackward& g) {
  const AttentionTile& t = g.tile;
  const Reg scale = reg_set(t.scale), scale2 = reg_set(t.scale2);
  for (int64_t i = 0; i < t.rows; ++i) {
    float *s = t.s + i * t.row, *dp = g.dp + i * t.row;
    const int64_t n = visible_keys(t, i);
    const Reg minus_lse = reg_set(-g.lse2[i]), delta = reg_set(g.delta[i]);
    over_registers(n, [&](int64_t j, int64_t lanes) {
      const Reg p = reg_exp2(reg_fma(reg_load_upto(s + j, lanes), scale2, minus_lse));
      const Reg ds = p * ((reg_load_upto(dp + j, lanes) - delta) * scale);
      reg_store_upto(s + j, p, lanes);
      reg_store_upto(dp + j, ds, lanes);
    });
    clear(s, n, t.cols);
    clear(dp, n, t.cols);
  }
}

void attention_delta(const AttentionDelta& g) {
  for (int64_t i = 0; i < g.rows; ++i) {
    const float *out = g.out + i * g.out_row, *dout = g.dout + i * g.dout_row;
    Reg sum = reg_zero();
    over_registers(g.d, [&](int64_t j, int64_t lanes) {
      sum = reg_fma(reg_load_upto(out + j, lanes), reg_load_upto(dout + j, lanes), sum);
    });
    g.delta[i] = reg_sum(sum);
    g.lse2[i] = g.lse[i] * kLog2e;
  }
}

}  // namespace

extern const AttentionIsa PARLO_ISA_NAME(attention);
const AttentionIsa PARLO_ISA_NAME(attention) = {softmax_step, softmax_end, softmax_backward,
                                                attention_delta};

}  // namespace parlo::cpu
