// Products with one narrow side, in bf16: LoRA's down-projection and the gradients of its factors.
// Floor: the wide operands read once. Each returns false, and does nothing, where its kernel does
// not take the types, sizes or alignment; blas.h does then.
#pragma once

#include "tensor/tensor.h"

namespace parlo::cuda {

constexpr int64_t kMostRank = 64;

// down[rows, r] = x[rows, K] a[r, K]', contiguous, r <= 64. The order of the sums depends on K.
bool low_rank_down(const Tensor& x, const Tensor& a, const Tensor& down);

// c[M, N] = alpha a[rows, M]' b[rows, N] + beta c, with M or N at most 64 and many rows; c bf16 or
// f32. Matrices with adjacent columns. Rows are cut into chunks of one size, which are added up in
// order.
bool low_rank_gradient(const Tensor& a, const Tensor& b, const Tensor& c, float alpha, float beta);

}  // namespace parlo::cuda
