// The flow step over one block of one sample: plain pointers. mean = fma(cv, v, cx x).
#pragma once

#include <cstdint>

namespace parlo::cpu {

template <class T>
struct FlowBlock {
  T cx, cv;
  const T* x;
  const T* v;
  int64_t n;
};

struct FlowStepIsa {
  void (*mean)(const FlowBlock<float>& b, float* mean);
  // next = mean + std z
  void (*noise)(const FlowBlock<float>& b, float std, const float* z, float* next);
  // Sum of (next - mean)^2, and of (a - b)^2.
  double (*residual)(const FlowBlock<float>& b, const float* next);
  double (*distance)(const float* a, const float* b, int64_t n);
  // dv = policy (next - mean) + kl (v - v_ref); v_ref may be null.
  void (*gradient)(const FlowBlock<float>& b, const float* next, const float* v_ref, float policy,
                   float kl, float* dv);
};
extern const FlowStepIsa flow_step_avx2, flow_step_avx512;

}  // namespace parlo::cpu
