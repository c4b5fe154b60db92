// Matrix products. Dtypes: f32 and f64; on a GPU f32 and bf16, and matmul's c may be f32 with a and
// b in bf16. Weights of `linear` may be bf16 under f32 inputs (products of the rounded input in f32
// accumulation where the CPU has AVX-512-BF16, widened to f32 elsewhere).
// Every output element is summed over K in one order that depends on N and K, never on the number
// of rows or threads: a row's result is the same bits alone and inside any batch.
#pragma once

#include <span>

#include "tensor/tensor.h"

namespace parlo {

enum class Activation { none, gelu_tanh, gelu_erf, quick_gelu, silu };

// y = ... + scale * (x a') b' with a [r, K] and b [N, r] (LoRA's A and B).
struct LowRank {
  Tensor a;
  Tensor b;
  double scale = 1.0;
  // Output, optional: x a' [rows, r], kept for the backward.
  Tensor down;
};

// The low-rank term of rows [first, first + rows) of a batch alone; `down` is [rows, r].
struct LowRankRows {
  int64_t first = 0, rows = 0;
  LowRank low_rank;
};

// A factor of every column that consecutive rows share: row i has values[(first + i) / rows].
struct RowGate {
  Tensor values;  // [G, N], columns adjacent; undefined: no gate
  int64_t rows = 1, first = 0;
};

struct LinearArgs {
  Tensor bias;  // [N], optional
  Activation activation = Activation::none;
  Tensor pre_activation;              // output [rows, N], optional: the value before activation
  RowGate gate;                       // optional, with a residual: times the activation
  Tensor residual;                    // [rows, N], optional: added last
  const LowRank* low_rank = nullptr;  // of all rows, joins before the activation
  // Instead, several adapters in one batch: sorted and apart; rows of none have no term. A row has
  // the bits that its segment, or what lies between two, has alone.
  std::span<const LowRankRows> low_rank_rows;
};

namespace cpu {

// c[..., M, N] = alpha * op(a) op(b) + beta * c, op transposes the last two axes where asked.
// Leading axes of a and b equal those of c or are 1 (broadcast). The last axis of every operand
// has stride 1 (others any), checked. Empty K gives beta * c.
void matmul(const Tensor& a, bool trans_a, const Tensor& b, bool trans_b, const Tensor& c,
            double alpha = 1.0, double beta = 0.0);

// y[rows, N] = activation(x[rows, K] w[N, K]' + bias + low rank) * gate + residual. Contiguous
// operands.
void linear(const Tensor& x, const Tensor& w, const Tensor& y, const LinearArgs& args = {});

// The gradient of linear's x, before any activation: dx[rows, K] = dy[rows, N] w[N, K], plus
// scale * down a on the rows of each term, whose `down` = dy b [rows, r] is an input here and whose
// b is not read. w and a may have another dtype. (The other gradients are plain products.)
void linear_backward(const Tensor& dy, const Tensor& w, const Tensor& dx,
                     std::span<const LowRankRows> terms = {});

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::matmul) matmul;
decltype(cpu::linear) linear;
decltype(cpu::linear_backward) linear_backward;
}  // namespace cuda
}  // namespace parlo
