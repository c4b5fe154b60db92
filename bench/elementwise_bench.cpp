// Element-wise and row-wise kernels on blocks that stay in the L2, one thread, against a copy
// there. Bytes are those an operation must read and write.
#include "bench/measure.h"
#include "kernels/add_rms_norm.h"
#include "kernels/elementwise.h"
#include "kernels/glu.h"
#include "kernels/qk_norm_rope.h"
#include "kernels/reduce.h"
#include "tensor/parallel.h"

namespace parlo::bench {
namespace {

constexpr int64_t kRows = 512, kColumns = 128, kBytes = kRows * kColumns * 4;

// `blocks` of kBytes are read or written.
template <class Op>
void against_copy(benchmark::State& state, int blocks, Op&& op) {
  set_num_threads(1);
  Best best;
  double ceiling = 0;
  for (auto turn : state) {
    static_cast<void>(turn);
    state.SetIterationTime(best.run(op));
    ceiling = std::max(ceiling, copy_probe(kBytes));
  }
  const double rate = blocks * static_cast<double>(kBytes) / best.time;
  state.counters["GB/s"] = rate * 1e-9;
  state.counters["Gelem/s"] = static_cast<double>(kRows * kColumns) / best.time * 1e-9;
  state.counters["copy"] = ceiling * 1e-9;
  state.counters["share_%"] = 100 * rate / ceiling;
}

struct Block {
  Tensor x = random({kRows, kColumns}), y = random({kRows, kColumns}),
         out = Tensor::empty({kRows, kColumns});
  Tensor row = Tensor::empty({kRows}), row2 = Tensor::empty({kRows});
};

void add(benchmark::State& state) {
  const Block b;
  against_copy(state, 3, [&] { cpu::binary(Binary::add, b.x, b.y, b.out); });
}
void axpby(benchmark::State& state) {
  const Block b;
  against_copy(state, 3, [&] { cpu::axpby(0.5, b.x, 0.5, b.out); });
}
void gate_residual(benchmark::State& state) {
  const Block b;
  const Tensor gate = random({8, kColumns});
  against_copy(state, 3, [&] { cpu::gate_residual(b.x, gate, b.y, b.out); });
}
void exponential(benchmark::State& state) {
  const Block b;
  against_copy(state, 2, [&] { cpu::unary(Unary::exp, b.x, b.out); });
}
void gelu_tanh(benchmark::State& state) {
  const Block b;
  against_copy(state, 2, [&] { cpu::activation(Activation::gelu_tanh, b.x, b.out); });
}
void gelu_tanh_backward(benchmark::State& state) {
  const Block b;
  against_copy(state, 3, [&] { cpu::activation_backward(Activation::gelu_tanh, b.x, b.y, b.out); });
}
void layer_norm_modulated(benchmark::State& state) {
  const Block b;
  NormParams p;
  p.scale = random({8, kColumns}), p.shift = random({8, kColumns});
  against_copy(state, 2, [&] { cpu::layer_norm(b.x, p, b.out, b.row, b.row2); });
}
void rms_norm(benchmark::State& state) {
  const Block b;
  NormParams p;
  p.weight = random({kColumns});
  against_copy(state, 2, [&] { cpu::rms_norm(b.x, p, b.out, b.row); });
}
void add_rms_norm(benchmark::State& state) {
  const Block b;
  NormParams p;
  p.weight = random({kColumns});
  const Tensor sum = Tensor::empty({kRows, kColumns});
  against_copy(state, 4, [&] { cpu::add_rms_norm(b.x, b.y, p, sum, b.out, b.row); });
}
void swiglu(benchmark::State& state) {
  const Block b;
  against_copy(state, 3, [&] { cpu::glu(Activation::silu, b.x, b.y, b.out); });
}
void swiglu_backward(benchmark::State& state) {
  const Block b;
  const Tensor db = Tensor::empty({kRows, kColumns}), dy = random({kRows, kColumns});
  against_copy(state, 5, [&] { cpu::glu_backward(Activation::silu, b.x, b.y, dy, b.out, db); });
}

// Heads of 64: queries in x, keys in y.
QkvHeads heads(const Tensor& q, const Tensor& k) {
  const Shape shape{1, kRows, kColumns / 64, 64};
  return {q.view(shape), k.view(shape), {}};
}
QkNormRope head_params(bool rotates) {
  QkNormRope p;
  p.q_weight = random({64}), p.k_weight = random({64});
  if (rotates) p.cos = random({kRows, 32}), p.sin = random({kRows, 32});
  return p;
}
void qk_norm(benchmark::State& state) {
  const Block b;
  const QkNormRope p = head_params(false);
  const QkvHeads x = heads(b.x, b.y), y = heads(b.out, Tensor::empty({kRows, kColumns}));
  against_copy(state, 4, [&] { cpu::qk_norm_rope(x, p, y); });
}
void qk_norm_rope(benchmark::State& state) {
  const Block b;
  const QkNormRope p = head_params(true);
  const QkvHeads x = heads(b.x, b.y), y = heads(b.out, Tensor::empty({kRows, kColumns}));
  against_copy(state, 4, [&] { cpu::qk_norm_rope(x, p, y); });
}
void qk_norm_rope_backward(benchmark::State& state) {
  const Block b;
  const QkNormRope p = head_params(true);
  const QkvHeads x = heads(b.x, b.y),
                 dout = heads(random({kRows, kColumns}), random({kRows, kColumns}));
  const QkNormRopeGrads g{heads(b.out, Tensor::empty({kRows, kColumns})), {}, {}};
  against_copy(state, 6, [&] { cpu::qk_norm_rope_backward(x, p, dout, g); });
}
void softmax(benchmark::State& state) {
  const Block b;
  against_copy(state, 2, [&] { cpu::softmax(b.x, b.out); });
}

void in_l2(benchmark::internal::Benchmark* b) {
  b->Iterations(10 * kTurns)->UseManualTime()->Unit(benchmark::kMicrosecond);
}

BENCHMARK(add)->Apply(in_l2);
BENCHMARK(axpby)->Apply(in_l2);
BENCHMARK(gate_residual)->Apply(in_l2);
BENCHMARK(exponential)->Apply(in_l2);
BENCHMARK(gelu_tanh)->Apply(in_l2);
BENCHMARK(gelu_tanh_backward)->Apply(in_l2);
BENCHMARK(layer_norm_modulated)->Apply(in_l2);
BENCHMARK(rms_norm)->Apply(in_l2);
BENCHMARK(add_rms_norm)->Apply(in_l2);
BENCHMARK(swiglu)->Apply(in_l2);
BENCHMARK(swiglu_backward)->Apply(in_l2);
BENCHMARK(qk_norm)->Apply(in_l2);
BENCHMARK(qk_norm_rope)->Apply(in_l2);
BENCHMARK(qk_norm_rope_backward)->Apply(in_l2);
BENCHMARK(softmax)->Apply(in_l2);

}  // namespace
}  // namespace parlo::bench
