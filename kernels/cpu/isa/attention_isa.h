// Softmax over the rows of one tile of scores, forward and backward. Exponentials are of base 2:
// scale2 = scale / ln 2, and maxima and lse are kept in that unit (`top2`, `lse2`).
#pragma once

#include <cstdint>

namespace parlo::cpu {

// Row i of the tile sees the keys [0, clamp(first_keys + i * step, 0, cols)); step is 1 under a
// causal mask, else 0.
struct AttentionTile {
  float* s;     // scores in, probabilities out; masked columns become 0
  int64_t row;  // distance of rows of s
  int64_t rows, cols, first_keys, step;
  float scale, scale2;
};

// One step of the online softmax: s -> 2^(s scale2 - top2), sums added to `sum`; where the maximum
// rises, `sum` and the rows of out (d floats) are scaled down to it.
struct SoftmaxStep {
  AttentionTile tile;
  float* top2;  // one a row; -infinity before the first key
  float* sum;
  float* out;
  int64_t out_row, d;
};

// s -> p = 2^(s scale2 - lse2), dp -> p (dp - delta) scale.
struct SoftmaxBackward {
  AttentionTile tile;
  float* dp;  // rows as far apart as those of s
  const float* lse2;
  const float* delta;
};

// out /= sum (zero for a row without keys); lse = ln 2 (top2 + log2 sum).
struct SoftmaxEnd {
  const float* top2;
  const float* sum;
  float* out;
  float* lse;
  int64_t out_row, rows, d;
};

// delta[i] = out[i] . dout[i]; lse2 = lse / ln 2.
struct AttentionDelta {
  const float *out, *dout, *lse;
  int64_t out_row, dout_row, rows, d;
  float *delta, *lse2;
};

struct AttentionIsa {
  void (*step)(const SoftmaxStep&);
  void (*end)(const SoftmaxEnd&);
  void (*backward)(const SoftmaxBackward&);
  void (*delta)(const AttentionDelta&);
};
extern const AttentionIsa attention_avx2, attention_avx512;

}  // namespace parlo::cpu
