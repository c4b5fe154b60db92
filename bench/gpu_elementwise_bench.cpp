// Maps over activations in bf16 against the copy: RoPE alone and behind the norms of a projection,
// gate and residual, GELU and SwiGLU with their gradients, softmax over rows. Bytes are those a
// call must read and write.
#include "bench/gpu_measure.h"
#include "bench/gpu_shapes.h"
#include "kernels/elementwise.h"
#include "kernels/glu.h"
#include "kernels/qk_norm_rope.h"
#include "kernels/reduce.h"
#include "kernels/rope.h"

namespace parlo::bench {
namespace {

struct Operands {
  Tensor x, y, out, gate, cos, sin;
};

// `blocks` matrices of bf16 go through memory.
void against_copy(benchmark::State& state, const Timing& t, int blocks, int64_t elements) {
  report(state, t, {0, 2.0 * blocks * static_cast<double>(elements)});
}

void turned(benchmark::State& state, int64_t batch, int64_t tokens, int64_t heads, int64_t d) {
  const Shape shape{batch, tokens, heads, d};
  const Timing t = rotate(
      [=](RandomKey key) {
        Operands o;
        o.x = normal(key.fold("x"), shape), o.out = room(shape);
        o.cos = normal(key.fold("cos"), {tokens, d / 2}, DType::f32);
        o.sin = normal(key.fold("sin"), {tokens, d / 2}, DType::f32);
        return o;
      },
      [](const Operands& o) { cuda::rope(o.x, o.cos, o.sin, RopeStyle::pairs, false, o.out); });
  against_copy(state, t, 2, shape.numel());
}

// Queries, keys and values of a fused projection, as they are read in place. The gradient is of the
// projection: v's is copied into it.
struct Projection {
  Tensor qkv, out, dout;
  QkNormRope p;

  QkvHeads heads(const Tensor& t) const {
    const int64_t H = t.dim(2) / 3;
    return {t.slice(2, 0, H), t.slice(2, H, 2 * H), t.slice(2, 2 * H, 3 * H)};
  }
};

void norm_turned(benchmark::State& state, int64_t batch, int64_t tokens, int64_t heads, int64_t d,
                 bool gradient) {
  const Shape shape{batch, tokens, 3 * heads, d};
  const Timing t = rotate(
      [=](RandomKey key) {
        Projection o;
        o.qkv = normal(key.fold("x"), shape), o.out = room(shape);
        o.p.q_weight = normal(key.fold("q"), {d}, DType::f32);
        o.p.k_weight = normal(key.fold("k"), {d}, DType::f32);
        o.p.cos = normal(key.fold("cos"), {tokens, d / 2}, DType::f32);
        o.p.sin = normal(key.fold("sin"), {tokens, d / 2}, DType::f32);
        if (gradient) o.dout = normal(key.fold("dy"), shape);
        return o;
      },
      [=](const Projection& o) {
        const QkvHeads x = o.heads(o.qkv), y = o.heads(o.out);
        if (gradient) {
          cuda::qk_norm_rope_backward(x, o.p, o.heads(o.dout), {y, {}, {}});
        } else {
          cuda::qk_norm_rope({x.q, x.k, {}}, o.p, {y.q, y.k, {}});
        }
      });
  // Forward: q and k in and out. Backward: q and k, all of dout and dqkv.
  against_copy(state, t, gradient ? 8 : 4, shape.numel() / 3);
}

void gated(benchmark::State& state, int64_t batch, int64_t rows, int64_t columns) {
  const Timing t = rotate(
      [=](RandomKey key) {
        Operands o;
        o.x = normal(key.fold("x"), {rows, columns}), o.y = normal(key.fold("y"), {rows, columns});
        o.gate = normal(key.fold("gate"), {batch, columns}), o.out = room({rows, columns});
        return o;
      },
      [](const Operands& o) { cuda::gate_residual(o.x, o.gate, o.y, o.out); });
  against_copy(state, t, 3, rows * columns);
}

void gelu(benchmark::State& state, int64_t rows, int64_t columns, bool gradient) {
  const Timing t = rotate(
      [=](RandomKey key) {
        Operands o;
        o.x = normal(key.fold("x"), {rows, columns}), o.out = room({rows, columns});
        if (gradient) o.y = normal(key.fold("dy"), {rows, columns});
        return o;
      },
      [=](const Operands& o) {
        if (gradient) {
          cuda::activation_backward(Activation::gelu_tanh, o.x, o.y, o.out);
        } else {
          cuda::activation(Activation::gelu_tanh, o.x, o.out);
        }
      });
  against_copy(state, t, gradient ? 3 : 2, rows * columns);
}

void swiglu(benchmark::State& state, int64_t rows, int64_t columns, bool gradient) {
  const Timing t = rotate(
      [=](RandomKey key) {
        Operands o;
        o.x = normal(key.fold("x"), {rows, 2 * columns});
        o.out = room({rows, gradient ? 2 * columns : columns});
        if (gradient) o.y = normal(key.fold("dy"), {rows, columns});
        return o;
      },
      [=](const Operands& o) {
        const auto half = [&](const Tensor& t, int64_t i) {
          return t.slice(1, i * columns, (i + 1) * columns);
        };
        if (gradient) {
          cuda::glu_backward(Activation::silu, half(o.x, 0), half(o.x, 1), o.y, half(o.out, 0),
                             half(o.out, 1));
        } else {
          cuda::glu(Activation::silu, half(o.x, 0), half(o.x, 1), o.out);
        }
      });
  against_copy(state, t, gradient ? 5 : 3, rows * columns);
}

void rows_softmax(benchmark::State& state, int64_t rows, int64_t columns) {
  const Timing t = rotate(
      [=](RandomKey key) {
        Operands o;
        o.x = normal(key, {rows, columns}), o.out = room({rows, columns});
        return o;
      },
      [](const Operands& o) { cuda::softmax(o.x, o.out); });
  against_copy(state, t, 2, rows * columns);
}

}  // namespace

void add_gpu_elementwise() {
  using State = benchmark::State;
  const auto add = [](const char* what, const GpuShape& s, auto body) {
    add_gpu_benchmark(std::string(what) + "/" + s.name(), body);
  };
  for (const GpuShape& s : gpu_shapes("elementwise")) {
    const int64_t batch = s["batch"], tokens = s["tokens"], columns = s["columns"];
    const int64_t heads = s["heads"], d = s["d"], wide = s["wide"], rows = batch * tokens;
    add("rope", s, [=](State& st) { turned(st, batch, tokens, heads, d); });
    add("qk_norm_rope", s, [=](State& st) { norm_turned(st, batch, tokens, heads, d, false); });
    add("qk_norm_rope_backward", s,
        [=](State& st) { norm_turned(st, batch, tokens, heads, d, true); });
    add("gate_residual", s, [=](State& st) { gated(st, batch, rows, columns); });
    add("gelu_tanh", s, [=](State& st) { gelu(st, rows, wide, false); });
    add("gelu_tanh_backward", s, [=](State& st) { gelu(st, rows, wide, true); });
  }
  for (const GpuShape& s : gpu_shapes("swiglu")) {
    const int64_t rows = s["rows"], columns = s["columns"];
    add("swiglu", s, [=](State& st) { swiglu(st, rows, columns, false); });
    add("swiglu_backward", s, [=](State& st) { swiglu(st, rows, columns, true); });
  }
  for (const GpuShape& s : gpu_shapes("softmax")) {
    const int64_t rows = s["rows"], columns = s["columns"];
    add("softmax", s, [=](State& st) { rows_softmax(st, rows, columns); });
  }
}

}  // namespace parlo::bench
