// linear with every part of its epilogue against plain loops in f64.
#include <cstring>

#include "tensor/parallel.h"
#include "tests/kernels/linear_cases.h"

using namespace parlo;
using namespace parlo::test;

TEST_CASE("every activation with bias, residual and low rank") {
  for (DType dtype : {DType::f32, DType::f64}) {
    for (Activation f : {Activation::none, Activation::gelu_tanh, Activation::gelu_erf,
                         Activation::quick_gelu, Activation::silu}) {
      for (int64_t rank : {0, 1, 4, 8, 16, 24}) {
        HostLinearCase c = linear_case(37, 70, 65, rank, dtype, dtype);
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
    compare(linear_case(s[0], s[1], s[2], 4, DType::f32, DType::f32), 1e-5);
    const HostLinearCase full = linear_case(s[0], s[1], s[2], 0, DType::f32, DType::f32);
    HostLinearCase bare;
    bare.x = full.x, bare.w = full.w;
    const Tensor y = Tensor::full({s[0], s[1]}, std::nan(""));
    cpu::linear(bare.x, bare.w, y);
    check_close(y.to(DType::f64), reference(bare).y, 1e-5);
  }
}

TEST_CASE("residual may be the output itself") {
  HostLinearCase c = linear_case(33, 50, 40, 0, DType::f32, DType::f32);
  const HostLinearResult want = reference(c);
  LinearArgs args;
  args.bias = c.bias, args.residual = c.residual;
  cpu::linear(c.x, c.w, c.residual, args);
  check_close(c.residual.to(DType::f64), want.y, 1e-5);
}

TEST_CASE("bf16 weights: a product of inputs rounded to bf16 at worst") {
  for (int64_t k : {1, 2, 31, 64, 257}) {
    for (int64_t n : {1, 16, 70, 96}) {
      HostLinearCase c = linear_case(37, n, k, 8, DType::f32, DType::bf16);
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
    HostLinearCase c = linear_case(301, 70, 65, 8, DType::f32, weight);
    c.activation = Activation::gelu_tanh;
    set_num_threads(1);
    const Tensor whole = run_linear(c).y;
    for (int threads : {2, 3}) {
      set_num_threads(threads);
      const Tensor again = run_linear(c).y;
      CHECK(std::memcmp(again.raw(), whole.raw(), whole.nbytes()) == 0);
    }
    for (int64_t begin : {0, 1, 13, 300}) {
      for (int64_t rows : {1, 3, 9, 40}) {
        if (begin + rows > 301) continue;
        HostLinearCase part = c;
        part.x = c.x.slice(0, begin, begin + rows).contiguous();
        part.residual = c.residual.slice(0, begin, begin + rows).contiguous();
        const Tensor y = run_linear(part).y;
        CHECK(std::memcmp(y.raw(), whole.data<float>() + begin * 70, y.nbytes()) == 0);
      }
    }
  }
  set_num_threads(2);
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
