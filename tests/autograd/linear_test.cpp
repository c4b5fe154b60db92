// linear: every combination of bias, activation, low-rank term and residual; several adapters; the
// gate.
#include <cmath>

#include "tests/autograd/plain_matmul.h"
#include "tests/plain_activation.h"

namespace parlo {
namespace {

using namespace test;

struct LinearCase {
  bool bias = false, low_rank = false, residual = false;
  Activation activation = Activation::none;
  double scale = 1.5;
};

// Inputs in the order x, w, then bias, a, b, residual where present.
Op linear_op(const LinearCase& c) {
  return [c](std::span<const Var> in) {
    size_t next = 2;
    const Var bias = c.bias ? in[next++] : Var();
    LowRankVar low;
    LinearExtras extras;
    extras.activation = c.activation;
    if (c.low_rank) {
      low = {in[next], in[next + 1], c.scale};
      next += 2;
      extras.low_rank = &low;
    }
    if (c.residual) extras.residual = in[next++];
    return linear(in[0], in[1], bias, extras);
  };
}

std::vector<Tensor> linear_inputs(const LinearCase& c, Shape x, int64_t n, int64_t r) {
  const int64_t k = x[-1];
  std::vector<Tensor> in{normal64(x, 1), normal64({n, k}, 2, 0.5)};
  if (c.bias) in.push_back(normal64({n}, 3));
  if (c.low_rank) {
    in.push_back(normal64({r, k}, 4, 0.5));
    in.push_back(normal64({n, r}, 5));
  }
  x[-1] = n;
  if (c.residual) in.push_back(normal64(x, 6));
  return in;
}

Tensor plain_linear(const LinearCase& c, const std::vector<Tensor>& in) {
  const Shape xs = in[0].shape();
  const int64_t k = xs[-1], n = in[1].dim(0);
  Shape out = xs;
  out[-1] = n;
  const int64_t rows = n ? out.numel() / n : 0;
  Tensor y = plain_matmul(in[0].view({rows, k}), in[1], false, true);
  std::vector<double> v = y.to_vector();
  size_t next = 2;
  if (c.bias) {
    const std::vector<double> bias = in[next++].to_vector();
    for (size_t i = 0; i < v.size(); ++i) v[i] += bias[i % n];
  }
  if (c.low_rank) {
    const Tensor down = plain_matmul(in[0].view({rows, k}), in[next], false, true);
    const std::vector<double> up = plain_matmul(down, in[next + 1], false, true).to_vector();
    for (size_t i = 0; i < v.size(); ++i) v[i] += c.scale * up[i];
    next += 2;
  }
  for (double& value : v) value = plain_activation(c.activation, value);
  if (c.residual) {
    const std::vector<double> residual = in[next].to_vector();
    for (size_t i = 0; i < v.size(); ++i) v[i] += residual[i];
  }
  return Tensor::from(v, out);
}

void check_linear(const LinearCase& c, const Shape& x, int64_t n, int64_t r) {
  INFO("bias ", c.bias, " low rank ", c.low_rank, " residual ", c.residual, " activation ",
       static_cast<int>(c.activation));
  const std::vector<Tensor> in = linear_inputs(c, x, n, r);
  check_close(check_op("linear", linear_op(c), in), plain_linear(c, in));
}

TEST_CASE("linear in every combination") {
  for (Activation f : {Activation::none, Activation::gelu_tanh, Activation::gelu_erf,
                       Activation::quick_gelu, Activation::silu})
    for (int flags = 0; flags < 8; ++flags) {
      const LinearCase c{(flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0, f};
      check_linear(c, {2, 2, 3}, 5, 2);
    }
}

TEST_CASE("linear of odd, single and empty shapes") {
  const LinearCase plain, all{true, true, true, Activation::silu};
  for (const LinearCase& c : {plain, all}) {
    check_linear(c, {4}, 3, 1);
    check_linear(c, {1, 1}, 1, 1);
    check_linear(c, {7, 5}, 9, 3);
    check_linear(c, {0, 4}, 3, 2);
    check_linear(c, {2, 0, 4}, 3, 2);
    check_linear(c, {3, 4}, 2, 0);
  }
}

// Rows 1, 2 and 5 .. 8 of 9 have adapter one, 3 and 4 adapter two.
Var rows_linear(std::span<const Var> in, Activation f) {
  const LowRankVar one{in[3], in[4], 1.5}, two{in[5], in[6], -0.5};
  const LowRankRowsVar rows[] = {{1, 2, one}, {3, 2, two}, {5, 4, one}};
  LinearExtras extras;
  extras.activation = f, extras.residual = in[7], extras.low_rank_rows = rows;
  return linear(in[0], in[1], in[2], extras);
}

TEST_CASE("linear with several adapters in one batch") {
  const std::vector<Tensor> in{normal64({3, 3, 4}, 1), normal64({5, 4}, 2, 0.5),
                               normal64({5}, 3),       normal64({2, 4}, 4, 0.5),
                               normal64({5, 2}, 5),    normal64({3, 4}, 6, 0.5),
                               normal64({5, 3}, 7),    normal64({3, 3, 5}, 8)};
  for (const Activation f : {Activation::none, Activation::gelu_tanh}) {
    const Op op = [f](std::span<const Var> v) { return rows_linear(v, f); };
    const Tensor y = check_op("linear", op, in).view({9, 5});
    for (const auto& [row, pair] : {std::pair{0, 0}, {1, 3}, {4, 5}, {8, 3}}) {
      LinearCase c{true, pair > 0, true, f, pair == 5 ? -0.5 : 1.5};
      std::vector<Tensor> alone{in[0].view({9, 4}).slice(0, row, row + 1), in[1], in[2]};
      if (pair > 0) alone.insert(alone.end(), {in[pair], in[pair + 1]});
      alone.push_back(in[7].view({9, 5}).slice(0, row, row + 1));
      check_close(y.slice(0, row, row + 1), plain_linear(c, alone));
    }
  }
}

TEST_CASE("linear with a gate: as gate_residual of a linear, and its gradients") {
  const std::vector<Tensor> in{
      normal64({2, 3, 4}, 1), normal64({5, 4}, 2, 0.5), normal64({5}, 3),   normal64({2, 3, 5}, 4),
      normal64({2, 5}, 5),    normal64({2, 4}, 6),      normal64({5, 2}, 7)};
  for (const Activation f : {Activation::none, Activation::silu}) {
    const auto op = [f](bool fused) -> Op {
      return [f, fused](std::span<const Var> v) {
        const LowRankVar low{v[5], v[6], 0.5};
        LinearExtras extras;
        extras.activation = f, extras.low_rank = &low;
        if (!fused) return gate_residual(v[3], v[4], linear(v[0], v[1], v[2], extras));
        extras.residual = v[3], extras.gate = v[4];
        return linear(v[0], v[1], v[2], extras);
      };
    };
    const std::vector<Var> plain(in.begin(), in.end());
    CHECK(same_values(check_op("linear", op(true), in), op(false)(plain).value()));
  }
  const LinearExtras alone{.residual = {}, .gate = Var(in[4])};
  CHECK(contains(message_of([&] { linear(Var(in[0]), Var(in[1]), {}, alone); }),
                 "without a residual"));
}

// Of x, w, bias, and a and b of one or two adapters: in one pass or by its parts.
Var gated(std::span<const Var> in, Activation f, bool fused) {
  LinearExtras extras;
  const Var bias = in.size() > 2 ? in[2] : Var();
  const LowRankVar one = in.size() > 3 ? LowRankVar{in[3], in[4], 1.5} : LowRankVar();
  const LowRankVar two = in.size() > 5 ? LowRankVar{in[5], in[6], -0.5} : LowRankVar();
  const LowRankRowsVar rows[] = {{1, 2, one}, {4, 1, two}};
  if (two.a) {
    extras.low_rank_rows = rows;
  } else if (one.a) {
    extras.low_rank = &one;
  }
  return fused ? glu_linear(f, in[0], in[1], bias, extras)
               : glu(f, linear(in[0], in[1], bias, extras));
}

TEST_CASE("glu_linear: as glu of a linear, and its gradients") {
  const std::vector<Tensor> all{normal64({3, 2, 4}, 1),   normal64({6, 4}, 2, 0.5),
                                normal64({6}, 3),         normal64({2, 4}, 4),
                                normal64({6, 2}, 5, 0.5), normal64({3, 4}, 6),
                                normal64({6, 3}, 7, 0.5)};
  for (const Activation f : {Activation::silu, Activation::gelu_tanh, Activation::gelu_erf}) {
    for (const size_t inputs : {2, 3, 5, 7}) {
      const std::vector<Tensor> in(all.begin(), all.begin() + static_cast<int64_t>(inputs));
      const std::vector<Var> vars(in.begin(), in.end());
      const Op op = [f](std::span<const Var> v) { return gated(v, f, true); };
      CHECK(same_values(check_op("glu_linear", op, in), gated(vars, f, false).value()));
    }
  }
  for (const Shape& x : {Shape{4}, Shape{0, 4}, Shape{2, 0, 4}}) {
    const Op op = [](std::span<const Var> v) { return gated(v, Activation::silu, true); };
    check_op("glu_linear", op, {normal64(x, 1), all[1], all[2]});
  }
  const Var x(all[0]), w(all[1]);
  const auto message = [&](const Var& weight, const LinearExtras& extras) {
    return message_of([&] { glu_linear(Activation::silu, x, weight, {}, extras); });
  };
  CHECK(contains(message(Var(normal64({5, 4}, 1)), {}), "expected [2 F, K]"));
  CHECK(contains(message(w, {.residual = x}), "it takes low-rank terms"));
}

TEST_CASE("a segment of rows has the gradients that it has alone, bit for bit") {
  const Tensor x = random_tensor({70, 33}, 1), w = random_tensor({40, 33}, 2, DType::f32, 0.3);
  const Tensor a = random_tensor({4, 33}, 3), b = random_tensor({40, 4}, 4);
  const auto run = [&](int64_t begin, int64_t end, bool neighbours) {
    const Var in(x.slice(0, begin, end), true), va(a, true), vb(b, true);
    const LowRankVar mine{va, vb, 0.5};
    const LowRankVar other{Var(random_tensor({7, 33}, 5), true), Var(random_tensor({40, 7}, 6)), 2};
    std::vector<LowRankRowsVar> rows{{20 - begin, 31, mine}};
    if (neighbours) rows = {{3, 17, other}, rows[0], {55, 10, other}};
    LinearExtras extras;
    extras.activation = Activation::silu, extras.low_rank_rows = rows;
    const Var y = linear(in, Var(w), {}, extras);
    backward(y, random_tensor({70, 40}, 7).slice(0, begin, end));
    return std::vector<Tensor>{y.value().slice(0, 20 - begin, 51 - begin),
                               in.grad().slice(0, 20 - begin, 51 - begin), va.grad(), vb.grad()};
  };
  const std::vector<Tensor> inside = run(0, 70, true), alone = run(20, 51, false);
  for (size_t i = 0; i < alone.size(); ++i) CHECK(same_values(inside[i], alone[i]));
}

TEST_CASE("linear with a frozen bf16 weight") {
  const Tensor w = random_tensor({9, 16}, 1, DType::bf16, 0.3);
  const Var low_a(random_tensor({2, 16}, 2), true), low_b(random_tensor({9, 2}, 3), true);
  const LowRankVar low{low_a, low_b, 0.5};
  Tensor y[2], dx[2], da[2];
  for (int wide = 0; wide < 2; ++wide) {
    Var x(random_tensor({5, 16}, 4), true), a(low_a.value(), true);
    const LowRankVar term{a, low_b, 0.5};
    const Var out =
        linear(x, Var(wide ? w.to(DType::f32) : w), {}, {.residual = {}, .low_rank = &term});
    backward(out, upstream(out.shape(), DType::f32));
    y[wide] = out.value();
    dx[wide] = x.grad();
    da[wide] = a.grad();
  }
  check_close(y[0], y[1], tolerance(DType::bf16));  // x may be rounded to bf16
  check_close(dx[0], dx[1]);
  check_close(da[0], da[1]);
}

TEST_CASE("linear with a bf16 weight that wants a gradient is refused") {
  const Var x(random_tensor({5, 16}, 4), true), w(random_tensor({9, 16}, 1, DType::bf16), true);
  CHECK(contains(message_of([&] { backward(sum(linear(x, w, {}))); }), "bf16"));
}

TEST_CASE("linear names shapes that do not fit") {
  const Var x(normal64({2, 3}, 1)), w(normal64({4, 5}, 2)), fits(normal64({4, 3}, 3));
  CHECK(contains(message_of([&] { linear(x, w, {}); }), "linear: x (2, 3) does not fit w (4, 5)"));
  CHECK(contains(message_of([&] { linear(x, fits, Var(normal64({3}, 4))); }), "bias"));
  const LowRankVar low{Var(normal64({2, 3}, 1)), Var(normal64({4, 1}, 2)), 1};
  CHECK(contains(message_of([&] { linear(x, fits, {}, {.residual = {}, .low_rank = &low}); }),
                 "low-rank b"));
  const LowRankRowsVar late{1, 2, {Var(normal64({2, 3}, 1)), Var(normal64({4, 2}, 2)), 1}};
  LinearExtras extras;
  extras.low_rank_rows = {&late, 1};
  CHECK(contains(message_of([&] { linear(x, fits, {}, extras); }), "rows [1, 3)"));
}

}  // namespace
}  // namespace parlo
