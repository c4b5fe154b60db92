#include "kernels/cpu/isa/reduce_isa.h"

#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/regloop.h"
#include "kernels/cpu/isa/regmath.h"

namespace parlo::cpu {
namespace {

float row_max(const float* x, int64_t n) {
  const Reg first = reg_set(*x);
  Reg top = first, other = first;
  int64_t i = 0;
  for (; i + 2 * kRegLanes <= n; i += 2 * kRegLanes) {
    top = reg_max(top, reg_load(x + i));
    other = reg_max(other, reg_load(x + i + kRegLanes));
  }
  for_regs(n - i,
           [&](int64_t k, auto part) { top = reg_max(top, part.load_or(x + i + k, first)); });
  return reg_max_lane(reg_max(top, other));
}

// One register of rows at a time, and each pass over all of them before the next: what is done
// across the lanes of one row does not wait for that of another.
void softmax(const float* x, int64_t rows, int64_t n, float* y) {
  for (int64_t first = 0; first < rows; first += kRegLanes) {
    const int64_t count = rows - first < kRegLanes ? rows - first : kRegLanes;
    float max[kRegLanes], sum[kRegLanes] = {};
    for (int64_t k = 0; k < count; ++k) max[k] = row_max(x + k * n, n);
    for (int64_t k = 0; k < count; ++k) {
      const float* from = x + k * n;
      float* to = y + k * n;
      const Reg top = reg_set(max[k]);
      sum[k] = sum_row(n, [=](Reg total, int64_t i, auto part) {
        const Reg e = reg_exp(part.load(from + i) - top);
        part.store(to + i, e);
        return total + part.zero_rest(e);
      });
    }
    reg_store(sum, reg_set(1) / reg_load(sum));
    for (int64_t k = 0; k < count; ++k) {
      float* to = y + k * n;
      const Reg inverse = reg_set(sum[k]);
      for_regs(n, [=](int64_t i, auto part) { part.store(to + i, part.load(to + i) * inverse); });
    }
    x += count * n, y += count * n;
  }
}

void softmax_backward(const float* y, const float* dy, int64_t rows, int64_t n, float* dx) {
  for (int64_t r = 0; r < rows; ++r, y += n, dy += n, dx += n) {
    const Reg dot = reg_set(sum_row(n, [=](Reg total, int64_t i, auto part) {
      return reg_fma(part.load(y + i), part.load(dy + i), total);
    }));
    for_regs(n, [=](int64_t i, auto part) {
      part.store(dx + i, part.load(y + i) * (part.load(dy + i) - dot));
    });
  }
}

void max_and_exp_sum(const float* x, int64_t n, float* max, float* sum) {
  *max = row_max(x, n);
  const Reg top = reg_set(*max);
  *sum = sum_row(n, [=](Reg total, int64_t i, auto part) {
    return total + part.zero_rest(reg_exp(part.load(x + i) - top));
  });
}

void scaled_softmax(const float* x, int64_t n, float lse, float gradient, float* to) {
  const Reg shift = reg_set(lse), scale = reg_set(gradient);
  for_regs(n, [=](int64_t i, auto part) {
    part.store(to + i, reg_exp(part.load(x + i) - shift) * scale);
  });
}

// Below it exp is 0, and so must the product with x be for x = -infinity.
constexpr float kExpIsZero = -104;

float exp_moment(const float* x, int64_t n, float max) {
  const Reg top = reg_set(max), least = reg_set(kExpIsZero);
  return sum_row(n, [=](Reg total, int64_t i, auto part) {
    const Reg d = reg_max(least, part.load(x + i) - top);
    return total + part.zero_rest(d * reg_exp(d));
  });
}

void log_prob_gradient(const float* x, int64_t n, float lse, float entropy, float d_log_prob,
                       float d_entropy, float* to) {
  const Reg shift = reg_set(lse), least = reg_set(kExpIsZero), slope = reg_set(-d_entropy);
  const Reg constant = reg_set(-(d_log_prob + d_entropy * entropy));
  for_regs(n, [=](int64_t i, auto part) {
    const Reg log_p = reg_max(least, part.load(x + i) - shift);
    part.store(to + i, reg_exp(log_p) * reg_fma(log_p, slope, constant));
  });
}

}  // namespace

extern const ReduceIsa PARLO_ISA_NAME(reduce);
const ReduceIsa PARLO_ISA_NAME(reduce) = {softmax,        softmax_backward, max_and_exp_sum,
                                          scaled_softmax, exp_moment,       log_prob_gradient};

}  // namespace parlo::cpu
