// Log-probabilities of chosen tokens under a linear head, and the entropies of its distributions,
// without the logits [T, V] in memory: tiles of rows x vocabulary are made, used and overwritten,
// and made again by the backward. With z = x w' / temperature, p = softmax(z), t = target:
//   lse = log sum exp z,  log_prob = z[t] - lse,  entropy = lse - sum p z
//   dz = d_log_prob (onehot(t) - p) - d_entropy p (z - lse + entropy)
//   dx = dz w / temperature,  dw = dz' x / temperature
//
// x [T, K], w [V, K], targets [T] i64, all contiguous, V and K at least 1. A target outside [0, V)
// is an Error naming it, but for ignore_index: there log_prob and entropy are 0, and so is what the
// row adds to dx and dw. Dtypes of x and w: f32 and f32, f64 and f64 (CPU), f32 and bf16, bf16 and
// bf16 (GPU). Everything [T], and dw, is f32, f64 with f64 operands. Logits are never rounded below
// f32. Sums over V go over parts of it that V alone fixes: a row's log_prob, entropy, lse and dx
// are the same bits alone and inside any batch.
#pragma once

#include "tensor/tensor.h"

namespace parlo {

struct LinearLogProbArgs {
  double temperature = 1;
  int64_t ignore_index = -100;
};

struct LinearLogProbGrads {
  Tensor d_log_prob, d_entropy;  // [T], undefined: zero
  Tensor dx;                     // output [T, K] of x's dtype, optional
  Tensor dw;                     // output [V, K], optional
};

namespace cpu {

void linear_log_prob(const Tensor& x, const Tensor& w, const Tensor& targets,
                     const LinearLogProbArgs& args, const Tensor& log_prob, const Tensor& entropy,
                     const Tensor& lse);
// entropy and lse are the forward's.
void linear_log_prob_backward(const Tensor& x, const Tensor& w, const Tensor& targets,
                              const LinearLogProbArgs& args, const Tensor& entropy,
                              const Tensor& lse, const LinearLogProbGrads& grads);

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::linear_log_prob) linear_log_prob;
decltype(cpu::linear_log_prob_backward) linear_log_prob_backward;
}  // namespace cuda

}  // namespace parlo
