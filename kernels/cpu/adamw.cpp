// AdamW and the exponential average. The update is formed first and subtracted once:
// p (1 - lr wd) would lose a small lr wd in f32 (1 - 3e-8 is not representable).
#include "kernels/adamw.h"

#include <cmath>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/isa/adamw_isa.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/reduce.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

template <class T>
AdamWScalars<T> adamw_scalars(const AdamWStep& s) {
  const double t = static_cast<double>(s.step);
  const auto cast = [](double v) { return static_cast<T>(v); };
  return {cast(s.beta1),
          cast(1 - s.beta1),
          cast(s.beta2),
          cast(1 - s.beta2),
          cast(s.lr / (1 - std::pow(s.beta1, t))),
          cast(1 / std::sqrt(1 - std::pow(s.beta2, t))),
          cast(s.eps),
          cast(s.lr * s.weight_decay),
          cast(s.grad_scale)};
}

void update(const AdamWScalars<double>& a, double* p, const double* grad, double* m, double* v,
            int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const double g = a.grad_scale * grad[i];
    m[i] = a.beta1 * m[i] + a.one_minus_beta1 * g;
    v[i] = a.beta2 * v[i] + a.one_minus_beta2 * (g * g);
    p[i] -= a.decay * p[i] + a.rate * m[i] / (std::sqrt(v[i]) * a.root + a.eps);
  }
}
void update(const AdamWScalars<float>& a, float* p, const float* grad, float* m, float* v,
            int64_t n) {
  PARLO_ISA_TABLE(adamw).adamw(a, p, grad, m, v, n);
}

void average_range(double weight, const double* p, double* average, int64_t n) {
  for (int64_t i = 0; i < n; ++i) average[i] += weight * (p[i] - average[i]);
}
void average_range(float weight, const float* p, float* average, int64_t n) {
  PARLO_ISA_TABLE(adamw).ema(weight, p, average, n);
}

}  // namespace

void adamw(const Tensor& param, const Tensor& grad, const Tensor& m, const Tensor& v,
           const AdamWStep& step) {
  check_output("adamw", "param", param, param.dtype(), param.numel());
  check_operand("adamw", "grad", grad, param.dtype(), param.numel());
  check_output("adamw", "m", m, param.dtype(), param.numel());
  check_output("adamw", "v", v, param.dtype(), param.numel());
  CHECK(step.step >= 1, "adamw: step counts from 1, got ", step.step);
  visit_float(param.dtype(), "adamw", [&](auto type) {
    using T = decltype(type);
    const AdamWScalars<T> scalars = adamw_scalars<T>(step);
    parallel_for(param.numel(), kGrain, [&](int64_t begin, int64_t end) {
      update(scalars, param.data<T>() + begin, grad.data<T>() + begin, m.data<T>() + begin,
             v.data<T>() + begin, end - begin);
    });
  });
}

void ema(const Tensor& average, const Tensor& param, double decay) {
  check_output("ema", "average", average, average.dtype(), average.numel());
  check_operand("ema", "param", param, average.dtype(), average.numel());
  visit_float(average.dtype(), "ema", [&](auto type) {
    using T = decltype(type);
    const T weight = static_cast<T>(1 - decay);
    T* to = average.data<T>();
    const T* from = param.data<T>();
    // An average that equals the parameter stays exactly there.
    parallel_for(average.numel(), kGrain, [&](int64_t begin, int64_t end) {
      average_range(weight, from + begin, to + begin, end - begin);
    });
  });
}

void adamw_all(std::span<const AdamWTensor> tensors, const AdamWStep& step, double decay) {
  for (const AdamWTensor& t : tensors) {
    if (t.grad) adamw(t.param, t.grad, t.m, t.v, step);
    if (t.average) ema(t.average, t.param, decay);
  }
}

double grad_squares(std::span<const AdamWTensor> tensors) {
  double sum = 0;
  for (const AdamWTensor& t : tensors) {
    if (t.grad) sum += sum_squares(t.grad);
  }
  return sum;
}

}  // namespace parlo::cpu
