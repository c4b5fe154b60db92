// The 2-D product behind matmul, linear and convolution: C = alpha A B + beta C with any strides
// of A and B, so that a transpose is a swap of two numbers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/matmul.h"
#include "tensor/parallel.h"

namespace parlo::cpu {

// Rows [k, k + rows) and columns [col, col + cols) of B, written as rows of `width` elements.
struct GemmBlock {
  int64_t k, rows, col, cols, width;
};

// Element (i, j) of an operand is at data[i * row + j * col]; one of row and col is 1.
template <class T>
struct Gemm {
  int64_t m = 0, n = 0, k = 0;
  const T* a = nullptr;
  int64_t a_row = 0, a_col = 1;
  const T* b = nullptr;
  int64_t b_row = 0, b_col = 1;
  // Instead of b: writes a block of B, zeros in columns [cols, width). Called once for each block
  // of a product, so that B never needs to exist; threads are the caller's.
  std::function<void(const GemmBlock&, T*)> write_b = nullptr;
  T* c = nullptr;
  int64_t c_row = 0;  // columns of C are adjacent
  T alpha = 1, beta = 0;
};

// What linear adds to the product while a block of C is in the cache:
// c = activation(c + scale * down up' + bias) + residual.
struct GemmEpilogue {
  float* down = nullptr;         // [m, rank]; written first: down = A low_a'
  const float* low_a = nullptr;  // [rank, k]
  const float* up = nullptr;     // [n, rank]
  int64_t rank = 0;
  float scale = 1;
  const float* bias = nullptr;
  float* pre_activation = nullptr;  // rows as far apart as those of c
  const float* residual = nullptr;  // likewise; not c itself
  Activation activation = Activation::none;
};

// Every element is the sum over blocks of K of one chain of multiply-adds in ascending k. The
// blocks depend on K alone.
void gemm(const Gemm<float>& g, const GemmEpilogue* epilogue = nullptr);
// The same with B given in bf16.
void gemm_bf16(const Gemm<float>& g, const bf16_t* b, const GemmEpilogue* epilogue = nullptr);

// Plain loops, for f64: every element is summed over K in ascending order.
template <class T>
void gemm(const Gemm<T>& g) {
  std::vector<T> packed;
  const T* b = g.b;
  int64_t b_row = g.b_row;
  if (g.write_b) {
    packed.resize(static_cast<size_t>(g.k * g.n));
    g.write_b({0, g.k, 0, g.n, g.n}, packed.data());
    b = packed.data();
    b_row = g.n;
  } else if (g.b_col != 1) {
    packed.resize(static_cast<size_t>(g.k * g.n));
    for (int64_t j = 0; j < g.n; ++j)
      for (int64_t k = 0; k < g.k; ++k) packed[k * g.n + j] = g.b[k * g.b_row + j * g.b_col];
    b = packed.data();
    b_row = g.n;
  }
  const int64_t grain = std::max<int64_t>(1, 200000 / std::max<int64_t>(1, g.n * g.k));
  parallel_for(g.m, grain, [&](int64_t begin, int64_t end) {
    std::vector<T> sum(static_cast<size_t>(g.n));
    for (int64_t i = begin; i < end; ++i) {
      std::fill(sum.begin(), sum.end(), T(0));
      for (int64_t k = 0; k < g.k; ++k) {
        const T a = g.a[i * g.a_row + k * g.a_col];
        const T* row = b + k * b_row;
        for (int64_t j = 0; j < g.n; ++j) sum[j] += a * row[j];
      }
      T* c = g.c + i * g.c_row;
      for (int64_t j = 0; j < g.n; ++j)
        c[j] = g.beta == T(0) ? g.alpha * sum[j] : g.alpha * sum[j] + g.beta * c[j];
    }
  });
}

}  // namespace parlo::cpu
