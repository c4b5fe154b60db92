// Maps over activations in bf16 against the copy: RoPE, gate and residual, GELU and its gradient,
// softmax over rows. Bytes are those a call must read and write.
#include "bench/gpu_measure.h"
#include "bench/gpu_shapes.h"
#include "kernels/elementwise.h"
#include "kernels/glu.h"
#include "kernels/norm_rope.h"
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

// Keys inside a fused projection, as they are read in place.
void norm_turned(benchmark::State& state, int64_t batch, int64_t tokens, int64_t heads, int64_t d,
                 bool gradient) {
  const Shape shape{batch, tokens, heads, d};
  const Timing t = rotate(
      [=](RandomKey key) {
        Operands o;
        o.x = normal(key.fold("x"), {batch, tokens, 3, heads, d}).select(2, 1), o.out = room(shape);
        o.gate = normal(key.fold("weight"), {d}, DType::f32);
        o.cos = normal(key.fold("cos"), {tokens, d / 2}, DType::f32);
        o.sin = normal(key.fold("sin"), {tokens, d / 2}, DType::f32);
        if (gradient) o.y = normal(key.fold("dy"), shape);
        return o;
      },
      [=](const Operands& o) {
        NormRope p;
        p.weight = o.gate, p.cos = o.cos, p.sin = o.sin;
        if (gradient) {
          cuda::norm_rope_backward(o.x, p, o.y, o.out);
        } else {
          cuda::norm_rope(o.x, p, o.out);
        }
      });
  against_copy(state, t, gradient ? 3 : 2, shape.numel());
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
    add("norm_rope", s, [=](State& st) { norm_turned(st, batch, tokens, heads, d, false); });
    add("norm_rope_backward", s,
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
