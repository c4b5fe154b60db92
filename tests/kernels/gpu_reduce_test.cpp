#include "kernels/reduce.h"

#include "kernels/elementwise.h"
#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {
namespace {

struct Case {
  Shape in, out;
};
const Case kSums[] = {{{7, 5}, {1, 5}},
                      {{7, 5}, {7, 1}},
                      {{7, 8}, {7, 8}},
                      {{1, 1}, {1, 1}},
                      {{3, 4, 5}, {1, 4, 1}},
                      {{3, 4, 5}, {3, 1, 5}},
                      {{2, 3, 4, 16}, {1, 3, 1, 16}},
                      {{2, 3, 2, 5, 3}, {2, 1, 2, 1, 3}},
                      {{1000}, {1}},
                      {{300, 40}, {1, 40}},
                      {{5000, 3}, {1, 3}},
                      {{5, 600, 1}, {5, 1, 1}},
                      {{260, 520}, {1, 520}},
                      {{2, 70000}, {2, 1}},
                      {{33000, 2}, {1, 2}},
                      {{0, 3}, {1, 3}},
                      {{4, 0}, {4, 1}}};

}  // namespace

TEST_CASE("gpu: sums over axes, aligned or not") {
  for (const DType dtype : kGpuTypes) {
    for (const Case& c : kSums) {
      INFO(to_string(c.in), " to ", to_string(c.out));
      const GpuInput x(c.in, 1, dtype);
      const Tensor want = Tensor::empty(c.out, DType::f64), got = gpu_output(c.out, dtype);
      cpu::sum_to(x.reference, want);
      cuda::sum_to(x.gpu, got);
      check_close(got, want);
      const Tensor again = gpu_output(c.out, dtype);
      cuda::sum_to(shifted(x.gpu), again);
      CHECK(same_gpu_bits(got, again));
    }
  }
}

TEST_CASE("gpu: a sum does not depend on its batch") {
  const GpuInput rows({5, 33, 7}, 1, DType::f32), wide({3, 20000}, 2, DType::f32);
  const Tensor sums = gpu_output({5, 1, 7}), totals = gpu_output({3, 1});
  cuda::sum_to(rows.gpu, sums);
  cuda::sum_to(wide.gpu, totals);
  for (int64_t i = 0; i < 5; ++i) {
    const Tensor one = gpu_output({1, 1, 7});
    cuda::sum_to(rows.gpu.slice(0, i, i + 1), one);
    CHECK(same_gpu_bits(one, sums.slice(0, i, i + 1)));
  }
  for (int64_t i = 0; i < 3; ++i) {
    const Tensor one = gpu_output({1, 1});
    cuda::sum_to(wide.gpu.slice(0, i, i + 1), one);
    CHECK(same_gpu_bits(one, totals.slice(0, i, i + 1)));
  }
}

TEST_CASE("gpu: sum, dot and sum of squares of everything") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t n : {0, 1, 7, 257, 4099, 100000}) {
      INFO(n, " elements of ", dtype_name(dtype));
      const GpuInput a({n}, 1, dtype), b({n}, 2, dtype);
      // Sums of values of both signs are small: judged against what was added.
      const double size = std::max(1.0, std::sqrt(static_cast<double>(n)));
      CHECK(std::abs(cuda::sum(a.gpu) - cpu::sum(a.reference)) <= 1e-5 * size);
      CHECK(std::abs(cuda::dot(a.gpu, b.gpu) - cpu::dot(a.reference, b.reference)) <= 1e-5 * size);
      const double squares = cpu::sum_squares(a.reference);
      CHECK(std::abs(cuda::sum_squares(a.gpu) - squares) <= 1e-6 * squares);
      CHECK(cuda::sum_squares(a.gpu) == cuda::sum_squares(shifted(a.gpu)));
      CHECK(cuda::dot(a.gpu, b.gpu) == cuda::dot(shifted(a.gpu), b.gpu));
    }
  }
}

TEST_CASE("gpu: row maxima") {
  for (const DType dtype : kGpuTypes) {
    for (const Shape& shape :
         {Shape{1, 1}, Shape{9, 5}, Shape{3, 64}, Shape{2, 333}, Shape{2, 3000}, Shape{0, 4}}) {
      const GpuInput x(shape, 1, dtype);
      const int64_t rows = shape[0];
      const Tensor values = gpu_output({rows}, dtype), indices = gpu_output({rows}, DType::i64);
      const Tensor want = Tensor::empty({rows}, DType::f64), at = Tensor::empty({rows}, DType::i64);
      cpu::max_rows(x.reference, want, at);
      cuda::max_rows(x.gpu, values, indices);
      CHECK(same_values(values, want));
      CHECK(same_values(indices, at));
      cuda::max_rows(shifted(x.gpu), {}, indices);
      CHECK(same_values(indices, at));
    }
  }
  const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
  const Tensor x =
      Tensor::from(std::vector<float>{1, 3, 3, nan, 5, nan, -inf, -inf, -inf, 2, 2, 2}, {4, 3});
  const Tensor values = gpu_output({4}), indices = gpu_output({4}, DType::i64);
  cuda::max_rows(on_gpu(x), values, indices);
  CHECK((indices.to_vector() == std::vector<double>{1, 0, 0, 0}));
  CHECK(std::isnan(values.to_vector()[1]));
  CHECK(values.to_vector()[2] == -inf);
}

TEST_CASE("gpu: all_finite") {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    for (const int64_t n : {0, 1, 9, 5003}) {
      const Tensor x = on_gpu(random_tensor({n}, 1, dtype));
      CHECK(cuda::all_finite(x));
      for (const int64_t at : {int64_t{0}, n / 2, n - 1}) {
        if (n == 0) continue;
        for (const double bad : {std::nan(""), -std::numeric_limits<double>::infinity()}) {
          const Tensor y = shifted(x);
          y.slice(0, at, at + 1).fill(bad);
          CHECK(!cuda::all_finite(y));
          CHECK(!cuda::all_finite(y.contiguous().clone()));
        }
      }
    }
  }
  const Tensor x = Tensor::full({4, 4}, 1, DType::f32, kGpu);
  x.select(1, 3).fill(std::nan(""));
  CHECK(cuda::all_finite(x.slice(1, 0, 3)));
  CHECK(!cuda::all_finite(x.slice(1, 1, 4)));
  CHECK(cuda::all_finite(Tensor::zeros({3}, DType::i64, kGpu)));
}

TEST_CASE("gpu: reductions that do not fit are refused") {
  const Tensor x = gpu_output({4, 3});
  CHECK(contains(message_of([&] { cuda::sum_to(x, gpu_output({4, 2})); }), "does not sum to"));
  CHECK(contains(message_of([&] { cuda::sum_to(x, Tensor::zeros({4, 1})); }), "operands lie on"));
  CHECK(contains(message_of([&] { cuda::max_rows(gpu_output({2, 0}), {}, {}); }), "are empty"));
  CHECK(contains(message_of([&] { cuda::dot(x, gpu_output({5})); }), "dot: b"));
  CHECK(contains(message_of([&] { cuda::sum(Tensor::zeros({2}, DType::f64, kGpu)); }),
                 "expected dtype f32 or bf16"));
}

}  // namespace parlo::test
