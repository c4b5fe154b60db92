// The decode step of a rollout in bf16: attention over the cache against the bytes of the keys and
// values that must be read (a shared prompt once a group), and the linears of few rows against the
// bytes of their weights.
#include <cmath>

#include "bench/gpu_measure.h"
#include "bench/gpu_shapes.h"
#include "kernels/decode.h"
#include "kernels/skinny.h"

namespace parlo::bench {
namespace {

struct Sizes {
  int64_t prompts, group, heads, kv_heads, d, own, prefix;

  int64_t batch() const { return prompts * group; }
  double bytes() const {
    const int64_t keys = batch() * (own + 1) + prompts * prefix;
    return 2.0 * static_cast<double>(2 * keys * kv_heads * d + 2 * batch() * heads * d);
  }
};

struct Operands {
  Tensor q, out;
  KvCache cache;
};

Operands operands(RandomKey key, const Sizes& s) {
  const auto tokens = [&](const char* name, int64_t n, int64_t t) {
    return normal(key.fold(name), {n, t, s.kv_heads, s.d});
  };
  const auto own = static_cast<double>(s.own);
  return {normal(key.fold("q"), {s.batch(), 1, s.heads, s.d}),
          room({s.batch(), 1, s.heads, s.d}),
          {tokens("k", s.batch(), s.own + 1),
           tokens("v", s.batch(), s.own + 1),
           Tensor::full({s.batch()}, own, DType::i64, kGpu),
           s.prefix > 0 ? tokens("prefix_k", s.prompts, s.prefix) : Tensor(),
           s.prefix > 0 ? tokens("prefix_v", s.prompts, s.prefix) : Tensor(),
           {}}};
}

void decode(benchmark::State& state, const Sizes& s) {
  const double scale = 1 / std::sqrt(static_cast<double>(s.d));
  const Timing t =
      rotate([&](RandomKey key) { return operands(key, s); },
             [&](const Operands& o) { cuda::decode_attention(o.q, o.cache, scale, o.out); });
  report(state, t, {0, s.bytes()});
}

struct Linear {
  Tensor x, w, y;
  LowRank low;
};

void skinny(benchmark::State& state, int64_t m, int64_t n, int64_t k, int64_t rank) {
  const Timing t = rotate(
      [&](RandomKey key) {
        Linear o{normal(key.fold("x"), {m, k}), normal(key.fold("w"), {n, k}), room({m, n}), {}};
        if (rank > 0) {
          o.low = {normal(key.fold("a"), {rank, k}), normal(key.fold("b"), {n, rank}), 1.0,
                   room({m, rank})};
        }
        return o;
      },
      [&](const Linear& o) {
        LinearArgs args;
        if (rank > 0) args.low_rank = &o.low;
        cuda::skinny_linear(o.x, o.w, o.y, args);
      });
  report(state, t, {0, 2.0 * static_cast<double>(m * k + n * k + m * n + rank * (n + k))});
}

}  // namespace

void add_gpu_decode() {
  for (const GpuShape& g : gpu_shapes("decode")) {
    const Sizes s{g["prompts"], g["group"], g["heads"],        g["kv_heads"],
                  g["d"],       g["own"],   g.get("prefix", 0)};
    add_gpu_benchmark("decode_attention/" + g.name(),
                      [s](benchmark::State& state) { decode(state, s); });
  }
  for (const GpuShape& g : gpu_shapes("skinny")) {
    const int64_t m = g["m"], n = g["n"], k = g["k"], rank = g.get("rank", 0);
    add_gpu_benchmark("skinny_linear/" + g.name(),
                      [=](benchmark::State& state) { skinny(state, m, n, k, 0); });
    if (rank > 0) {
      add_gpu_benchmark("skinny_lora/" + g.name(),
                        [=](benchmark::State& state) { skinny(state, m, n, k, rank); });
    }
  }
}

}  // namespace parlo::bench
