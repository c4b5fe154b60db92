// AdamW in f32 over n contiguous elements.
#pragma once

#include <cstdint>

namespace parlo::cpu {

template <class T>
struct AdamWScalars {
  T beta1, one_minus_beta1, beta2, one_minus_beta2;
  T rate;  // lr / (1 - beta1^t)
  T root;  // 1 / sqrt(1 - beta2^t)
  T eps;
  T decay;  // lr * weight_decay
  T grad_scale;
};

struct AdamWIsa {
  void (*adamw)(const AdamWScalars<float>& s, float* p, const float* grad, float* m, float* v,
                int64_t n);
  // average += weight * (p - average)
  void (*ema)(float weight, const float* p, float* average, int64_t n);
};
extern const AdamWIsa adamw_avx2, adamw_avx512;

}  // namespace parlo::cpu
