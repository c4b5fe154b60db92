#include "kernels/cpu/isa/flow_step_isa.h"

#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/regloop.h"

namespace parlo::cpu {
namespace {

template <class Part>
inline Reg mean_at(const FlowBlock<float>& b, int64_t i, Part part) {
  return reg_fma(reg_set(b.cv), part.load(b.v + i), reg_set(b.cx) * part.load(b.x + i));
}

void mean(const FlowBlock<float>& b, float* to) {
  for_regs(b.n, [=](int64_t i, auto part) { part.store(to + i, mean_at(b, i, part)); });
}

void noise(const FlowBlock<float>& b, float std, const float* z, float* next) {
  for_regs(b.n, [=](int64_t i, auto part) {
    part.store(next + i, reg_fma(reg_set(std), part.load(z + i), mean_at(b, i, part)));
  });
}

double residual(const FlowBlock<float>& b, const float* next) {
  SquareSum sum;
  for_regs(b.n, [&](int64_t i, auto part) { sum.add(part.load(next + i) - mean_at(b, i, part)); });
  return sum.total();
}

double distance(const float* a, const float* b, int64_t n) {
  SquareSum sum;
  for_regs(n, [&](int64_t i, auto part) { sum.add(part.load(a + i) - part.load(b + i)); });
  return sum.total();
}

void gradient(const FlowBlock<float>& b, const float* next, const float* v_ref, float policy,
              float kl, float* dv) {
  for_regs(b.n, [=](int64_t i, auto part) {
    Reg g = reg_set(policy) * (part.load(next + i) - mean_at(b, i, part));
    if (v_ref) g = reg_fma(reg_set(kl), part.load(b.v + i) - part.load(v_ref + i), g);
    part.store(dv + i, g);
  });
}

}  // namespace

extern const FlowStepIsa PARLO_ISA_NAME(flow_step);
const FlowStepIsa PARLO_ISA_NAME(flow_step) = {mean, noise, residual, distance, gradient};

}  // namespace parlo::cpu
