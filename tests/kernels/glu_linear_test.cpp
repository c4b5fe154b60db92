// glu_linear on the CPU against plain loops in f64, and against itself alone and in other batches.
#include "kernels/glu_linear.h"

#include "tests/kernels/kernel_support.h"
#include "tests/kernels/linear_cases.h"

using namespace parlo;
using namespace parlo::test;

namespace {

struct GluResult {
  Tensor y, halves;
};

GluResult run_glu(const HostLinearCase& c, bool keep = true,
                  std::span<const LowRankRows> rows = {}) {
  GluResult r;
  r.y = Tensor::full({c.x.dim(0), c.w.dim(0) / 2}, std::nan(""), c.x.dtype());
  GluLinearArgs args;
  const LowRank low{c.a, c.b, c.scale, Tensor()};
  if (c.a) args.low_rank = &low;
  args.low_rank_rows = rows, args.bias = c.bias;
  if (keep)
    args.halves = r.halves = Tensor::full({c.x.dim(0), c.w.dim(0)}, std::nan(""), c.x.dtype());
  cpu::glu_linear(c.activation, c.x, c.w, r.y, args);
  return r;
}

// By loops: linear's, then f of the first F columns times the others.
Tensor plain_glu(const HostLinearCase& c, const Tensor& halves) {
  const int64_t F = c.w.dim(0) / 2;
  const Tensor y = Tensor::empty({c.x.dim(0), F}, DType::f64);
  for (int64_t i = 0; i < y.dim(0); ++i)
    for (int64_t j = 0; j < F; ++j)
      y.data<double>()[i * F + j] =
          plain_activation(c.activation, at(halves, i, j)) * at(halves, i, F + j);
  return y;
}

HostLinearCase glu_case(int64_t rows, int64_t F, int64_t k, int64_t rank, DType dtype,
                        DType weight) {
  HostLinearCase c = linear_case(rows, 2 * F, k, rank, dtype, weight);
  c.residual = Tensor(), c.activation = Activation::silu;
  return c;
}

void check_glu_linear(const HostLinearCase& c, double limit) {
  const GluResult got = run_glu(c);
  const Tensor halves = reference(c).pre;
  check_close(got.halves.to(DType::f64), halves, limit);
  check_close(got.y.to(DType::f64), plain_glu(c, halves), limit);
  CHECK(same_bits(run_glu(c, false).y, got.y));
}

}  // namespace

TEST_CASE("glu_linear: against plain loops, with a bias, a low rank, both or none") {
  for (const Activation f : {Activation::silu, Activation::gelu_tanh, Activation::gelu_erf}) {
    for (const DType dtype : {DType::f32, DType::f64}) {
      for (const int64_t rank : {0, 3}) {
        HostLinearCase c = glu_case(19, 13, 21, rank, dtype, dtype);
        c.activation = f;
        check_glu_linear(c, tolerance(dtype));
        c.bias = Tensor();
        check_glu_linear(c, tolerance(dtype));
      }
    }
  }
  check_glu_linear(glu_case(5, 24, 40, 4, DType::f32, DType::bf16), tolerance(DType::bf16));
}

TEST_CASE("glu_linear: rows alone, several adapters, threads") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    const HostLinearCase c = glu_case(70, 35, 65, 0, dtype, dtype);
    const auto adapter = [&](int64_t first, int64_t rows, int64_t rank, uint32_t seed) {
      return LowRankRows{first,
                         rows,
                         {random_tensor({rank, 65}, seed, dtype),
                          random_tensor({70, rank}, seed + 1, dtype, 0.1), 0.1 * seed, Tensor()}};
    };
    const LowRankRows segments[] = {adapter(2, 20, 4, 7), adapter(30, 40, 16, 13)};
    const GluResult all = run_glu(c, true, segments);
    const auto check = [&](int64_t begin, int64_t end, const LowRank* low) {
      INFO("rows ", begin, " .. ", end);
      HostLinearCase part = c;
      part.x = c.x.slice(0, begin, end);
      if (low) part.a = low->a, part.b = low->b, part.scale = low->scale;
      const GluResult alone = run_glu(part);
      CHECK(same_bits(alone.y, all.y.slice(0, begin, end)));
      CHECK(same_bits(alone.halves, all.halves.slice(0, begin, end)));
    };
    check(0, 2, nullptr), check(2, 22, &segments[0].low_rank);
    check(25, 26, nullptr), check(40, 41, &segments[1].low_rank);
    check_thread_counts([&] { return std::vector<Tensor>{run_glu(c, false, segments).y}; });
  }
}

TEST_CASE("glu_linear: empty operands, and what it refuses") {
  for (const auto& [rows, F, k] : {std::tuple{0, 4, 3}, {4, 0, 3}, {3, 4, 0}, {0, 0, 0}}) {
    HostLinearCase c = glu_case(rows, F, k, 0, DType::f32, DType::f32);
    check_glu_linear(c, tolerance(DType::f32));
  }
  const HostLinearCase c = glu_case(3, 4, 5, 2, DType::f32, DType::f32);
  const Tensor y = Tensor::empty({3, 4});
  const auto message = [&](const Tensor& w, const Tensor& out, const GluLinearArgs& args) {
    return message_of([&] { cpu::glu_linear(Activation::silu, c.x, w, out, args); });
  };
  CHECK(contains(message(c.w.slice(0, 0, 7), y, {}),
                 "glu_linear: w has shape (7, 5), expected [2 F"));
  CHECK(contains(message(c.w, Tensor::empty({3, 8}), {}), "glu_linear: y has shape (3, 8)"));
  CHECK(contains(message(c.w, y.to(DType::f64), {}),
                 "glu_linear: y is f64, expected contiguous f32"));
  GluLinearArgs args;
  args.halves = Tensor::empty({3, 4});
  CHECK(contains(message(c.w, y, args), "glu_linear: halves has shape (3, 4)"));
  args.halves = Tensor(), args.bias = Tensor::empty({4});
  CHECK(contains(message(c.w, y, args), "linear: bias has shape (4)"));
  args.bias = Tensor();
  const LowRank low{c.a, c.b.slice(0, 0, 4), 1, Tensor()};
  args.low_rank = &low;
  CHECK(contains(message(c.w, y, args), "low rank b has shape (4, 2)"));
}
