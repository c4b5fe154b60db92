// The register tile of the f32 GEMM: R rows x V registers of C stay in registers while K runs.
// 8 x 3 zmm need 24 accumulators, 3 registers of B and one of A; per step of K 24 multiply-adds
// stand against 11 loads, so the two FMA ports are the limit. Every element is one chain of
// multiply-adds in ascending k, whatever the tile: rows give the same bits in any company.
#pragma once

#include "kernels/cpu/isa/gemm_isa.h"
#include "kernels/cpu/isa/gemm_tail.h"
#include "kernels/cpu/isa/reg.h"

namespace parlo::cpu {
namespace {

// Rows of a tile: where A is row-major, a narrow panel takes more of them, so that the registers of
// sums are full (12 x 32 against 8 x 32 at K = 32: 1.1 times the speed).
#ifdef PARLO_AVX512
constexpr int kTileRows = 8, kTileVecs = 3, kNarrowRows = 12;
#else
constexpr int kTileRows = 6, kTileVecs = 2, kNarrowRows = 8;
#endif
constexpr int rows_of(int vecs, bool row_major) {
  return row_major && vecs < kTileVecs ? kNarrowRows : kTileRows;
}

template <int R, int V, bool kWhole>
inline void store_tile_of(const GemmPanel& g, float* c, const Reg (&sum)[R][V]) {
  const Reg alpha = reg_set(g.alpha), beta = reg_set(g.beta);
  const bool add = g.beta != 0;
#pragma GCC unroll 12
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
      float* at = c + i * g.c_row + v * kRegLanes;
      const int64_t n = kWhole ? kRegLanes : g.cols - v * kRegLanes;
      Reg value = sum[i][v] * alpha;
      if (add) value = reg_fma(beta, reg_load_upto(at, n), value);
      reg_store_upto(at, value, n);
    }
  }
}

template <int R, int V>
inline void store_tile(const GemmPanel& g, float* c, const Reg (&sum)[R][V]) {
  if (g.cols >= V * kRegLanes) return store_tile_of<R, V, true>(g, c, sum);
  store_tile_of<R, V, false>(g, c, sum);
}

// Steps of k between two prefetches: one cache line of every row.
constexpr int64_t kPrefetch = 16;

// Brings in the lines that the next tile writes, and reads in its tail, a few rows at a time: all
// at once they take every buffer for missing lines, and the loads of A and B wait behind them.
template <int R, int V>
struct NextTile {
  const float* c;
  const float* others[2] = {nullptr, nullptr};
  int left = R;

  NextTile(const GemmPanel& g, int64_t row) {
    const int64_t at = row + R < g.rows ? (row + R) * g.c_row : V * kRegLanes;
    c = g.c + at;
    if (!g.tail) return;
    if (g.tail->pre_activation) others[0] = g.tail->pre_activation + at;
    if (g.tail->residual) others[1] = g.tail->residual + at;
  }

  static void touch(const float*& row, int64_t distance) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) __builtin_prefetch(row + v * kRegLanes, 1);
    row += distance;
  }

  void prefetch(const GemmPanel& g) {
    for (int i = 0; i < (R + 3) / 4 && left > 0; ++i, --left) {
      touch(c, g.c_row);
      for (const float*& other : others) {
        if (other) touch(other, g.c_row);
      }
    }
  }
};

// One step of k: row i of A is at a + i * a_row.
template <int R, int V>
inline void gemm_step(const float* a, int64_t a_row, const float* b, Reg (&sum)[R][V]) {
  Reg panel[V];
#pragma GCC unroll 3
  for (int v = 0; v < V; ++v) panel[v] = reg_load(b + v * kRegLanes);
#pragma GCC unroll 12
  for (int i = 0; i < R; ++i) {
    const Reg x = reg_set(a[i * a_row]);
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) sum[i][v] = reg_fma(x, panel[v], sum[i][v]);
  }
}

// The low-rank term goes on with the same chains; then the tile leaves the registers.
template <int R, int V>
inline void finish_tile(const GemmPanel& g, int64_t row, Reg (&sum)[R][V]) {
  for (int64_t r = 0; r < g.rank; ++r) {
    gemm_step<R, V>(g.low_a + row * g.rank + r, g.rank, g.low_b + r * g.b_row, sum);
  }
  float* c = g.c + row * g.c_row;
  store_tile<R, V>(g, c, sum);
  if (!g.tail) return;
  const int64_t cols = g.cols < V * kRegLanes ? g.cols : V * kRegLanes;
  gemm_tail({*g.tail, c, g.c_row, row * g.c_row, R, cols});
}

// Rows [row, row + R) with A at a. kRowMajor: a_col is 1, else a_row is 1.
template <int R, int V, bool kRowMajor>
void gemm_tile(const GemmPanel& g, const float* a, int64_t row) {
  Reg sum[R][V];
#pragma GCC unroll 12
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) sum[i][v] = reg_zero();
  }
  const int64_t a_row = kRowMajor ? g.a_row : 1, a_col = kRowMajor ? 1 : g.a_col;
  const float* b = g.b;
  int64_t left = g.k;
  if constexpr (R == rows_of(V, kRowMajor)) {
    NextTile<R, V> next(g, row);
    for (; left >= kPrefetch; left -= kPrefetch) {
      next.prefetch(g);
      if (kRowMajor) {  // the same columns of the next tile's rows
#pragma GCC unroll 12
        for (int i = 0; i < R; ++i) __builtin_prefetch(a + (R + i) * a_row);
      }
      for (int64_t k = 0; k < kPrefetch; k += 4) {
        gemm_step<R, V>(a, a_row, b, sum);
        gemm_step<R, V>(a + a_col, a_row, b + g.b_row, sum);
        gemm_step<R, V>(a + 2 * a_col, a_row, b + 2 * g.b_row, sum);
        gemm_step<R, V>(a + 3 * a_col, a_row, b + 3 * g.b_row, sum);
        a += 4 * a_col, b += 4 * g.b_row;
      }
    }
  }
  for (; left > 0; --left, a += a_col, b += g.b_row) gemm_step<R, V>(a, a_row, b, sum);
  finish_tile<R, V>(g, row, sum);
}

