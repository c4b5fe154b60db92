// Attention in bf16 at the presets' joint sequences: forward 4 B H T^2 D operations, backward 10
// (five products; what it recomputes counts once), half of both under a causal mask.
#include <cmath>

#include "bench/gpu_measure.h"
#include "bench/gpu_shapes.h"
#include "kernels/attention.h"

namespace parlo::bench {
namespace {

struct Sizes {
  int64_t batch, tokens, text, heads, d;
  bool causal;

  double flops(double a_pair) const {
    const double pairs = static_cast<double>(batch * heads * tokens) * static_cast<double>(tokens);
    return a_pair * pairs * static_cast<double>(d) / (causal ? 2 : 1);
  }
  // One tensor of all tokens, or one of image and one of text tokens.
  template <class Make>
  Tokens tokens_by(Make make) const {
    const auto of = [&](int64_t n) { return make(Shape{batch, n, heads, d}); };
    return text == 0 ? Tokens(of(tokens)) : Tokens(of(tokens - text), of(text));
  }
  Tokens random(RandomKey key) const {
    return tokens_by([&](const Shape& shape) { return normal(key.fold(shape[1]), shape); });
  }
  Tokens blank() const {
    return tokens_by([](const Shape& shape) { return room(shape); });
  }
  AttentionArgs args() const {
    AttentionArgs a;
    a.scale = 1 / std::sqrt(static_cast<double>(d));
    a.causal = causal;
    return a;
  }
};

struct Operands {
  Tokens q, k, v, out;
  Tensor lse;
  Tokens dout, dq, dk, dv;  // backward only
};

Operands operands(RandomKey key, const Sizes& s) {
  const Tokens none{Tensor()};
  return {s.random(key.fold("q")),
          s.random(key.fold("k")),
          s.random(key.fold("v")),
          s.blank(),
          room({s.batch, s.heads, s.tokens}, DType::f32),
          none,
          none,
          none,
          none};
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
        o.dout = s.random(key.fold("dout"));
        o.dq = s.blank(), o.dk = s.blank(), o.dv = s.blank();
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
    const auto add = [&](const std::string& prefix, int64_t text) {
      const Sizes s{g["batch"], g["tokens"], text, g["heads"], g["d"], g.has("causal")};
      add_gpu_benchmark(prefix + "attention_forward/" + g.name(),
                        [s](benchmark::State& state) { forward(state, s); });
      add_gpu_benchmark(prefix + "attention_backward/" + g.name(),
                        [s](benchmark::State& state) { backward(state, s); });
    };
    add("", 0);
    // The same tokens, the last `text` of them in a tensor of their own.
    if (const int64_t text = g.get("text", 0)) add("joint_", text);
  }
}

}  // namespace parlo::bench
