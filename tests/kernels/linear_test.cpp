// linear with every part of its epilogue against plain loops in f64.
#include <cstring>
#include <utility>

#include "kernels/matmul.h"
#include "tensor/parallel.h"
#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

double activate(Activation f, double x) {
  switch (f) {
    case Activation::none:
      return x;
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::gelu_erf:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::quick_gelu:
      return x / (1 + std::exp(-1.702 * x));
    case Activation::silu:
      return x / (1 + std::exp(-x));
  }
  return x;
}

struct Case {
  Tensor x, w, bias, residual, a, b;
  Activation activation = Activation::none;
  double scale = 1;
};

struct Result {
  Tensor y, pre, down;
};

double at(const Tensor& t, int64_t i, int64_t j) {
  return t.data<double>()[i * t.dim(1) + j];
}

Tensor times_transposed(const Tensor& x, const Tensor& w) {
  const Tensor out = Tensor::zeros({x.dim(0), w.dim(0)}, DType::f64);
  for (int64_t i = 0; i < x.dim(0); ++i) {
    for (int64_t j = 0; j < w.dim(0); ++j) {
      double sum = 0;
      for (int64_t k = 0; k < x.dim(1); ++k) sum += at(x, i, k) * at(w, j, k);
      out.data<double>()[i * w.dim(0) + j] = sum;
    }
  }
  return out;
}

Result reference(const Case& c) {
  const Tensor x = c.x.to(DType::f64);
  const Tensor y = times_transposed(x, c.w.to(DType::f64));
  Result r{y, Tensor(), Tensor()};
  if (c.a) {
    r.down = times_transposed(x, c.a.to(DType::f64));
    const Tensor up = times_transposed(r.down, c.b.to(DType::f64));
    for (int64_t i = 0; i < y.numel(); ++i) y.data<double>()[i] += c.scale * up.data<double>()[i];
  }
  r.pre = Tensor::empty_like(y);
  for (int64_t i = 0; i < y.numel(); ++i) {
    double& v = y.data<double>()[i];
    if (c.bias) v += c.bias.to_vector()[i % y.dim(1)];
    r.pre.data<double>()[i] = v;
    v = activate(c.activation, v);
    if (c.residual) v += c.residual.to(DType::f64).data<double>()[i];
  }
  return r;
}

Result run(const Case& c) {
  Result r;
  r.y = Tensor::full({c.x.dim(0), c.w.dim(0)}, std::nan(""), c.x.dtype());
  r.pre = Tensor::full(r.y.shape(), std::nan(""), c.x.dtype());
  LinearArgs args;
  LowRank low{c.a, c.b, c.scale, Tensor()};
  if (c.a) {
    low.down = r.down = Tensor::full({c.x.dim(0), c.a.dim(0)}, std::nan(""), c.x.dtype());
    args.low_rank = &low;
  }
  args.bias = c.bias, args.residual = c.residual, args.pre_activation = r.pre;
  args.activation = c.activation;
  cpu::linear(c.x, c.w, r.y, args);
  return r;
}

Case make(int64_t rows, int64_t n, int64_t k, int64_t rank, DType dtype, DType weight) {
  Case c;
  c.x = random_tensor({rows, k}, 1, dtype);
  c.w = random_tensor({n, k}, 2, dtype, 0.2).to(weight);
  c.bias = random_tensor({n}, 3, dtype);
  c.residual = random_tensor({rows, n}, 4, dtype);
  if (rank > 0) {
    c.a = random_tensor({rank, k}, 5, dtype, 0.2);
    c.b = random_tensor({n, rank}, 6, dtype, 0.2);
    c.scale = 1.5;
  }
  return c;
}

void compare(const Case& c, double limit) {
  const Result got = run(c), want = reference(c);
  check_close(got.y.to(DType::f64), want.y, limit);
  check_close(got.pre.to(DType::f64), want.pre, limit);
  if (c.a) check_close(got.down.to(DType::f64), want.down, limit);
}

}  // namespace

