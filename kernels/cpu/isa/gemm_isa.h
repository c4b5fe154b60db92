// What the f32 GEMM needs per instruction set: packing of B into panels, and the product of some
// rows with one panel, with the low-rank term and the tail of a linear layer. A panel is `vecs`
// registers wide (see gemm_panels.h); its row k starts at b + k * b_row.
#pragma once

#include <cstdint>

namespace parlo::cpu {

// What follows on a finished tile while it is in the L1: y = activation(y + bias) + residual. Rows
// are as far apart as those of y.
struct GemmTail {
  const float* bias;      // or null
  float* pre_activation;  // or null
  const float* residual;  // or null; may be y
  int activation;         // of enum Activation
};

// c[i, j] = alpha * (sum over k of a[i, k] b[k, j] + sum over r of low_a[i, r] low_b[r, j])
//           + beta * c[i, j] for i < rows, j < cols, then the tail.
// One of a_row and a_col is 1; if it is a_row, tiles of tile_rows rows of A are a_tile apart.
// beta == 0 does not read c.
struct GemmPanel {
  const float* a;
  int64_t a_row, a_col, a_tile;
  const float* b;
  int64_t b_row;
  int vecs;
  float* c;
  int64_t c_row;
  int64_t rows, cols, k;
  float alpha, beta;
  const float* low_a = nullptr;  // [rows, rank]
  const float* low_b = nullptr;  // as b, rows b_row apart
  int64_t rank = 0;
  const GemmTail* tail = nullptr;  // pointers at the panel's first element; or null
};

// out[k, j] = b[k * b_row + j * b_col] for j < cols, 0 for cols <= j < width. One of b_row and
// b_col is 1. T is float or the bits of a bf16 number.
struct GemmPack {
  const void* b;
  int64_t b_row, b_col;
  int64_t k, cols, width;
  float* out;
};

// Tiles of A for a panel call with a_row 1 and a_col tile_rows: tile t holds k rows of the elements
// a[t * tile_rows + i + k * a_col], i < tile_rows. Reading A' where it lies touches a page or two
// for every step of K.
struct GemmPackA {
  const float* a;
  int64_t a_col;
  int64_t k, rows;
  float* out;  // tiles are k * tile_rows apart
};

struct GemmIsa {
  int lanes;     // floats in a register
  int max_vecs;  // widest panel, in registers
  int tile_rows;
  void (*panel)(const GemmPanel&);
  void (*pack_a)(const GemmPackA&);
  void (*pack_f32)(const GemmPack&);
  void (*pack_bf16)(const GemmPack&);  // widens
};
extern const GemmIsa gemm_avx2, gemm_avx512;

// Rows of A rounded to pairs of bf16.
struct GemmPairsA {
  const float* a;
  int64_t a_row, rows, k;
  float* out;  // ceil(k / 2) pairs a row, rows out_row pairs apart
  int64_t out_row;
};

// A panel of pairs from the transpose of B: element (k, j) is b[j * b_col + k].
struct GemmPairsB {
  const uint16_t* b;
  int64_t b_col, k, cols, width;
  float* out;
};

// The same product with operands in pairs of bf16 (32 bits each, in memory typed float): panel's k
// and a_row count pairs.
struct GemmPairsIsa {
  void (*panel)(const GemmPanel&);
  void (*pack_a)(const GemmPairsA&);
  void (*pack_b)(const GemmPairsB&);
};
extern const GemmPairsIsa gemm_avx512bf16;

}  // namespace parlo::cpu
