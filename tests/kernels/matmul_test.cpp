// matmul against plain loops in f64: transposes, strides, broadcast, empty sizes, and the promise
// that a row's bits depend on neither its neighbours nor the number of threads.
#include "kernels/matmul.h"

#include <cstring>

#include "tensor/parallel.h"
#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

// alpha op(a) op(b) + beta c for 2-D operands of any strides, in f64.
Tensor reference(const Tensor& a, bool trans_a, const Tensor& b, bool trans_b, const Tensor& c,
                 double alpha, double beta) {
  const Tensor left = (trans_a ? a.transpose(0, 1) : a).to(DType::f64).contiguous();
  const Tensor right = (trans_b ? b.transpose(0, 1) : b).to(DType::f64).contiguous();
  const Tensor old = c.to(DType::f64).contiguous();
  const int64_t m = left.dim(0), k = left.dim(1), n = right.dim(1);
  const Tensor out = Tensor::zeros({m, n}, DType::f64);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < k; ++p) {
        sum += left.data<double>()[i * k + p] * right.data<double>()[p * n + j];
      }
      out.data<double>()[i * n + j] = alpha * sum + beta * old.data<double>()[i * n + j];
    }
  }
  return out;
}

Tensor operand(int64_t rows, int64_t cols, bool trans, uint32_t seed, DType dtype) {
  return trans ? random_tensor({cols, rows}, seed, dtype)
               : random_tensor({rows, cols}, seed, dtype);
}

void check_product(int64_t m, int64_t n, int64_t k, DType dtype) {
  for (int form = 0; form < 4; ++form) {
    const bool trans_a = form & 1, trans_b = form & 2;
    const Tensor a = operand(m, k, trans_a, 1, dtype), b = operand(k, n, trans_b, 2, dtype);
    const Tensor c = random_tensor({m, n}, 3, dtype), old = c.clone();
    const double alpha = form == 0 ? 1 : 0.5, beta = form == 3 ? 0 : 0.25;
    cpu::matmul(a, trans_a, b, trans_b, c, alpha, beta);
    INFO("m ", m, " n ", n, " k ", k, " form ", form);
    check_close(c.to(DType::f64), reference(a, trans_a, b, trans_b, old, alpha, beta),
                tolerance(dtype));
  }
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  const Tensor x = a.contiguous(), y = b.contiguous();
  return x.nbytes() == y.nbytes() && std::memcmp(x.raw(), y.raw(), x.nbytes()) == 0;
}

}  // namespace

TEST_CASE("all transposes at odd sizes") {
  const int64_t sizes[][3] = {{1, 1, 1},     {1, 64, 96},    {2, 3, 5},    {7, 17, 33},
                              {8, 48, 64},   {13, 47, 31},   {65, 33, 70}, {96, 8, 128},
                              {130, 16, 97}, {128, 96, 4},   {31, 200, 9}, {300, 64, 1},
                              {5, 130, 600}, {257, 49, 257}, {9, 1, 300}};
  for (const auto& s : sizes) {
    check_product(s[0], s[1], s[2], DType::f32);
    check_product(s[0], s[1], s[2], DType::f64);
  }
}

TEST_CASE("a long inner axis and wide outputs cross every block edge") {
  check_product(3, 700, 1100, DType::f32);
  check_product(530, 40, 530, DType::f32);
}

TEST_CASE("empty sizes") {
  check_product(3, 4, 0, DType::f32);
  check_product(0, 4, 3, DType::f32);
  check_product(4, 0, 3, DType::f64);
  const Tensor c = Tensor::full({2, 2}, std::nan(""));
  cpu::matmul(Tensor::empty({2, 0}), false, Tensor::empty({0, 2}), false, c);
  CHECK(same_values(c, Tensor::zeros({2, 2})));
}

TEST_CASE("beta 0 overwrites NaN, and NaN in an operand reaches the result") {
  for (DType dtype : {DType::f32, DType::f64}) {
    const Tensor a = random_tensor({20, 30}, 1, dtype), b = Tensor::zeros({30, 40}, dtype);
    const Tensor c = Tensor::full({20, 40}, std::nan(""), dtype);
    cpu::matmul(a, false, b, false, c);
    CHECK(same_values(c, Tensor::zeros({20, 40}, dtype)));
    a.slice(0, 7, 8).slice(1, 3, 4).fill(std::nan(""));
    cpu::matmul(a, false, b, false, c);
    for (int64_t i = 0; i < 20; ++i) {
      CHECK(std::isnan(c.select(0, i).select(0, 39).item()) == (i == 7));
    }
  }
}

