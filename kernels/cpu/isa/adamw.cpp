#include "kernels/cpu/isa/adamw_isa.h"

#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/regloop.h"

namespace parlo::cpu {
namespace {

void adamw(const AdamWScalars<float>& s, float* p, const float* grad, float* m, float* v,
           int64_t n) {
  const Reg beta1 = reg_set(s.beta1), rest1 = reg_set(s.one_minus_beta1);
  const Reg beta2 = reg_set(s.beta2), rest2 = reg_set(s.one_minus_beta2);
  const Reg rate = reg_set(s.rate), root = reg_set(s.root), eps = reg_set(s.eps);
  const Reg decay = reg_set(s.decay), scale = reg_set(s.grad_scale);
  for_regs(n, [=](int64_t i, auto part) {
    const Reg g = scale * part.load(grad + i), old = part.load(p + i);
    const Reg m1 = reg_fma(beta1, part.load(m + i), rest1 * g);
    const Reg v1 = reg_fma(beta2, part.load(v + i), rest2 * (g * g));
    const Reg step = rate * m1 / reg_fma(reg_sqrt(v1), root, eps);
    part.store(m + i, m1);
    part.store(v + i, v1);
    part.store(p + i, old - reg_fma(decay, old, step));
  });
}

void ema(float weight, const float* p, float* average, int64_t n) {
  const Reg w = reg_set(weight);
  for_regs(n, [=](int64_t i, auto part) {
    const Reg old = part.load(average + i);
    part.store(average + i, reg_fma(w, part.load(p + i) - old, old));
  });
}

}  // namespace

extern const AdamWIsa PARLO_ISA_NAME(adamw);
const AdamWIsa PARLO_ISA_NAME(adamw) = {adamw, ema};

}  // namespace parlo::cpu
