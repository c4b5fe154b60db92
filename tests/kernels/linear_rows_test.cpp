// linear where rows have their own adapter or share a gate.
#include <utility>

#include "tests/kernels/linear_cases.h"

using namespace parlo;
using namespace parlo::test;

TEST_CASE("a gate that rows share") {
  for (DType dtype : {DType::f32, DType::f64}) {
    for (const auto& [gates, rows, first] : {std::tuple{1, 99, 0}, {3, 13, 0}, {4, 13, 9}}) {
      HostLinearCase c = linear_case(39, 30, 20, 4, dtype, dtype);
      c.activation = Activation::silu;
      const Tensor gate = random_tensor({gates, 60}, 9, dtype).slice(1, 30, 60);
      const Tensor residual = std::exchange(c.residual, Tensor());
      const HostLinearResult plain = reference(c);
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
    HostLinearCase c = linear_case(150, 70, 65, 0, dtype, dtype);
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
      HostLinearCase part = c;
      part.x = c.x.slice(0, begin, end), part.residual = c.residual.slice(0, begin, end);
      if (low) part.a = low->a, part.b = low->b, part.scale = low->scale;
      const HostLinearResult alone = run_linear(part);
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
