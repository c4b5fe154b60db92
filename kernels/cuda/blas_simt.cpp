// gemm of blas.h for the simulated GPU: plain loops over host memory, every sum in ascending k.
#ifdef PARLO_SIMT
#include "tensor/cuda/launch.cuh"

#include <cmath>
#include <vector>

#include "kernels/cuda/blas.h"

namespace parlo::cuda {
namespace {

float load(const void* p, int64_t i, DType dtype) {
  if (dtype == DType::bf16) return to_float(static_cast<const bf16_t*>(p)[i]);
  return static_cast<const float*>(p)[i];
}

void store(void* p, int64_t i, float x, DType dtype) {
  if (dtype == DType::bf16) {
    static_cast<bf16_t*>(p)[i] = to_bf16(x);
  } else {
    static_cast<float*>(p)[i] = x;
  }
}

float gelu_tanh(float x) {
  return 0.5f * x * (1 + std::tanh(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

// op(t) as [rows, cols] in f32.
std::vector<float> unpacked(const void* t, int64_t at, int64_t row, bool trans, int64_t rows,
                            int64_t cols, DType dtype) {
  std::vector<float> out(static_cast<size_t>(rows * cols));
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j)
      out[i * cols + j] = load(t, at + (trans ? j * row + i : i * row + j), dtype);
  return out;
}

void store_row(const GemmArgs& g, int64_t at, const float* sum) {
  const void* add = g.add ? g.add : g.c;
  for (int64_t j = 0; j < g.n; ++j) {
    float x = g.alpha * sum[j];
    if (g.beta != 0) x += g.beta * load(add, at + j, g.out);
    if (g.bias) x += load(g.bias, j, g.out);
    if (g.aux) store(g.aux, at + j, x, g.out);
    store(g.c, at + j, g.gelu ? gelu_tanh(x) : x, g.out);
  }
}

void gemm_kernel(GemmArgs g) {
  if (threadIdx.x != 0) return;
  std::vector<float> sum(static_cast<size_t>(g.n));
  for (int64_t entry = 0; entry < g.batch; ++entry) {
    const std::vector<float> a =
        unpacked(g.a, entry * g.a_step, g.a_row, g.trans_a, g.m, g.k, g.in);
    const std::vector<float> b =
        unpacked(g.b, entry * g.b_step, g.b_row, g.trans_b, g.k, g.n, g.in);
    for (int64_t i = 0; i < g.m; ++i) {
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (int64_t k = 0; k < g.k; ++k) {
        const float x = a[i * g.k + k];
        for (int64_t j = 0; j < g.n; ++j) sum[j] += x * b[k * g.n + j];
      }
      store_row(g, entry * g.c_step + i * g.c_row, sum.data());
    }
  }
}

}  // namespace

bool try_gemm(const GemmArgs& g) {
  if (g.m > 0 && g.n > 0 && g.batch > 0) launch({"gemm", 1, 32, g.device}, gemm_kernel, g);
  return true;
}

void gemm(const GemmArgs& g) {
  try_gemm(g);
}

}  // namespace parlo::cuda
#endif
