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

void softmax(const float* x, int64_t rows, int64_t n, float* y) {
  for (int64_t r = 0; r < rows; ++r, x += n, y += n) {
    const Reg max = reg_set(row_max(x, n));
    const float sum = sum_row(n, [=](Reg total, int64_t i, auto part) {
      const Reg e = reg_exp(part.load(x + i) - max);
      part.store(y + i, e);
      return total + part.zero_rest(e);
    });
    const Reg inverse = reg_set(1.0f / sum);
    for_regs(n, [=](int64_t i, auto part) { part.store(y + i, part.load(y + i) * inverse); });
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

}  // namespace

extern const ReduceIsa PARLO_ISA_NAME(reduce);
const ReduceIsa PARLO_ISA_NAME(reduce) = {softmax, softmax_backward, max_and_exp_sum,
                                          scaled_softmax};

}  // namespace parlo::cpu
