// Layer and RMS norm over a block of rows: the tables of isa/norm.cpp for f32, plain loops for f64.
#pragma once

#include <cmath>
#include <type_traits>

#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/norm_isa.h"

namespace parlo::cpu {

inline double at_or(const double* p, int64_t i, double otherwise) {
  return p ? p[i] : otherwise;
}

struct Norm64 {
  static void layer_norm(const NormBlock<double>& b) {
    const int64_t C = b.columns;
    for (int64_t r = 0; r < b.rows; ++r) {
      const double* x = b.x + r * C;
      double sum = 0, squares = 0;
      for (int64_t c = 0; c < C; ++c) sum += x[c];
      const double mean = sum / C;
      for (int64_t c = 0; c < C; ++c) squares += (x[c] - mean) * (x[c] - mean);
      const double rstd = 1 / std::sqrt(squares / C + b.eps);
      b.mean[r] = mean;
      b.rstd[r] = rstd;
      for (int64_t c = 0; c < C; ++c)
        b.y[r * C + c] = (x[c] - mean) * rstd * at_or(b.gain, c, 1) + at_or(b.offset, c, 0);
    }
  }

  static void layer_norm_backward(const NormBlock<double>& b) {
    const int64_t C = b.columns;
    for (int64_t r = 0; r < b.rows; ++r) {
      const double *x = b.x + r * C, *dy = b.dy + r * C, mean = b.mean[r], rstd = b.rstd[r];
      double g_sum = 0, g_xhat_sum = 0;
      for (int64_t c = 0; c < C; ++c) {
        const double xhat = (x[c] - mean) * rstd, g = dy[c] * at_or(b.gain, c, 1);
        g_sum += g;
        g_xhat_sum += g * xhat;
        if (b.dy_xhat) b.dy_xhat[c] += dy[c] * xhat;
        if (b.dy_sum) b.dy_sum[c] += dy[c];
      }
      for (int64_t c = 0; b.dx && c < C; ++c) {
        const double xhat = (x[c] - mean) * rstd, g = dy[c] * at_or(b.gain, c, 1);
        b.dx[r * C + c] = rstd * (g - g_sum / C - xhat * (g_xhat_sum / C));
      }
    }
  }

  static void rms_norm(const NormBlock<double>& b) {
    const int64_t C = b.columns;
    for (int64_t r = 0; r < b.rows; ++r) {
      const double* x = b.x + r * C;
      double squares = 0;
      for (int64_t c = 0; c < C; ++c) squares += x[c] * x[c];
      const double rstd = b.rstd[r] = 1 / std::sqrt(squares / C + b.eps);
      for (int64_t c = 0; c < C; ++c) b.y[r * C + c] = x[c] * rstd * at_or(b.gain, c, 1);
    }
  }

  static void rms_norm_backward(const NormBlock<double>& b) {
    const int64_t C = b.columns;
    for (int64_t r = 0; r < b.rows; ++r) {
      const double *x = b.x + r * C, *dy = b.dy + r * C, rstd = b.rstd[r];
      double g_xhat_sum = 0;
      for (int64_t c = 0; c < C; ++c) {
        g_xhat_sum += dy[c] * at_or(b.gain, c, 1) * x[c] * rstd;
        if (b.dy_xhat) b.dy_xhat[c] += dy[c] * x[c] * rstd;
      }
      for (int64_t c = 0; b.dx && c < C; ++c)
        b.dx[r * C + c] = rstd * (dy[c] * at_or(b.gain, c, 1) - x[c] * rstd * (g_xhat_sum / C));
    }
  }
};

template <class T>
auto norm_loops() {
  if constexpr (std::is_same_v<T, float>) {
    return PARLO_ISA_TABLE(norm);
  } else {
    return Norm64{};
  }
}

}  // namespace parlo::cpu
