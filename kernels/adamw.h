// AdamW in one pass over memory (Loshchilov and Hutter, "Decoupled weight decay", 2019):
//   m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
//   p = p - lr * (weight_decay * p + (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps))
#pragma once

#include <span>

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

// One tensor of a model in training, all of one shape.
struct AdamWTensor {
  Tensor param;
  Tensor grad;  // undefined: only the average moves
  Tensor m, v;
  Tensor average;  // undefined: none is kept
};

namespace cpu {

// All tensors contiguous and of one dtype (f32 or f64); updates param, m, v in place.
void adamw(const Tensor& param, const Tensor& grad, const Tensor& m, const Tensor& v,
           const AdamWStep& step);
// average = decay * average + (1 - decay) * param.
void ema(const Tensor& average, const Tensor& param, double decay);

// adamw, then ema, of every tensor; on a GPU one kernel for many. Clipping is step.grad_scale.
void adamw_all(std::span<const AdamWTensor> tensors, const AdamWStep& step, double decay);
// Sum of squares of all gradients, the square of the norm to clip; on a GPU one copy back.
double grad_squares(std::span<const AdamWTensor> tensors);

}  // namespace cpu

// The same on a GPU: kernels/cuda. All tensors are f32: v would stop decaying in bf16.
namespace cuda {
decltype(cpu::adamw) adamw;
decltype(cpu::ema) ema;
decltype(cpu::adamw_all) adamw_all;
decltype(cpu::grad_squares) grad_squares;
}  // namespace cuda
}  // namespace parlo