TEST_CASE("every activation with bias, residual and low rank") {
  for (DType dtype : {DType::f32, DType::f64}) {
    for (Activation f : {Activation::none, Activation::gelu_tanh, Activation::gelu_erf,
                         Activation::quick_gelu, Activation::silu}) {
      for (int64_t rank : {0, 1, 4, 8, 16, 24}) {
        Case c = make(37, 70, 65, rank, dtype, dtype);
        c.activation = f;
        compare(c, tolerance(dtype));
      }
    }
  }
}

TEST_CASE("odd sizes, no options, nothing to do") {
  const int64_t sizes[][3] = {{1, 1, 1},    {1, 96, 64},     {5, 48, 16}, {100, 8, 64},
                              {70, 16, 33}, {300, 130, 300}, {0, 8, 8},   {8, 0, 8},
                              {6, 7, 0},    {64, 384, 96}};
  for (const auto& s : sizes) {
    INFO("rows ", s[0], " n ", s[1], " k ", s[2]);
    compare(make(s[0], s[1], s[2], 4, DType::f32, DType::f32), 1e-5);
    const Case full = make(s[0], s[1], s[2], 0, DType::f32, DType::f32);
    Case bare;
    bare.x = full.x, bare.w = full.w;
    const Tensor y = Tensor::full({s[0], s[1]}, std::nan(""));
    cpu::linear(bare.x, bare.w, y);
    check_close(y.to(DType::f64), reference(bare).y, 1e-5);
  }
}

TEST_CASE("residual may be the output itself") {
  Case c = make(33, 50, 40, 0, DType::f32, DType::f32);
  const Result want = reference(c);
  LinearArgs args;
  args.bias = c.bias, args.residual = c.residual;
  cpu::linear(c.x, c.w, c.residual, args);
  check_close(c.residual.to(DType::f64), want.y, 1e-5);
}

TEST_CASE("bf16 weights: a product of inputs rounded to bf16 at worst") {
  for (int64_t k : {1, 2, 31, 64, 257}) {
    for (int64_t n : {1, 16, 70, 96}) {
      Case c = make(37, n, k, 8, DType::f32, DType::bf16);
      // Each input is off by at most 2^-9 relative; the sum over k of random signs by less.
      compare(c, tolerance(DType::bf16));
      c.x = c.x.to(DType::bf16).to(DType::f32);
      if (c.a) c.a = Tensor(), c.b = Tensor();
      compare(c, 1e-5);
    }
  }
}

TEST_CASE("a row has the same bits alone, inside any batch, with any number of threads") {
  for (DType weight : {DType::f32, DType::bf16}) {
    Case c = make(301, 70, 65, 8, DType::f32, weight);
    c.activation = Activation::gelu_tanh;
    set_num_threads(1);
    const Tensor whole = run(c).y;
    for (int threads : {2, 3}) {
      set_num_threads(threads);
      const Tensor again = run(c).y;
      CHECK(std::memcmp(again.raw(), whole.raw(), whole.nbytes()) == 0);
    }
    for (int64_t begin : {0, 1, 13, 300}) {
      for (int64_t rows : {1, 3, 9, 40}) {
        if (begin + rows > 301) continue;
        Case part = c;
        part.x = c.x.slice(0, begin, begin + rows).contiguous();
        part.residual = c.residual.slice(0, begin, begin + rows).contiguous();
        const Tensor y = run(part).y;
        CHECK(std::memcmp(y.raw(), whole.data<float>() + begin * 70, y.nbytes()) == 0);
      }
    }
  }
  set_num_threads(2);
}