template <int R, int V, bool kRowMajor>
void gemm_rest(const GemmPanel& g, const float* a, int64_t row) {
  if (g.rows - row == R) return gemm_tile<R, V, kRowMajor>(g, a, row);
  if constexpr (R > 1) gemm_rest<R - 1, V, kRowMajor>(g, a, row);
}

template <int V, bool kRowMajor>
void gemm_rows(const GemmPanel& g) {
  constexpr int kRows = rows_of(V, kRowMajor);
  int64_t i = 0;
  const float* a = g.a;
  const int64_t a_tile = kRowMajor ? kRows * g.a_row : g.a_tile;
  for (; i + kRows <= g.rows; i += kRows, a += a_tile) gemm_tile<kRows, V, kRowMajor>(g, a, i);
  if (i < g.rows) gemm_rest<kRows - 1, V, kRowMajor>(g, a, i);
}

template <int V>
void gemm_panel_of(const GemmPanel& g) {
  if (g.a_col == 1) {
    gemm_rows<V, true>(g);
  } else {
    gemm_rows<V, false>(g);
  }
}

inline void gemm_panel(const GemmPanel& g) {
  if (g.vecs == 1) return gemm_panel_of<1>(g);
  if (g.vecs == 2) return gemm_panel_of<2>(g);
  if constexpr (kTileVecs > 2) gemm_panel_of<3>(g);
}

// 8 x 8 transpose: row i of the result is column i of rows p[0], p[step], ...
inline void transpose8(const __m256 (&in)[8], __m256 (&out)[8]) {
  __m256 t[8], u[8];
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_ps(in[2 * i], in[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(in[2 * i], in[2 * i + 1]);
  }
  for (int h = 0; h < 2; ++h) {
    u[4 * h] = _mm256_shuffle_ps(t[4 * h], t[4 * h + 2], 0x44);
    u[4 * h + 1] = _mm256_shuffle_ps(t[4 * h], t[4 * h + 2], 0xee);
    u[4 * h + 2] = _mm256_shuffle_ps(t[4 * h + 1], t[4 * h + 3], 0x44);
    u[4 * h + 3] = _mm256_shuffle_ps(t[4 * h + 1], t[4 * h + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    out[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    out[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}

inline __m256 load8(const float* p) {
  return _mm256_loadu_ps(p);
}
inline __m256 load8(const uint16_t* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline float load1(const float* p) {
  return *p;
}
inline float load1(const uint16_t* p) {
  const uint32_t bits = static_cast<uint32_t>(*p) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// Short pieces of rows far apart are not seen as a stream by the hardware.
constexpr int64_t kPackAhead = 12;
inline void prefetch_row(const void* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(from) + i);
}

template <class T>
void pack_rows(const GemmPack& g) {
  const T* b = static_cast<const T*>(g.b);
  for (int64_t k = 0; k < g.k; ++k) {
    float* out = g.out + k * g.width;
    const T* row = b + k * g.b_row;
    prefetch_row(row + kPackAhead * g.b_row, g.cols * static_cast<int64_t>(sizeof(T)));
    int64_t j = 0;
    for (; j + 8 <= g.cols; j += 8) _mm256_storeu_ps(out + j, load8(row + j));
    for (; j < g.cols; ++j) out[j] = load1(row + j);
    for (; j < g.width; ++j) out[j] = 0;
  }
}

template <class T>
void pack_columns(const GemmPack& g) {
  const T* b = static_cast<const T*>(g.b);
  for (int64_t j = 0; j < g.width; j += 8) {
    int64_t k = 0;
    for (; k + 8 <= g.k && j + 8 <= g.cols; k += 8) {
      __m256 in[8], out[8];
      for (int i = 0; i < 8; ++i) in[i] = load8(b + (j + i) * g.b_col + k);
      transpose8(in, out);
      for (int i = 0; i < 8; ++i) _mm256_storeu_ps(g.out + (k + i) * g.width + j, out[i]);
    }
    for (; k < g.k; ++k) {
      for (int64_t i = j; i < j + 8; ++i) {
        g.out[k * g.width + i] = i < g.cols ? load1(b + i * g.b_col + k) : 0;
      }
    }
  }
}

inline void pack_a(const GemmPackA& g) {
  for (int64_t k = 0; k < g.k; ++k) {
    const float* from = g.a + k * g.a_col;
    prefetch_row(from + kPackAhead * g.a_col, g.rows * static_cast<int64_t>(sizeof(float)));
    float* out = g.out + k * kTileRows;
    int64_t i = 0;
    for (; i + kTileRows <= g.rows; i += kTileRows, out += g.k * kTileRows) {
      __builtin_memcpy(out, from + i, sizeof(float) * kTileRows);
    }
    for (int64_t rest = 0; i + rest < g.rows; ++rest) out[rest] = from[i + rest];
  }
}

template <class T>
void pack_panel(const GemmPack& g) {
  if (g.b_col == 1) return pack_rows<T>(g);
  pack_columns<T>(g);
}

}  // namespace
}  // namespace parlo::cpu
