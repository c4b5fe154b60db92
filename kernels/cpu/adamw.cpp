// AdamW and the exponential average. The update is formed first and subtracted once:
// p (1 - lr wd) would lose a small lr wd in f32 (1 - 3e-8 is not representable).
#include "kernels/adamw.h"

#include <cmath>

#include "kernels/cpu/checks.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

template <class T>
struct AdamWScalars {
  T beta1, one_minus_beta1, beta2, one_minus_beta2;
  T rate;        // lr / (1 - beta1^t)
  T root;        // 1 / sqrt(1 - beta2^t)
  T eps, decay;  // decay = lr * weight_decay
  T grad_scale;
};

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

template <class T>
void adamw_range(const AdamWScalars<T>& a, T* p, const T* grad, T* m, T* v, int64_t begin,
                 int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const T g = a.grad_scale * grad[i];
    m[i] = a.beta1 * m[i] + a.one_minus_beta1 * g;
    v[i] = a.beta2 * v[i] + a.one_minus_beta2 * (g * g);
    p[i] -= a.decay * p[i] + a.rate * m[i] / (std::sqrt(v[i]) * a.root + a.eps);
  }
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
      adamw_range(scalars, param.data<T>(), static_cast<const T*>(grad.data<T>()), m.data<T>(),
                  v.data<T>(), begin, end);
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
      for (int64_t i = begin; i < end; ++i) to[i] += weight * (from[i] - to[i]);
    });
  });
}

}  // namespace parlo::cpu