TEST_CASE("strided rows on every operand") {
  for (DType dtype : {DType::f32, DType::f64}) {
    const Tensor a = random_tensor({40, 100}, 1, dtype).slice(1, 3, 73).slice(0, 2, 39);
    const Tensor b = random_tensor({70, 90}, 2, dtype).slice(1, 11, 60);
    const Tensor whole = random_tensor({37, 64}, 3, dtype), kept = whole.clone();
    const Tensor c = whole.slice(1, 7, 56), old = c.contiguous().clone();
    cpu::matmul(a, false, b, false, c, 2.0, 1.0);
    check_close(c.to(DType::f64).contiguous(), reference(a, false, b, false, old, 2.0, 1.0),
                tolerance(dtype));
    CHECK(same_values(whole.slice(1, 0, 7).contiguous(), kept.slice(1, 0, 7).contiguous()));
    CHECK(same_values(whole.slice(1, 56, 64).contiguous(), kept.slice(1, 56, 64).contiguous()));
  }
}

TEST_CASE("batches, broadcast and permuted") {
  const Tensor a = random_tensor({2, 3, 11, 20}, 1), b = random_tensor({3, 1, 20, 9}, 2);
  const Tensor moved = b.permute({1, 0, 2, 3}).expand({2, 3, 20, 9}), one = b.select(0, 0);
  const Tensor c = Tensor::empty({2, 3, 11, 9}), d = Tensor::empty({2, 3, 11, 9});
  cpu::matmul(a, false, moved, false, c);
  cpu::matmul(a, false, one, false, d);
  const Tensor old = Tensor::zeros({11, 9});
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 3; ++j) {
      const Tensor left = a.select(0, i).select(0, j);
      check_close(c.select(0, i).select(0, j).contiguous().to(DType::f64),
                  reference(left, false, b.select(0, j).select(0, 0), false, old, 1, 0), 1e-5);
      check_close(d.select(0, i).select(0, j).contiguous().to(DType::f64),
                  reference(left, false, one.select(0, 0), false, old, 1, 0), 1e-5);
    }
  }
  // Rows of [B, H, T, D] views of a [B, T, H, D] tensor, and a transposed operand.
  const Tensor q = random_tensor({2, 11, 3, 20}, 4).permute({0, 2, 1, 3});
  const Tensor scores = Tensor::empty({2, 3, 11, 11});
  cpu::matmul(q, false, a, true, scores);
  check_close(scores.select(0, 1).select(0, 2).to(DType::f64),
              reference(q.select(0, 1).select(0, 2), false, a.select(0, 1).select(0, 2), true,
                        Tensor::zeros({11, 11}), 1, 0),
              1e-5);
}

TEST_CASE("a row has the same bits alone, inside any batch, with any number of threads") {
  const int64_t sizes[][2] = {{96, 64}, {33, 70}, {8, 128},  {16, 96}, {128, 8},
                              {1, 50},  {200, 4}, {64, 600}, {49, 17}, {384, 128}};
  for (const auto& s : sizes) {
    const int64_t n = s[0], k = s[1], m = 517;
    for (bool trans_b : {false, true}) {
      const Tensor a = random_tensor({m, k}, 1), b = operand(k, n, trans_b, 2, DType::f32);
      const Tensor whole = Tensor::empty({m, n});
      set_num_threads(1);
      cpu::matmul(a, false, b, trans_b, whole);
      for (int threads : {2, 3}) {
        set_num_threads(threads);
        const Tensor again = Tensor::empty({m, n});
        cpu::matmul(a, false, b, trans_b, again);
        CHECK(same_bytes(again, whole));
      }
      for (int64_t begin : {0, 1, 5, 63, 500, 516}) {
        for (int64_t rows : {1, 2, 7, 9, 17}) {
          if (begin + rows > m) continue;
          const Tensor part = Tensor::empty({rows, n});
          cpu::matmul(a.slice(0, begin, begin + rows), false, b, trans_b, part);
          INFO("n ", n, " k ", k, " begin ", begin, " rows ", rows);
          CHECK(same_bytes(part, whole.slice(0, begin, begin + rows)));
          // The same rows from a transposed copy.
          const Tensor turned = a.slice(0, begin, begin + rows).transpose(0, 1).contiguous();
          cpu::matmul(turned, true, b, trans_b, part);
          CHECK(same_bytes(part, whole.slice(0, begin, begin + rows)));
        }
      }
    }
  }
  set_num_threads(2);
}

TEST_CASE("faults are named") {
  const Tensor a = Tensor::zeros({2, 3}), b = Tensor::zeros({4, 5}), c = Tensor::zeros({2, 5});
  CHECK(contains(message_of([&] { cpu::matmul(a, false, b, false, c); }), "inner sizes 3 and 4"));
  CHECK(contains(message_of([&] {
                   cpu::matmul(a, false, Tensor::zeros({3, 4}), false, c);
                 }),
                 "expected (..., 2, 4)"));
  CHECK(contains(message_of([&] { cpu::matmul(a.to(DType::f64), false, b, false, c); }), "f64"));
  const Tensor turned = Tensor::zeros({5, 3}).transpose(0, 1);
  CHECK(contains(message_of([&] { cpu::matmul(a, false, turned, false, c); }), "contiguous"));
}
