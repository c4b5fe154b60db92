// Backward of flash attention in f32; order of sums as in the forward.
#include <algorithm>
#include <cstdint>

#include "kernels/cpu/attention_panels.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

struct Backward {
  const AttentionBackwardArgs<float>& g;
  AttentionIsas isa;

  struct Memory {
    float *keys, *values, *plain_keys, *scores, *dscores, *queries, *douts, *delta, *lse2;
    float *k, *v, *q, *dout;  // copies of what lies in two tensors
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
    AttentionScratch scratch(5 * block * wide + 2 * tile * (ld + 2 * wide) + 2 * s.tq + 256);
    Memory m{scratch.take(block * s.d), scratch.take(block * s.d), scratch.take(block * wide),
             scratch.take(tile * ld),   scratch.take(tile * ld),   scratch.take(tile * wide),
             scratch.take(tile * wide), scratch.take(s.tq),        scratch.take(s.tq),
             scratch.take(block * s.d), scratch.take(block * s.d), scratch.take(tile * s.d),
             scratch.take(tile * s.d)};
    for (int64_t h = head * group; h < (head + 1) * group; ++h) {
      g.out.each_part(0, s.tq, [&](int64_t from, int64_t to) {
        isa.attention.delta({g.out.row(b, from, h), g.dout.row(b, from, h),
                             g.lse + (b * s.heads + h) * s.tq + from, g.out.stride(from),
                             g.dout.stride(from), to - from, s.d, m.delta + from, m.lse2 + from});
      });
      for (int64_t j = 0; j < seen_keys; j += kKeys) {
        key_block(b, head, h, j, std::min(kKeys, seen_keys - j), tile, ld, m);
      }
    }
  }

  void clear(const Heads<float>& x, int64_t b, int64_t h, int64_t from, int64_t to) const {
    for (int64_t i = from; i < to; ++i) std::fill_n(x.row(b, i, h), g.s.d, 0.0f);
  }

  // Rows [from, from + n) of a gradient = a[n, k] x, added to what they are.
  void product(const Heads<float>& to, int64_t b, int64_t h, int64_t from, int64_t n, int64_t k,
               const float* a, int64_t a_row, int64_t a_col, const PanelRows& x, bool add) const {
    to.each_part(from, from + n, [&](int64_t begin, int64_t end) {
      multiply(isa.gemm, end - begin, g.s.d, k, a + (begin - from) * a_row, a_row, a_col, x,
               to.row(b, begin, h), to.stride(begin), add);
    });
  }

  void key_block(int64_t b, int64_t head, int64_t h, int64_t j, int64_t n, int64_t tile, int64_t ld,
                 const Memory& m) const {
    const AttentionShape& s = g.s;
    const PanelRows k = rows_of(g.k, b, head, j, n, s.d, m.k);
    const PanelRows v = rows_of(g.v, b, head, j, n, s.d, m.v);
    const PanelRows keys = transposed(isa.gemm, k.data, k.row, n, s.d, m.keys);
    const PanelRows values = transposed(isa.gemm, v.data, v.row, n, s.d, m.values);
    const PanelRows plain_keys = padded(isa.gemm, k.data, k.row, n, s.d, m.plain_keys);
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
      const PanelRows q = rows_of(g.q, b, h, i, rows, s.d, m.q);
      const PanelRows dout = rows_of(g.dout, b, h, i, rows, s.d, m.dout);
      multiply(isa.gemm, rows, cols, s.d, q.data, q.row, 1, keys, m.scores, ld, 0);
      multiply(isa.gemm, rows, cols, s.d, dout.data, dout.row, 1, values, m.dscores, ld, 0);
      const int64_t seen = s.causal ? i + s.tk - s.tq + 1 - j : cols;
      isa.attention.backward(
          {{m.scores, ld, rows, cols, seen, s.causal ? 1 : 0, g.scale, g.scale * kLog2e},
           m.dscores,
           m.lse2 + i,
           m.delta + i});
      const PanelRows douts = padded(isa.gemm, dout.data, dout.row, rows, s.d, m.douts);
      const PanelRows queries = padded(isa.gemm, q.data, q.row, rows, s.d, m.queries);
      product(g.dv, b, head, j, cols, rows, m.scores, 1, ld, douts, !first);
      product(g.dk, b, head, j, cols, rows, m.dscores, 1, ld, queries, !first);
      product(g.dq, b, h, i, rows, cols, m.dscores, ld, 1, plain_keys, j > 0);
    }
  }
};

}  // namespace

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
