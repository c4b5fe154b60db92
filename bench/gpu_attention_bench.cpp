// Attention in bf16 at the presets' joint sequences: forward 4 B H T^2 D operations, backward 10
// (five products; what it recomputes counts once), half of both under a causal mask.
#include <cmath>

#include "bench/gpu_measure.h"
#include "bench/gpu_shapes.h"
#include "kernels/attention.h"

namespace parlo::bench {
namespace {

struct Sizes {
  int64_t batch, tokens, heads, d;
  bool causal;

  double flops(double a_pair) const {
    const double pairs = static_cast<double>(batch * heads * tokens) * static_cast<double>(tokens);
    return a_pair * pairs * static_cast<double>(d) / (causal ? 2 : 1);
  }
  Shape shape() const { return {batch, tokens, heads, d}; }
  AttentionArgs args() const {
    AttentionArgs a;
    a.scale = 1 / std::sqrt(static_cast<double>(d));
    a.causal = causal;
    return a;
  }
};

struct Operands {
  Tensor q, k, v, out, lse;
  Tensor dout, dq, dk, dv;  // backward only
};

Operands operands(RandomKey key, const Sizes& s) {
  return {normal(key.fold("q"), s.shape()),
          normal(key.fold("k"), s.shape()),
          normal(key.fold("v"), s.shape()),
          room(s.shape()),
          room({s.batch, s.heads, s.tokens}, DType::f32),
          {},
          {},
          {},
          {}};
}

void forward(benchmark::State& state, const Sizes& s) {
  const AttentionArgs args = s.args();
  const Timing t =
      rotate([&](RandomKey key) { return operands(key, s); },
             [&](const Operands& o) { cuda::attention(o.q, o.k, o.v, o.out, o.lse, args); });
  report(state, t, {s.flops(4), 0});
}

void backward(benchmark::State& state, const Sizes& s) {
  const AttentionArgs args = s.args();
  const Timing t = rotate(
      [&](RandomKey key) {
        Operands o = operands(key, s);
        cuda::attention(o.q, o.k, o.v, o.out, o.lse, args);
        o.dout = normal(key.fold("dout"), s.shape());
        o.dq = room(s.shape()), o.dk = room(s.shape()), o.dv = room(s.shape());
        return o;
      },
      [&](const Operands& o) {
        cuda::attention_backward(o.q, o.k, o.v, o.out, o.lse, o.dout, o.dq, o.dk, o.dv, args);
      });
  report(state, t, {s.flops(10), 0});
}

}  // namespace

void add_gpu_attention() {
  for (const GpuShape& g : gpu_shapes("attention")) {
    const Sizes s{g["batch"], g["tokens"], g["heads"], g["d"], g.has("causal")};
    add_gpu_benchmark("attention_forward/" + g.name(),
                      [s](benchmark::State& state) { forward(state, s); });
    add_gpu_benchmark("attention_backward/" + g.name(),
                      [s](benchmark::State& state) { backward(state, s); });
  }
}

}  // namespace parlo::bench
