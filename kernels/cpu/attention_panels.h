// What forward and backward of attention in f32 share: tiles of scores in the L1 or L2, and
// products by the GEMM's register tile.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/attention_args.h"
#include "kernels/cpu/gemm_panels.h"
#include "kernels/cpu/isa/attention_isa.h"
#include "kernels/cpu/isa/gemm_isa.h"
#include "kernels/cpu/isa/isa.h"

namespace parlo::cpu {

constexpr int64_t kKeys = 256;
// A tile of scores of this many floats lies in the L1 with what is multiplied; it has at least
// kFewQueries rows.
constexpr int64_t kScores = 96 * 96, kFewQueries = 48;
// PanelRows of scores are this much further apart than needed, so that they do not alias in the L1.
constexpr int64_t kPadding = 16;
constexpr float kLog2e = 1.44269504f;
constexpr double kSerialOperations = 4e6;

struct AttentionIsas {
  const GemmIsa& gemm = PARLO_ISA_TABLE(gemm);
  const AttentionIsa& attention = PARLO_ISA_TABLE(attention);
};

// PanelRows of n floats, used as the B of a product.
struct PanelRows {
  const float* data;
  int64_t row;
};

inline int64_t round_up(int64_t n, int64_t unit) {
  return ceil_div(n, unit) * unit;
}

// Queries in a tile: tiles of equal size, a multiple of 8.
inline int64_t tile_size(int64_t queries, int64_t keys) {
  const int64_t most = std::max(kFewQueries, kScores / round_up(keys, 16));
  return round_up(ceil_div(queries, ceil_div(queries, most)), 8);
}

// c[rows, n] = a[rows, k] b + beta c, where b lies in rows of whole registers.
inline void multiply(const GemmIsa& isa, int64_t rows, int64_t n, int64_t k, const float* a,
                     int64_t a_row, int64_t a_col, const PanelRows& b, float* c, int64_t c_row,
                     float beta) {
  const Panels panels(isa, n);
  for (int64_t p = 0; p < panels.count; ++p) {
    const int64_t j = panels.begin(p);
    isa.panel({a, a_row, a_col, a_row * isa.tile_rows, b.data + j, b.row, panels.width_vecs(p),
               c + j, c_row, rows, n - j, k, 1.0f, beta});
  }
}

// Row j of x becomes column j of out [n, padded rows].
inline PanelRows transposed(const GemmIsa& isa, const float* x, int64_t row, int64_t rows,
                            int64_t n, float* out) {
  const int64_t width = round_up(rows, isa.lanes);
  isa.pack_f32({x, 1, row, n, rows, width, out});
  return {out, width};
}

// x itself when its rows fill whole registers, else a padded copy.
inline PanelRows padded(const GemmIsa& isa, const float* x, int64_t row, int64_t rows, int64_t n,
                        float* out) {
  if (n % isa.lanes == 0) return {x, row};
  const int64_t width = round_up(n, isa.lanes);
  isa.pack_f32({x, row, 1, rows, n, width, out});
  return {out, width};
}

// Tokens [from, from + n) of one head where they lie; those of two tensors in a copy.
inline PanelRows rows_of(const Heads<float>& x, int64_t b, int64_t h, int64_t from, int64_t n,
                         int64_t d, float* copy) {
  if (from >= x.split || from + n <= x.split) return {x.row(b, from, h), x.stride(from)};
  for (int64_t i = 0; i < n; ++i) std::copy_n(x.row(b, from + i, h), d, copy + i * d);
  return {copy, d};
}

// A span of scratch memory handed out piece by piece.
struct AttentionScratch {
  Tensor memory;
  float* next;
  explicit AttentionScratch(int64_t floats)
      : memory(Tensor::empty({floats})), next(memory.data<float>()) {}
  float* take(int64_t floats) {
    float* piece = next;
    next += round_up(floats, 16);
    return piece;
  }
};

}  // namespace parlo::cpu
