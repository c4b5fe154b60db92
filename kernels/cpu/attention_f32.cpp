// Flash attention in f32: an online softmax between the two products of each tile. Sums over keys
// run in ascending order in blocks of kKeys, whatever the batch and the threads.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/cpu/attention_panels.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

// Queries of one head that make a task; each task packs the keys again.
constexpr int64_t kTaskQueries = 512;

struct Forward {
  const AttentionForwardArgs<float>& g;
  AttentionIsas isa;

  struct Memory {
    float *top2, *sum, *scores, *keys, *values;
    float *k, *v;  // copies of what lies in two tensors
    int64_t ld;    // of scores
  };

  // Queries [begin, end) of one head.
  void run(int64_t b, int64_t h, int64_t begin, int64_t end) const {
    const AttentionShape& s = g.s;
    const int64_t head = h / (s.heads / s.kv_heads), n = end - begin;
    const int64_t block = std::min(kKeys, round_up(std::max<int64_t>(1, s.tk), 16));
    const int64_t ld = block + kPadding, tile = tile_size(n, block), wide = round_up(s.d, 16);
    AttentionScratch scratch(2 * round_up(kTaskQueries, 16) + tile * ld + 4 * block * wide + 128);
    const Memory m{scratch.take(n),
                   scratch.take(n),
                   scratch.take(tile * ld),
                   scratch.take(block * s.d),
                   scratch.take(block * wide),
                   scratch.take(block * s.d),
                   scratch.take(block * s.d),
                   ld};
    std::fill_n(m.top2, n, -std::numeric_limits<float>::infinity());
    std::fill_n(m.sum, n, 0.0f);
    const int64_t all_keys = s.keys(b, end - 1);
    for (int64_t j = 0; j < all_keys; j += kKeys) {
      const int64_t cols = std::min(kKeys, all_keys - j);
      const PanelRows k = rows_of(g.k, b, head, j, cols, s.d, m.k);
      const PanelRows v = rows_of(g.v, b, head, j, cols, s.d, m.v);
      const PanelRows keys = transposed(isa.gemm, k.data, k.row, cols, s.d, m.keys);
      const PanelRows values = padded(isa.gemm, v.data, v.row, cols, s.d, m.values);
      g.q.each_part(begin, end, [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; i += tile) {
          const int64_t rows = std::min(tile, to - i);
          queries(b, h, i, rows, j, cols, i - begin, keys, values, m);
        }
      });
    }
    g.out.each_part(begin, end, [&](int64_t from, int64_t to) {
      isa.attention.end({m.top2 + from - begin, m.sum + from - begin, g.out.row(b, from, h),
                         g.lse + (b * s.heads + h) * s.tq + from, g.out.stride(from), to - from,
                         s.d});
    });
  }

  // Rows [i, i + rows) of one tensor, the `at`-th of the task, see the keys of [j, j + n).
  void queries(int64_t b, int64_t h, int64_t i, int64_t rows, int64_t j, int64_t n, int64_t at,
               const PanelRows& keys, const PanelRows& values, const Memory& m) const {
    const AttentionShape& s = g.s;
    const int64_t cols = std::min(n, s.keys(b, i + rows - 1) - j);
    if (cols <= 0) return;
    const int64_t seen = s.causal ? i + s.tk - s.tq + 1 - j : cols, out_row = g.out.stride(i);
    float* out = g.out.row(b, i, h);
    multiply(isa.gemm, rows, cols, s.d, g.q.row(b, i, h), g.q.stride(i), 1, keys, m.scores, m.ld,
             0);
    isa.attention.step(
        {{m.scores, m.ld, rows, cols, seen, s.causal ? 1 : 0, g.scale, g.scale * kLog2e},
         m.top2 + at,
         m.sum + at,
         out,
         out_row,
         s.d});
    multiply(isa.gemm, rows, s.d, cols, m.scores, m.ld, 1, values, out, out_row, j > 0);
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

}  // namespace parlo::cpu
