// What the kernels of skinny_linear share: operands, and what becomes of a finished sum.
#pragma once

#include "kernels/cuda/map.cuh"
#include "kernels/cuda/math.cuh"

namespace parlo::cuda {

template <class T, class W>
struct SkinnyOperands {
  int64_t rows, n, k;
  const T* x;  // [rows, K]
  const W* w;  // [N, K]
  T* y;        // [rows, N]
  const T* bias;
  const T* residual;
  Activation activation;
  const T* down;  // x a' [rows, rank], or null
  const T* up;    // b [N, rank]
  int64_t rank;
  float scale;

  // The same of rows [first, ..): at most `most`.
  SkinnyOperands part(int64_t first, int64_t most) const {
    SkinnyOperands p = *this;
    p.rows = std::min(rows - first, most);
    p.x += first * k, p.y += first * n;
    if (residual) p.residual += first * n;
    if (down) p.down += first * rank;
    return p;
  }
};

__device__ __forceinline__ float activate_by_name(Activation f, float x) {
  switch (f) {
    case Activation::none:
      return x;
    case Activation::gelu_tanh:
      return activate<Activation::gelu_tanh>(x);
    case Activation::gelu_erf:
      return activate<Activation::gelu_erf>(x);
    case Activation::quick_gelu:
      return activate<Activation::quick_gelu>(x);
    case Activation::silu:
      return activate<Activation::silu>(x);
  }
  return x;
}

// y[row, column] from the sum over K.
template <class T, class W>
__device__ __forceinline__ void finish_sum(const SkinnyOperands<T, W>& f, int64_t row,
                                           int64_t column, float sum) {
  if (f.down) {
    float low = 0;
    const T *down = f.down + row * f.rank, *up = f.up + column * f.rank;
    for (int64_t i = 0; i < f.rank; ++i) low = fmaf(to_f32(down[i]), to_f32(up[i]), low);
    sum = fmaf(f.scale, low, sum);
  }
  if (f.bias) sum += to_f32(f.bias[column]);
  sum = activate_by_name(f.activation, sum);
  const int64_t at = row * f.n + column;
  if (f.residual) sum += to_f32(f.residual[at]);
  f.y[at] = from_f32<T>(sum);
}

// --- host ---

// By tensor cores: K a multiple of 8, x and w on 16 bytes. By FMA: all.
void skinny_by_mma(const SkinnyOperands<bf16, bf16>& f, Device device);
void skinny_by_fma(const SkinnyOperands<bf16, bf16>& f, Device device);
void skinny_by_fma(const SkinnyOperands<float, float>& f, Device device);
void skinny_by_fma(const SkinnyOperands<float, bf16>& f, Device device);

}  // namespace parlo::cuda
