// The graph itself: accumulation, release, NoGrad, checkpoints with the same bits, memory.
#include <cstring>
#include <tuple>

#include "autograd/var.h"
#include "tensor/allocator.h"
#include "tests/autograd/gradcheck.h"

namespace parlo {
namespace {

using namespace test;

TEST_CASE("a diamond adds both paths") {
  Var x(Tensor::from<double>({3}, {1}), true);
  const Var a = square(x), b = affine(x, 2);
  backward(mul(a, b));  // 2 x^3
  CHECK(x.grad().item() == 6 * 9);
}

TEST_CASE("a leaf used many times") {
  Var x(Tensor::from<double>({2, -1}, {2}), true);
  Var y = x;
  for (int i = 0; i < 4; ++i) y = add(mul(y, x), x);
  backward(sum(y));
  for (int i = 0; i < 2; ++i) {
    const double v = x.value().to_vector()[i];  // x + x^2 + ... + x^5, each from this loop
    CHECK(x.grad().to_vector()[i] ==
          doctest::Approx(1 + 2 * v + 3 * v * v + 4 * v * v * v + 5 * v * v * v * v));
  }
}

TEST_CASE("both inputs of an op may be one Var") {
  Var x(Tensor::from<double>({3}, {1}), true);
  backward(mul(x, x));
  CHECK(x.grad().item() == 6);
  Var z(Tensor::from<double>({3}, {1}), true);
  const Var h = affine(z, 2);
  backward(div(h, h));
  CHECK(z.grad().item() == 0);
}

// x -> x and 2 x as one op; `seen` has which gradients arrived.
std::vector<Var> twin(const Var& x, std::vector<bool>& seen) {
  return record("twin", std::vector<Tensor>{x.value(), affine(x, 2).value()}, {x},
                [&seen](std::span<const Tensor> dys, const Need&) -> std::vector<Tensor> {
                  seen = {dys[0].defined(), dys[1].defined()};
                  if (!dys[1]) return {dys[0]};
                  const Var twice = affine(Var(dys[1]), 2);
                  return {dys[0] ? add(Var(dys[0]), twice).value() : twice.value()};
                });
}

TEST_CASE("an op with several results is swept once, with the gradients of those that were used") {
  std::vector<bool> seen;
  for (const auto& [a, b, want] : {std::tuple{1, 0, 1}, {0, 1, 2}, {3, 1, 5}}) {
    Var x(Tensor::from<double>({3}, {1}), true);
    const std::vector<Var> y = twin(x, seen);
    Var sum = a ? affine(y[0], a) : affine(y[1], b);
    if (a && b) sum = add(sum, affine(y[1], b));
    backward(sum);
    CHECK(x.grad().item() == want);
    CHECK((seen == std::vector<bool>{a != 0, b != 0}));
    CHECK(contains(message_of([&] { backward(y[1]); }), "already released"));
  }
  NoGrad guard;
  CHECK(!twin(Var(Tensor::from<double>({3}, {1}), true), seen)[1].requires_grad());
}

TEST_CASE("gradients accumulate over backward calls until they are zeroed") {
  Var x(normal64({3}, 1), true), w(normal64({3}, 2), true);
  backward(sum(mul(x, w)));
  const Tensor once = x.grad().clone();
  CHECK(same_bits(once, w.value()));
  backward(sum(mul(x, w)));
  check_close(x.grad(), affine(Var(once), 2).value());
  x.zero_grad();
  CHECK(!x.grad().defined());
  backward(sum(mul(x, w)));
  CHECK(same_bits(x.grad(), once));
}

TEST_CASE("a leaf's gradient is its own memory") {
  Var a(normal64({4}, 1), true), b(normal64({4}, 2), true);
  const Tensor dy = normal64({4}, 3), kept = dy.clone();
  backward(add(a, b), dy);
  backward(add(a, b), dy);
  CHECK(same_bits(dy, kept));
  CHECK(same_bits(a.grad(), b.grad()));
  a.grad().fill(0);
  CHECK(b.grad().to_vector()[0] == 2 * kept.to_vector()[0]);
}

TEST_CASE("backward of a leaf gives the gradient itself") {
  Var x(normal64({3}, 1), true);
  const Tensor dy = normal64({3}, 2);
  backward(x, dy);
  CHECK(same_bits(x.grad(), dy));
}

TEST_CASE("backward twice through one graph throws") {
  Var x(normal64({3}, 1), true);
  const Var h = square(x), y = sum(h);
  backward(y);
  CHECK(contains(message_of([&] { backward(y); }), "already released"));
  CHECK(contains(message_of([&] { backward(sum(affine(h, 2))); }), "already released"));
}

TEST_CASE("backward says what is wrong") {
  Var x(normal64({3}, 1), true), frozen(normal64({1}, 1));
  CHECK(contains(message_of([&] { backward(frozen); }), "does not depend"));
  CHECK(contains(message_of([&] { backward(square(x)); }), "explicit gradient"));
  CHECK(contains(message_of([&] { backward(square(x), normal64({2}, 1)); }), "(2), expected (3)"));
  CHECK(contains(message_of([&] { backward(square(x), random_tensor({3}, 1)); }), "f32"));
  CHECK(contains(message_of([] { Var().value(); }), "used before"));
  CHECK(contains(message_of([] { Var(Tensor::zeros({2}, DType::i64), true); }), "i64"));
}

TEST_CASE("backward releases what the ops saved, even while the result lives") {
  cpu_memory::reset_peak();
  const int64_t before = cpu_memory::stats().current_bytes;
  {
    Var x(normal64({1000}, 1), true);
    Var y = x;
    for (int i = 0; i < 10; ++i) y = tanh(y);
    const Var total = sum(y);
    CHECK(cpu_memory::stats().current_bytes - before >= 10 * 8000);
    y = Var();
    backward(total);
    // The leaf, its gradient, the scalar.
    CHECK(cpu_memory::stats().current_bytes - before <= 3 * 8192);
  }
  CHECK(cpu_memory::stats().current_bytes == before);
}

TEST_CASE("a graph that is dropped unswept is freed, however long") {
  const int64_t before = cpu_memory::stats().current_bytes;
  {
    Var x(normal64({1}, 1), true), y = x;
    for (int i = 0; i < 200000; ++i) y = affine(y, 1);
  }
  CHECK(cpu_memory::stats().current_bytes == before);
}

TEST_CASE("a long chain is swept") {
  Var x(normal64({1}, 1), true), y = x;
  for (int i = 0; i < 100000; ++i) y = affine(y, 1);
  backward(y);
  CHECK(x.grad().item() == 1);
}

TEST_CASE("NoGrad records nothing and ends with its scope") {
  Var x(normal64({3}, 1), true);
  CHECK(grad_enabled());
  {
    const NoGrad outer;
    {
      const NoGrad inner;
      CHECK(!square(x).requires_grad());
    }
    CHECK(!grad_enabled());
    CHECK(!square(x).requires_grad());
    CHECK(!checkpoint([](std::span<const Var> in) { return square(in[0]); }, {x}).requires_grad());
  }
  CHECK(grad_enabled());
  CHECK(square(x).requires_grad());
  CHECK(!square(x.detach()).requires_grad());
}

TEST_CASE("a leaf frozen after the op still gets its gradient; one thawed after it does not") {
  Var a(normal64({3}, 1), true), b(normal64({3}, 2));
  const Var y = sum(mul(a, b));
  a.set_requires_grad(false);
  b.set_requires_grad(true);
  backward(y);
  CHECK(same_bits(a.grad(), b.value()));
  CHECK(!b.grad().defined());
}

// A residual block that uses its inputs several times, and a shared conditioning vector.
struct Blocks {
  std::vector<Var> w, g;
  Blocks(int n, DType dtype) {
    for (int i = 0; i < n; ++i) {
      w.emplace_back(random_tensor({8, 8}, 10 + i, dtype, 0.4), true);
      g.emplace_back(random_tensor({8}, 50 + i, dtype), true);
    }
  }
  // h and c are both used twice and more; w twice, g once.
  Var block(int i, const Var& h, const Var& c) const {
    const Var n = layer_norm(h, g[i], {}, 1e-5, c, affine(c, 0.5));
    const Var up = linear(n, w[i], {}, {.activation = Activation::gelu_tanh, .residual = {}});
    return add(gate_residual(h, silu(c), linear(up, w[i], {})), mul(h, affine(n, 0.1)));
  }
  std::vector<Tensor> grads() const {
    std::vector<Tensor> out;
    for (const Var& v : w) out.push_back(v.grad());
    for (const Var& v : g) out.push_back(v.grad());
    return out;
  }
};

// mode 0: plain; 1: each block in a checkpoint; 2: pairs of checkpointed blocks in a checkpoint.
std::vector<Tensor> run_blocks(int mode, DType dtype, bool frozen_h = false) {
  constexpr int n = 6;
  const Blocks blocks(n, dtype);
  Var x(random_tensor({2, 5, 8}, 1, dtype), !frozen_h), t(random_tensor({2, 8}, 2, dtype), true);
  const Var c = tanh(t);
  Var h = frozen_h ? x : affine(x, 1.25);
  const auto one = [&blocks](int i, const Var& a, const Var& b) {
    return checkpoint(
        [&blocks, i](std::span<const Var> in) { return blocks.block(i, in[0], in[1]); }, {a, b});
  };
  for (int i = 0; i < n; ++i) {
    if (mode == 0) {
      h = blocks.block(i, h, c);
    } else if (mode == 1) {
      h = one(i, h, c);
    } else {
      h = checkpoint(
          [&one, i](std::span<const Var> in) { return one(i + 1, one(i, in[0], in[1]), in[1]); },
          {h, c});
      ++i;
    }
  }
  const Var y = add(h, unary(Unary::neg, reshape(c, {2, 1, 8})));
  backward(y, random_tensor(y.shape(), 3, dtype));
  std::vector<Tensor> out = blocks.grads();
  out.push_back(y.value());
  out.push_back(t.grad());
  out.push_back(x.grad());
  return out;
}

TEST_CASE("checkpoints, also nested ones, change no bit") {
  for (DType dtype : {DType::f32, DType::f64})
    for (bool frozen : {false, true}) {
      const std::vector<Tensor> plain = run_blocks(0, dtype, frozen);
      for (int mode : {1, 2}) {
        const std::vector<Tensor> again = run_blocks(mode, dtype, frozen);
        for (size_t i = 0; i < plain.size(); ++i) {
          INFO("mode ", mode, " tensor ", i);
          CHECK(same_bits(plain[i], again[i]));
          CHECK(plain[i].defined() == (!frozen || i + 1 < plain.size()));
        }
      }
    }
}

TEST_CASE("a checkpoint with frozen, repeated, undefined and integer inputs") {
  Var x(normal64({3, 2}, 1), true), frozen(normal64({3, 2}, 2)), w(normal64({2}, 3), true);
  const Var ids(Tensor::from<int64_t>({2, 0}, {2}));
  const auto body = [w](std::span<const Var> in) {
    CHECK(!in[3].defined());
    const Var rows = gather_rows(mul(in[0], in[1]), in[4].value());
    return mul(sum(mul(rows, w)), sum(mul(in[2], in[0])));
  };
  std::vector<Tensor> dx, dw;
  for (bool plain : {true, false}) {
    x.zero_grad();
    w.zero_grad();
    const std::vector<Var> in{x, frozen, x, Var(), ids};
    backward(plain ? body(in) : checkpoint(body, in));
    dx.push_back(x.grad());
    dw.push_back(w.grad());
    CHECK(!frozen.grad().defined());
  }
  CHECK(same_bits(dx[0], dx[1]));
  CHECK(same_bits(dw[0], dw[1]));
}

TEST_CASE("a checkpoint that returns its input, and one over leaves alone") {
  Var x(normal64({3}, 1), true);
  const Tensor dy = normal64({3}, 2);
  backward(checkpoint([](std::span<const Var> in) { return in[0]; }, {x}), dy);
  CHECK(same_bits(x.grad(), dy));
  x.zero_grad();
  backward(checkpoint([x](std::span<const Var>) { return affine(x, 1); }, {}), dy);
  CHECK(same_bits(x.grad(), dy));
}

TEST_CASE("a checkpoint with several results, one unused, one an input, changes no bit") {
  const auto body = [](std::span<const Var> in) {
    const Var a = mul(in[0], in[1]), b = tanh(a);
    return std::vector{a, mul(a, b), in[1], square(b)};
  };
  std::vector<Tensor> grads[2];
  for (const bool again : {false, true}) {
    const Var x(normal64({3, 4}, 1), true), w(normal64({4}, 2), true);
    std::vector<Var> r{x, w};
    for (int i = 0; i < 2; ++i) {
      const std::vector<Var> in{r[0], r[1]};
      const std::vector<Var> y = again ? checkpoint(body, in) : body(in);
      r = {add(mul(y[0], y[1]), mul(y[0], y[2])), y[2]};  // y[3] is not used
    }
    backward(sum(mul(r[0], r[1])));
    grads[again] = {x.grad(), w.grad()};
  }
  for (size_t i = 0; i < 2; ++i) CHECK(same_bits(grads[0][i], grads[1][i]));
}

TEST_CASE("checkpointing lowers the peak of a long chain") {
  const auto peak = [](bool checkpointed) {
    Var x(random_tensor({10000}, 1), true);
    cpu_memory::reset_peak();
    const int64_t before = cpu_memory::stats().current_bytes;
    const auto segment = [](std::span<const Var> in) {
      Var h = in[0];
      for (int i = 0; i < 10; ++i) h = tanh(h);
      return h;
    };
    Var h = x;
    for (int i = 0; i < 10; ++i) {
      const Var in[] = {h};
      h = checkpointed ? checkpoint(segment, {h}) : segment(in);
    }
    backward(sum(h));
    return cpu_memory::stats().peak_bytes - before;
  };
  const int64_t plain = peak(false), less = peak(true);
  INFO("peak bytes ", plain, " and ", less);
  CHECK(plain >= 100 * 40000);
  CHECK(less <= 30 * 40000);
}

}  // namespace
}  // namespace parlo