TEST_CASE("a gate that rows share") {
  for (DType dtype : {DType::f32, DType::f64}) {
    for (const auto& [gates, rows, first] : {std::tuple{1, 99, 0}, {3, 13, 0}, {4, 13, 9}}) {
      Case c = make(39, 30, 20, 4, dtype, dtype);
      c.activation = Activation::silu;
      const Tensor gate = random_tensor({gates, 60}, 9, dtype).slice(1, 30, 60);
      const Tensor residual = std::exchange(c.residual, Tensor());
      const Result plain = reference(c);
      const Tensor want = residual.to(DType::f64).clone(), g = gate.to(DType::f64).contiguous();
      for (int64_t i = 0; i < 39; ++i)
        for (int64_t j = 0; j < 30; ++j)
          want.data<double>()[i * 30 + j] += at(g, (first + i) / rows, j) * at(plain.y, i, j);
      LinearArgs args;
      const LowRank low{c.a, c.b, c.scale, {}};
      args.bias = c.bias, args.activation = c.activation, args.low_rank = &low;
      args.residual = residual, args.gate = {gate, rows, first};
      const Tensor y = Tensor::full({39, 30}, std::nan(""), dtype);
      cpu::linear(c.x, c.w, y, args);
      check_close(y.to(DType::f64), want, tolerance(dtype));
      cpu::linear(c.x, c.w, residual, args);  // in place
      CHECK(same_values(residual, y));
    }
  }
}

TEST_CASE("rows of several adapters have the bits of their segment alone") {
  for (DType dtype : {DType::f32, DType::f64}) {
    Case c = make(150, 70, 65, 0, dtype, dtype);
    c.activation = Activation::silu;
    const auto adapter = [&](int64_t first, int64_t rows, int64_t rank, uint32_t seed) {
      return LowRankRows{
          first,
          rows,
          {random_tensor({rank, 65}, seed, dtype), random_tensor({70, rank}, seed + 1, dtype),
           0.1 * seed, Tensor::empty({rows, rank}, dtype)}};
    };
    const LowRankRows segments[] = {adapter(2, 20, 4, 7), adapter(22, 60, 9, 9),
                                    adapter(90, 0, 3, 11), adapter(90, 55, 16, 13)};
    const Tensor y = Tensor::full({150, 70}, std::nan(""), dtype), pre = y.clone();
    LinearArgs args;
    args.bias = c.bias, args.residual = c.residual, args.pre_activation = pre;
    args.activation = c.activation, args.low_rank_rows = segments;
    cpu::linear(c.x, c.w, y, args);
    int64_t row = 0;
    const auto check = [&](int64_t begin, int64_t end, const LowRank* low) {
      INFO("rows ", begin, " .. ", end);
      Case part = c;
      part.x = c.x.slice(0, begin, end), part.residual = c.residual.slice(0, begin, end);
      if (low) part.a = low->a, part.b = low->b, part.scale = low->scale;
      const Result alone = run(part);
      CHECK(same_values(alone.y, y.slice(0, begin, end)));
      CHECK(same_values(alone.pre, pre.slice(0, begin, end)));
      if (low) CHECK(same_values(alone.down, low->down));
    };
    for (const LowRankRows& s : segments) {
      check(row, s.first, nullptr);
      check(s.first, row = s.first + s.rows, &s.low_rank);
    }
    check(row, 150, nullptr);
  }
}

TEST_CASE("faults are named") {
  const Tensor x = Tensor::zeros({2, 3}), w = Tensor::zeros({4, 3}), y = Tensor::zeros({2, 4});
  LinearArgs args;
  args.bias = Tensor::zeros({5});
  CHECK(contains(message_of([&] { cpu::linear(x, w, y, args); }), "bias"));
  CHECK(contains(message_of([&] { cpu::linear(x, Tensor::zeros({4, 5}), y); }), "w has shape"));
  CHECK(contains(message_of([&] { cpu::linear(x, w.to(DType::f16), y); }), "f16"));
  args.bias = Tensor();
  args.gate = {Tensor::zeros({1, 4}), 2, 0};
  CHECK(contains(message_of([&] { cpu::linear(x, w, y, args); }), "gate without a residual"));
  args.residual = y, args.gate.first = 1;
  CHECK(contains(message_of([&] { cpu::linear(x, w, y, args); }), "2 rows, 2 a gate"));
  args.residual = args.gate.values = Tensor();
  const LowRankRows one{1, 2, {Tensor::zeros({1, 3}), Tensor::zeros({4, 1}), 1, {}}};
  args.bias = Tensor();
  args.low_rank_rows = {&one, 1};
  CHECK(contains(message_of([&] { cpu::linear(x, w, y, args); }), "rows [1, 3)"));
}
