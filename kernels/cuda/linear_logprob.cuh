// Tiles of logits in device memory, for linear_log_prob and its backward: their products by gemm
// and what kernels know of them. The width of tiles is fixed, so that no sum depends on the rows
// beside a row.
#pragma once

#include "kernels/cuda/rows.cuh"

#include <algorithm>

#include "kernels/cuda/blas.h"
#include "kernels/linear_logprob_checks.h"

namespace parlo::cuda {

// Wide, as the backward reads and writes its f32 sum of dx once a tile. With 1024 rows a tile is a
// wave of 128 x 256 blocks on an H100, and it, its gradient and that sum are in the L2 together.
constexpr int64_t kLogitColumns = 4096;

// A tile and the rows of the operands that belong to it.
struct LogProbTile {
  int64_t rows, columns, distance;  // of the tile; from row to row of it
  int64_t first, V;
  const int64_t* targets;
  int64_t ignore_index;

  __device__ bool holds(int64_t target) const {
    return target >= first && target < first + columns;
  }
};

// The products of tiles. x has w's dtype.
struct LogProbHead {
  Tensor x, w;
  float scale;
  int64_t distance;  // of a tile's rows: whole 16 bytes in bf16

  LogProbHead(const Tensor& given_x, const Tensor& w, double temperature)
      : x(given_x.to(w.dtype())),
        w(w),
        scale(static_cast<float>(1 / temperature)),
        distance(std::min(kLogitColumns, ceil_div(w.dim(0), 8) * 8)) {}

  int64_t K() const { return w.dim(1); }
  const void* row(const Tensor& t, int64_t i) const {
    return static_cast<const char*>(t.raw()) +
           i * K() * static_cast<int64_t>(dtype_size(t.dtype()));
  }
  Tensor tile(int64_t rows, DType dtype) const {
    return Tensor::empty({rows, distance}, dtype, x.device());
  }
  GemmArgs product(int64_t m, int64_t n, int64_t k) const {
    GemmArgs g;
    g.device = x.device(), g.in = w.dtype(), g.out = DType::f32;
    g.m = m, g.n = n, g.k = k;
    g.alpha = scale;
    return g;
  }

  void logits(const LogitsTile& t, const Tensor& z) const {
    GemmArgs g = product(t.rows, t.columns, K());
    g.a = row(x, t.row), g.b = row(w, t.first), g.c = z.raw();
    g.trans_b = true;
    g.a_row = g.b_row = K(), g.c_row = distance;
    gemm(g);
  }
  // dx = dz w, or += from the second tile on.
  void add_dx(const LogitsTile& t, const Tensor& dz, float* dx) const {
    GemmArgs g = product(t.rows, K(), t.columns);
    g.a = dz.raw(), g.b = row(w, t.first), g.c = dx;
    g.a_row = distance, g.b_row = g.c_row = K();
    g.beta = t.first == 0 ? 0 : 1;
    gemm(g);
  }
  void add_dw(const LogitsTile& t, const Tensor& dz, float* dw) const {
    GemmArgs g = product(t.columns, K(), t.rows);
    g.a = dz.raw(), g.b = row(x, t.row), g.c = dw + t.first * K();
    g.trans_a = true, g.split_k = true;
    g.a_row = distance, g.b_row = g.c_row = K();
    g.beta = t.row == 0 ? 0 : 1;
    gemm(g);
  }
};

inline LogProbTile log_prob_tile(const LogProbHead& head, const LogitsTile& t,
                                 const Tensor& targets, int64_t ignore_index) {
  return {t.rows,      t.columns,     head.distance,
          t.first,     head.w.dim(0), pointer<const int64_t>(targets) + t.row,
          ignore_index};
}

}  // namespace parlo::cuda
