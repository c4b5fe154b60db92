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

  // Queries [begin, end) of one head.
  void run(int64_t b, int64_t h, int64_t begin, int64_t end) const {
    const AttentionShape& s = g.s;
    const int64_t head = h / (s.heads / s.kv_heads);
    const int64_t block = std::min(kKeys, round_up(std::max<int64_t>(1, s.tk), 16));
    const int64_t ld = block + kPadding, tile = tile_size(end - begin, block);
    AttentionScratch scratch(2 * round_up(kTaskQueries, 16) + tile * ld +
                             2 * block * round_up(s.d, 16) + 128);
    float *top2 = scratch.take(end - begin), *sum = scratch.take(end - begin);
    float *scores = scratch.take(tile * ld), *keys_memory = scratch.take(block * s.d);
    float* values_memory = scratch.take(block * round_up(s.d, 16));
    std::fill_n(top2, end - begin, -std::numeric_limits<float>::infinity());
    std::fill_n(sum, end - begin, 0.0f);
    const int64_t all_keys = s.keys(b, end - 1);
    for (int64_t j = 0; j < all_keys; j += kKeys) {
      const int64_t n = std::min(kKeys, all_keys - j);
      const PanelRows keys = transposed(isa.gemm, g.k.row(b, j, head), g.k.t, n, s.d, keys_memory);
      const PanelRows values = padded(isa.gemm, g.v.row(b, j, head), g.v.t, n, s.d, values_memory);
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
