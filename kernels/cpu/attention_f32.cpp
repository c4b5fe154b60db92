// Flash attention in f32: tiles of kQueries x kKeys scores in the L1 or L2, both products by the
// GEMM's register tile, an online softmax between them. Sums over keys run in ascending order in
// blocks of kKeys, whatever the batch and the threads.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/cpu/attention_args.h"
#include "kernels/cpu/gemm_panels.h"
#include "kernels/cpu/isa/attention_isa.h"
#include "kernels/cpu/isa/gemm_isa.h"
#include "kernels/cpu/isa/isa.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

constexpr int64_t kKeys = 256;
// A tile of scores of this many floats lies in the L1 with what is multiplied; it has at least
// kFewQueries rows.
constexpr int64_t kScores = 96 * 96, kFewQueries = 48;
// Queries of one head that make a task; each task packs the keys again.
constexpr int64_t kTaskQueries = 512;
// Rows of scores are this much further apart than needed, so that they do not alias in the L1.
constexpr int64_t kPadding = 16;
constexpr float kLog2e = 1.44269504f;
constexpr double kSerialOperations = 4e6;

struct Isas {
  const GemmIsa& gemm = PARLO_ISA_TABLE(gemm);
  const AttentionIsa& attention = PARLO_ISA_TABLE(attention);
};

// Rows of n floats, used as the B of a product.
struct Rows {
  const float* data;
  int64_t row;
};

int64_t round_up(int64_t n, int64_t unit) {
  return ceil_div(n, unit) * unit;
}

// Queries in a tile: tiles of equal size, a multiple of 8.
int64_t tile_size(int64_t queries, int64_t keys) {
  const int64_t most = std::max(kFewQueries, kScores / round_up(keys, 16));
  return round_up(ceil_div(queries, ceil_div(queries, most)), 8);
}

// c[rows, n] = a[rows, k] b + beta c, where b lies in rows of whole registers.
void multiply(const GemmIsa& isa, int64_t rows, int64_t n, int64_t k, const float* a, int64_t a_row,
              int64_t a_col, const Rows& b, float* c, int64_t c_row, float beta) {
  const Panels panels(isa, n);
  for (int64_t p = 0; p < panels.count; ++p) {
    const int64_t j = panels.begin(p);
    isa.panel({a, a_row, a_col, a_row * isa.tile_rows, b.data + j, b.row, panels.width_vecs(p),
               c + j, c_row, rows, n - j, k, 1.0f, beta});
  }
}

// Row j of x becomes column j of out [n, padded rows].
Rows transposed(const GemmIsa& isa, const float* x, int64_t row, int64_t rows, int64_t n,
                float* out) {
  const int64_t width = round_up(rows, isa.lanes);
  isa.pack_f32({x, 1, row, n, rows, width, out});
  return {out, width};
}

// x itself when its rows fill whole registers, else a padded copy.
Rows padded(const GemmIsa& isa, const float* x, int64_t row, int64_t rows, int64_t n, float* out) {
  if (n % isa.lanes == 0) return {x, row};
  const int64_t width = round_up(n, isa.lanes);
  isa.pack_f32({x, row, 1, rows, n, width, out});
  return {out, width};
}

// A span of scratch memory handed out piece by piece.
struct Scratch {
  Tensor memory;
  float* next;
  explicit Scratch(int64_t floats) : memory(Tensor::empty({floats})), next(memory.data<float>()) {}
  float* take(int64_t floats) {
    float* piece = next;
    next += round_up(floats, 16);
    return piece;
  }
};

struct Forward {
  const AttentionForwardArgs<float>& g;
  Isas isa;

