// The matrix product behind matmul, linear and conv2d on a GPU: cuBLASLt (blas.cpp), plain loops in
// the simulator (blas_simt.cpp). Products of f32 or bf16 summed in f32, never in TF32.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace parlo::cuda {

// c[M, N] = epilogue(alpha op(a) op(b) + beta add), row-major, for every entry of a batch.
struct GemmArgs {
  Device device;
  DType in = DType::f32;   // a and b: f32 or bf16
  DType out = DType::f32;  // c, add, bias and aux: f32, or bf16 with bf16 operands
  int64_t m = 0, n = 0, k = 0;
  const void* a = nullptr;  // [M, K], or [K, M] with trans_a
  const void* b = nullptr;  // [K, N], or [N, K] with trans_b
  void* c = nullptr;
  bool trans_a = false, trans_b = false;
  int64_t a_row = 0, b_row = 0, c_row = 0;  // from row to row, in elements, at least a row's length
  int64_t batch = 1;
  int64_t a_step = 0, b_step = 0, c_step = 0;  // from entry to entry; 0 in a or b: the same for all
  float alpha = 1, beta = 0;
  const void* add = nullptr;   // rows and entries as far apart as those of c; null: c itself
  const void* bias = nullptr;  // [N]
  bool gelu = false;           // the tanh form, after the bias
  void* aux = nullptr;         // with gelu: the value before it, laid out as c
  // The sum over K may be cut into parts as the sizes suggest. Otherwise the order of the sum
  // depends on N and K only: a row's result is the same bits for any M and any batch.
  bool split_k = false;
};

// Nothing happens for an empty c; K is at least 1.
void gemm(const GemmArgs& g);
// False, and nothing is done, where the library has no such product (an epilogue it lacks).
bool try_gemm(const GemmArgs& g);

}  // namespace parlo::cuda
