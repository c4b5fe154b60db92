// Element-wise maps in f32 over n contiguous elements. The tables are indexed by the enums of
// kernels/elementwise.h and kernels/matmul.h.
#pragma once

#include <cstdint>

namespace parlo::cpu {

struct ElementwiseIsa {
  void (*unary[12])(const float* x, float* y, int64_t n);
  void (*unary_backward[12])(const float* x, const float* y, const float* dy, float* dx, int64_t n);
  void (*activation[5])(const float* x, float* y, int64_t n);
  void (*activation_backward[5])(const float* x, const float* dy, float* dx, int64_t n);
  // y = f(a) b; da = f'(a) b dy and db = f(a) dy, where not null.
  void (*glu[5])(const float* a, const float* b, float* y, int64_t n);
  void (*glu_backward[5])(const float* a, const float* b, const float* dy, float* da, float* db,
                          int64_t n);
  // Steps are 0 (one value for all) or 1.
  void (*binary[6])(const float* a, int64_t a_step, const float* b, int64_t b_step, float* out,
                    int64_t n);
  // out = residual + gate * y; dgate += y * dout and dy = gate * dout, where not null.
  void (*gate)(const float* residual, const float* gate, const float* y, float* out, int64_t n);
  void (*gate_backward)(const float* gate, const float* y, const float* dout, float* dgate,
                        float* dy, int64_t n);
  // to = a * x + b * to, to = a * x + c.
  void (*axpby)(float a, const float* x, float b, float* to, int64_t n);
  void (*scale_shift)(float a, float c, const float* x, float* to, int64_t n);
};
extern const ElementwiseIsa elementwise_avx2, elementwise_avx512;

}  // namespace parlo::cpu