  // Queries [begin, end) of one head.
  void run(int64_t b, int64_t h, int64_t begin, int64_t end) const {
    const AttentionShape& s = g.s;
    const int64_t head = h / (s.heads / s.kv_heads);
    const int64_t block = std::min(kKeys, round_up(std::max<int64_t>(1, s.tk), 16));
    const int64_t ld = block + kPadding, tile = tile_size(end - begin, block);
    Scratch scratch(2 * round_up(kTaskQueries, 16) + tile * ld + 2 * block * round_up(s.d, 16) +
                    128);
    float *top2 = scratch.take(end - begin), *sum = scratch.take(end - begin);
    float *scores = scratch.take(tile * ld), *keys_memory = scratch.take(block * s.d);
    float* values_memory = scratch.take(block * round_up(s.d, 16));
    std::fill_n(top2, end - begin, -std::numeric_limits<float>::infinity());
    std::fill_n(sum, end - begin, 0.0f);
    const int64_t all_keys = s.keys(b, end - 1);
    for (int64_t j = 0; j < all_keys; j += kKeys) {
      const int64_t n = std::min(kKeys, all_keys - j);
      const Rows keys = transposed(isa.gemm, g.k.row(b, j, head), g.k.t, n, s.d, keys_memory);
      const Rows values = padded(isa.gemm, g.v.row(b, j, head), g.v.t, n, s.d, values_memory);
      for (int64_t i = begin; i < end; i += tile) {
        const int64_t rows = std::min(tile, end - i);
        const int64_t cols = std::min(n, s.keys(b, i + rows - 1) - j);
        if (cols <= 0) continue;
        const float* q = g.q.row(b, i, h);
        float* out = g.out.row(b, i, h);
        multiply(isa.gemm, rows, cols, s.d, q, g.q.t, 1, keys, scores, ld, 0);
        const AttentionTile t = tile_of(scores, ld, rows, cols, b, i, j);
        isa.attention.step({t, top2 + i - begin, sum + i - begin, out, g.out.t, s.d});
        multiply(isa.gemm, rows, s.d, cols, scores, ld, 1, values, out, g.out.t, j > 0);
      }
    }
    isa.attention.end({top2, sum, g.out.row(b, begin, h), g.lse + (b * s.heads + h) * s.tq + begin,
                       g.out.t, end - begin, s.d});
  }

  AttentionTile tile_of(float* scores, int64_t ld, int64_t rows, int64_t cols, int64_t b, int64_t i,
                        int64_t j) const {
    const AttentionShape& s = g.s;
    const int64_t seen = s.causal ? i + s.tk - s.tq + 1 - j : cols;
    (void)b;
    return {scores, ld, rows, cols, seen, s.causal ? 1 : 0, g.scale, g.scale * kLog2e};
  }
};

struct Backward {
  const AttentionBackwardArgs<float>& g;
  Isas isa;

  struct Memory {
    float *keys, *values, *plain_keys, *scores, *dscores, *queries, *douts, *delta, *lse2;
  };

  // Key head `head` of one batch entry: its dk and dv, and dq of the query heads it serves.
  void run(int64_t b, int64_t head) const {
    const AttentionShape& s = g.s;
    const int64_t group = s.heads / s.kv_heads, wide = round_up(s.d, 16);
    const int64_t seen_keys = s.tq > 0 ? s.keys(b, s.tq - 1) : 0;
    clear(g.dk, b, head, seen_keys, s.tk);
    clear(g.dv, b, head, seen_keys, s.tk);
    if (seen_keys == 0) {
      for (int64_t h = head * group; h < (head + 1) * group; ++h) clear(g.dq, b, h, 0, s.tq);
      return;
    }
    const int64_t block = std::min(kKeys, round_up(s.tk, 16)), tile = tile_size(s.tq, block);
    const int64_t ld = block + kPadding;
    Scratch scratch(3 * block * wide + 2 * tile * (ld + wide) + 2 * s.tq + 256);
    Memory m{scratch.take(block * s.d), scratch.take(block * s.d), scratch.take(block * wide),
             scratch.take(tile * ld),   scratch.take(tile * ld),   scratch.take(tile * wide),
             scratch.take(tile * wide), scratch.take(s.tq),        scratch.take(s.tq)};
    for (int64_t h = head * group; h < (head + 1) * group; ++h) {
      isa.attention.delta({g.out.row(b, 0, h), g.dout.row(b, 0, h),
                           g.lse + (b * s.heads + h) * s.tq, g.out.t, g.dout.t, s.tq, s.d, m.delta,
                           m.lse2});
      for (int64_t j = 0; j < seen_keys; j += kKeys) {
        key_block(b, head, h, j, std::min(kKeys, seen_keys - j), tile, ld, m);
      }
    }
  }

