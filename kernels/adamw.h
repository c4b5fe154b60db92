// AdamW in one pass over memory (Loshchilov and Hutter, "Decoupled weight decay", 2019):
//   m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
//   p = p - lr * (weight_decay * p + (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps))
#pragma once

#include "tensor/tensor.h"

namespace parlo {

struct AdamWStep {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.0;
  double grad_scale = 1.0;  // gradients are multiplied by it first (clipping)
  int64_t step = 1;         // t, starting at 1
};

namespace cpu {

// All tensors contiguous and of one dtype (f32 or f64); updates param, m, v in place.
void adamw(const Tensor& param, const Tensor& grad, const Tensor& m, const Tensor& v,
           const AdamWStep& step);
// average = decay * average + (1 - decay) * param.
void ema(const Tensor& average, const Tensor& param, double decay);

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::adamw) adamw;
decltype(cpu::ema) ema;
}  // namespace cuda
}  // namespace parlo
