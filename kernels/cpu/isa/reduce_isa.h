// Softmax, cross-entropy and log-probabilities in f32 over rows of C columns.
#pragma once

#include <cstdint>

namespace parlo::cpu {

struct ReduceIsa {
  void (*softmax)(const float* x, int64_t rows, int64_t columns, float* y);
  void (*softmax_backward)(const float* y, const float* dy, int64_t rows, int64_t columns,
                           float* dx);
  // Maximum of a row that may hold NaN (then any element), and the sum of exp(x - max), which is
  // NaN then.
  void (*max_and_exp_sum)(const float* x, int64_t columns, float* max, float* sum);
  // to = exp(x - lse) * gradient
  void (*scaled_softmax)(const float* x, int64_t columns, float lse, float gradient, float* to);
  // The sum of (x - max) exp(x - max), where the exponential is not 0.
  float (*exp_moment)(const float* x, int64_t columns, float max);
  // to = -p (d_log_prob + d_entropy (x - lse + entropy)) with p = exp(x - lse); in place too
  void (*log_prob_gradient)(const float* x, int64_t columns, float lse, float entropy,
                            float d_log_prob, float d_entropy, float* to);
};
extern const ReduceIsa reduce_avx2, reduce_avx512;

}  // namespace parlo::cpu