  void clear(const Heads<float>& x, int64_t b, int64_t h, int64_t from, int64_t to) const {
    for (int64_t i = from; i < to; ++i) std::fill_n(x.row(b, i, h), g.s.d, 0.0f);
  }

  void key_block(int64_t b, int64_t head, int64_t h, int64_t j, int64_t n, int64_t tile, int64_t ld,
                 const Memory& m) const {
    const AttentionShape& s = g.s;
    const float *k = g.k.row(b, j, head), *v = g.v.row(b, j, head);
    const Rows keys = transposed(isa.gemm, k, g.k.t, n, s.d, m.keys);
    const Rows values = transposed(isa.gemm, v, g.v.t, n, s.d, m.values);
    const Rows plain_keys = padded(isa.gemm, k, g.k.t, n, s.d, m.plain_keys);
    for (int64_t i = 0; i < s.tq; i += tile) {
      const int64_t rows = std::min(tile, s.tq - i);
      const int64_t cols = std::min(n, s.keys(b, i + rows - 1) - j);
      // The first product into a row of a gradient writes, later ones add.
      const bool first = i == 0 && h == head * (s.heads / s.kv_heads);
      if (first && cols < n) {
        clear(g.dk, b, head, j + std::max<int64_t>(0, cols), j + n);
        clear(g.dv, b, head, j + std::max<int64_t>(0, cols), j + n);
      }
      if (cols <= 0) {
        if (j == 0) clear(g.dq, b, h, i, i + rows);
        continue;
      }
      const float *q = g.q.row(b, i, h), *dout = g.dout.row(b, i, h);
      multiply(isa.gemm, rows, cols, s.d, q, g.q.t, 1, keys, m.scores, ld, 0);
      multiply(isa.gemm, rows, cols, s.d, dout, g.dout.t, 1, values, m.dscores, ld, 0);
      const int64_t seen = s.causal ? i + s.tk - s.tq + 1 - j : cols;
      isa.attention.backward(
          {{m.scores, ld, rows, cols, seen, s.causal ? 1 : 0, g.scale, g.scale * kLog2e},
           m.dscores,
           m.lse2 + i,
           m.delta + i});
      const Rows douts = padded(isa.gemm, dout, g.dout.t, rows, s.d, m.douts);
      const Rows queries = padded(isa.gemm, q, g.q.t, rows, s.d, m.queries);
      multiply(isa.gemm, cols, s.d, rows, m.scores, 1, ld, douts, g.dv.row(b, j, head), g.dv.t,
               first ? 0 : 1);
      multiply(isa.gemm, cols, s.d, rows, m.dscores, 1, ld, queries, g.dk.row(b, j, head), g.dk.t,
               first ? 0 : 1);
      multiply(isa.gemm, rows, s.d, cols, m.dscores, ld, 1, plain_keys, g.dq.row(b, i, h), g.dq.t,
               j > 0 ? 1 : 0);
    }
  }
};

}  // namespace

void attention_f32(const AttentionForwardArgs<float>& g) {
  const AttentionShape& s = g.s;
  const Forward forward{g, {}};
  const int64_t parts = ceil_div(s.tq, kTaskQueries), tasks = s.batch * s.heads * parts;
  const double operations = 4.0 * tasks * std::min(s.tq, kTaskQueries) * s.tk * s.d;
  parallel_for(tasks, operations < kSerialOperations ? tasks : 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i % parts * kTaskQueries, head = i / parts;
      forward.run(head / s.heads, head % s.heads, begin, std::min(s.tq, begin + kTaskQueries));
    }
  });
}

void attention_backward_f32(const AttentionBackwardArgs<float>& g) {
  const AttentionShape& s = g.s;
  const Backward backward{g, {}};
  const int64_t tasks = s.batch * s.kv_heads;
  const double operations = 10.0 * s.batch * s.heads * s.tq * s.tk * s.d;
  parallel_for(tasks, operations < kSerialOperations ? tasks : 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) backward.run(i / s.kv_heads, i % s.kv_heads);
  });
}

}  // namespace parlo::cpu
