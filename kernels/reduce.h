// Reductions in an order fixed by the shape alone; f32 (partial sums in f32 lanes, combined in
// f64) and f64.
#pragma once

#include "tensor/tensor.h"

namespace parlo {
namespace cpu {

// out = x summed over every axis where out's size is 1 and x's is not; equal ranks, contiguous.
void sum_to(const Tensor& x, const Tensor& out);
// Row maxima and their first index: x [R, C] -> values [R], indices [R] i64 (either may be
// undefined). C >= 1.
void max_rows(const Tensor& x, const Tensor& values, const Tensor& indices);
// Sum of squares of all elements, in f64.
double sum_squares(const Tensor& x);
double sum(const Tensor& x);
double dot(const Tensor& a, const Tensor& b);

// Softmax over the last axis of x [R, C]; dx = y * (dy - sum(y dy)).
void softmax(const Tensor& x, const Tensor& y);
void softmax_backward(const Tensor& y, const Tensor& dy, const Tensor& dx);

// Cross-entropy of logits [R, C] with targets [R] i64: losses [R] = lse - logit[target]; a target
// equal to ignore_index gives 0. lse [R] is kept for the backward, which writes
// dlogits = (softmax - onehot) * dlosses.
void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& losses,
                   const Tensor& lse, int64_t ignore_index = -100);
void cross_entropy_backward(const Tensor& logits, const Tensor& targets, const Tensor& lse,
                            const Tensor& dlosses, const Tensor& dlogits,
                            int64_t ignore_index = -100);

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::sum_to) sum_to;
decltype(cpu::max_rows) max_rows;
decltype(cpu::sum_squares) sum_squares;
decltype(cpu::sum) sum;
decltype(cpu::dot) dot;
decltype(cpu::softmax) softmax;
decltype(cpu::softmax_backward) softmax_backward;
decltype(cpu::cross_entropy) cross_entropy;
decltype(cpu::cross_entropy_backward) cross_entropy_backward;
}  // namespace cuda

}  // namespace parlo
