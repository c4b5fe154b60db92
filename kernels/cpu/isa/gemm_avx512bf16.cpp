// The register tile with bf16 dot products (vdpbf16ps): two steps of K an instruction. Operands
// hold pairs (k, k + 1) of bf16 numbers in 32 bits, the lower first; an odd K ends in a zero.
#include "kernels/cpu/isa/gemm_isa.h"
#include "kernels/cpu/isa/gemm_tile.h"
#include "kernels/cpu/isa/isa.h"

namespace parlo::cpu {
namespace {

inline uint32_t load_pair(const float* p) {
  uint32_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return bits;
}

template <int R, int V>
inline void pair_step(const float* a, int64_t a_row, const float* b, Reg (&sum)[R][V]) {
  __m512bh panel[V];
#pragma GCC unroll 3
  for (int v = 0; v < V; ++v) {
    panel[v] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + v * kRegLanes));
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
    const __m512i x = _mm512_set1_epi32(static_cast<int>(load_pair(a + i * a_row)));
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
      sum[i][v] = _mm512_dpbf16_ps(sum[i][v], reinterpret_cast<__m512bh>(x), panel[v]);
    }
  }
}

template <int R, int V>
void pair_tile(const GemmPanel& g, int64_t row) {
  Reg sum[R][V];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) sum[i][v] = reg_zero();
  }
  const float* a = g.a + row * g.a_row;
  const float* b = g.b;
  NextTile<R, V> next(g, row);
  for (int64_t k = 0; k < g.k;) {
    next.prefetch(g);
    for (const int64_t end = k + kPrefetch < g.k ? k + kPrefetch : g.k; k < end;
         ++k, ++a, b += g.b_row) {
      pair_step<R, V>(a, g.a_row, b, sum);
    }
  }
  finish_tile<R, V>(g, row, sum);
}

template <int R, int V>
void pair_rest(const GemmPanel& g, int64_t row) {
  if (g.rows - row == R) return pair_tile<R, V>(g, row);
  if constexpr (R > 1) pair_rest<R - 1, V>(g, row);
}

template <int V>
void pair_rows(const GemmPanel& g) {
  int64_t i = 0;
  for (; i + kTileRows <= g.rows; i += kTileRows) pair_tile<kTileRows, V>(g, i);
  if (i < g.rows) pair_rest<kTileRows - 1, V>(g, i);
}

void pair_panel(const GemmPanel& g) {
  if (g.vecs == 1) return pair_rows<1>(g);
  if (g.vecs == 2) return pair_rows<2>(g);
  pair_rows<3>(g);
}

// Rounds rows of f32 to nearest even.
void pack_pairs_a(const GemmPairsA& g) {
  for (int64_t i = 0; i < g.rows; ++i) {
    const float* from = g.a + i * g.a_row;
    auto* out = reinterpret_cast<char*>(g.out + i * g.out_row);
    int64_t k = 0;
    for (; k < g.k; k += kRegLanes) {
      const int64_t n = g.k - k < kRegLanes ? g.k - k : kRegLanes;
      const __m256bh pairs = _mm512_cvtneps_pbh(reg_load_upto(from + k, n));
      const auto mask = static_cast<__mmask8>((1u << ((n + 1) / 2)) - 1);
      _mm256_mask_storeu_epi32(out + 2 * k, mask, reinterpret_cast<__m256i>(pairs));
    }
  }
}

void pack_pairs_b(const GemmPairsB& g) {
  const int64_t pairs = (g.k + 1) / 2;
  for (int64_t j = 0; j < g.width; j += 8) {
    int64_t p = 0;
    for (; 2 * p + 16 <= g.k && j + 8 <= g.cols; p += 8) {
      __m256 in[8], out[8];
      for (int i = 0; i < 8; ++i) {
        in[i] = load8(reinterpret_cast<const float*>(g.b + (j + i) * g.b_col + 2 * p));
      }
      transpose8(in, out);
      for (int i = 0; i < 8; ++i) _mm256_storeu_ps(g.out + (p + i) * g.width + j, out[i]);
    }
    for (; p < pairs; ++p) {
      for (int64_t i = j; i < j + 8; ++i) {
        uint16_t pair[2] = {0, 0};
        if (i < g.cols) {
          pair[0] = g.b[i * g.b_col + 2 * p];
          if (2 * p + 1 < g.k) pair[1] = g.b[i * g.b_col + 2 * p + 1];
        }
        __builtin_memcpy(g.out + p * g.width + i, pair, sizeof pair);
      }
    }
  }
}

}  // namespace

extern const GemmPairsIsa PARLO_ISA_NAME(gemm);
const GemmPairsIsa PARLO_ISA_NAME(gemm) = {pair_panel, pack_pairs_a, pack_pairs_b};

}  // namespace parlo::cpu
