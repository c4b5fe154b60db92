// Attention forward (4 B H T^2 D operations) and backward (10 B H T^2 D: five products) against the
// FMA probe. The first shape is the demo's: 64 image and 16 text tokens, batch 96.
#include <cmath>

#include "bench/measure.h"
#include "kernels/attention.h"
#include "tensor/parallel.h"

namespace parlo::bench {
namespace {

struct Operands {
  Tensor q, k, v, out, lse, dout, dq, dk, dv;
  AttentionArgs args;

  Operands(int64_t batch, int64_t tokens, int64_t heads, int64_t d, bool causal)
      : q(random({batch, tokens, heads, d})),
        k(q.clone()),
        v(q.clone()),
        out(Tensor::empty(q.shape())),
        lse(Tensor::empty({batch, heads, tokens})),
        dout(q.clone()),
        dq(Tensor::empty(q.shape())),
        dk(Tensor::empty(q.shape())),
        dv(Tensor::empty(q.shape())) {
    args.scale = 1 / std::sqrt(static_cast<double>(d));
    args.causal = causal;
    cpu::attention(q, k, v, out, lse, args);
  }
};

void forward(benchmark::State& state, int64_t batch, int64_t tokens, int64_t heads, int64_t d,
             bool causal) {
  const auto threads = static_cast<int>(state.range(0));
  set_num_threads(threads);
  const Operands o(batch, tokens, heads, d, causal);
  const double pairs = static_cast<double>(batch * heads * tokens) * tokens / (causal ? 2 : 1);
  contest(state, threads, 4 * pairs * static_cast<double>(d),
          [&] { cpu::attention(o.q, o.k, o.v, o.out, o.lse, o.args); });
}

void backward(benchmark::State& state, int64_t batch, int64_t tokens, int64_t heads, int64_t d,
              bool causal) {
  const auto threads = static_cast<int>(state.range(0));
  set_num_threads(threads);
  const Operands o(batch, tokens, heads, d, causal);
  const double pairs = static_cast<double>(batch * heads * tokens) * tokens / (causal ? 2 : 1);
  contest(state, threads, 10 * pairs * static_cast<double>(d), [&] {
    cpu::attention_backward(o.q, o.k, o.v, o.out, o.lse, o.dout, o.dq, o.dk, o.dv, o.args);
  });
}

void on_threads(benchmark::internal::Benchmark* b) {
  b->ArgName("threads")->Arg(1)->Arg(2)->Iterations(kTurns)->UseManualTime();
  b->Unit(benchmark::kMicrosecond);
}

BENCHMARK_CAPTURE(forward, B32_T80_H3_D32_demo, 32, 80, 3, 32, false)->Apply(on_threads);
BENCHMARK_CAPTURE(backward, B32_T80_H3_D32_demo, 32, 80, 3, 32, false)->Apply(on_threads);
BENCHMARK_CAPTURE(forward, B8_T256_H4_D64, 8, 256, 4, 64, false)->Apply(on_threads);
BENCHMARK_CAPTURE(backward, B8_T256_H4_D64, 8, 256, 4, 64, false)->Apply(on_threads);
BENCHMARK_CAPTURE(forward, B1_T1024_H4_D64, 1, 1024, 4, 64, false)->Apply(on_threads);
BENCHMARK_CAPTURE(backward, B1_T1024_H4_D64, 1, 1024, 4, 64, false)->Apply(on_threads);
BENCHMARK_CAPTURE(forward, B1_T1024_H4_D64_causal, 1, 1024, 4, 64, true)->Apply(on_threads);
BENCHMARK_CAPTURE(forward, B1_T2048_H2_D128, 1, 2048, 2, 128, false)->Apply(on_threads);

}  // namespace
}  // namespace parlo::bench
