#include "kernels/matmul.h"

#include <cstring>

#include "tests/gpu_support.h"

namespace parlo::test {
namespace {

// c's old values, on both sides.
struct Product {
  Tensor gpu, reference;
  explicit Product(const Shape& shape, DType dtype) {
    const GpuInput old(shape, 3, dtype);
    gpu = old.gpu, reference = old.reference;
  }
};

void check_product(const Tensor& a, bool trans_a, const Tensor& b, bool trans_b, const Shape& shape,
                   DType dtype, const Tensor& a64, const Tensor& b64) {
  for (const auto& [alpha, beta] : {std::pair{1.0, 0.0}, {0.5, 0.25}}) {
    const Product c(shape, dtype);
    cuda::matmul(a, trans_a, b, trans_b, c.gpu, alpha, beta);
    cpu::matmul(a64, trans_a, b64, trans_b, c.reference, alpha, beta);
    check_close(c.gpu, c.reference, tolerance(dtype));
  }
}

Shape operand(int64_t rows, int64_t cols, bool trans) {
  return trans ? Shape{cols, rows} : Shape{rows, cols};
}

bool same_bits(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(Device{}).contiguous(), y = b.to(Device{}).contiguous();
  return x.nbytes() == y.nbytes() &&
         (x.nbytes() == 0 || !std::memcmp(x.raw(), y.raw(), x.nbytes()));
}

}  // namespace

TEST_CASE("gpu: all transposes at odd and empty sizes") {
  const int64_t sizes[][3] = {{1, 1, 1},    {3, 5, 2},   {33, 17, 70}, {64, 96, 128}, {130, 8, 16},
                              {5, 130, 60}, {2, 300, 1}, {3, 4, 0},    {0, 4, 3},     {4, 0, 3}};
  for (const DType dtype : kGpuTypes) {
    for (const auto& [m, n, k] : sizes) {
      for (int form = 0; form < 4; ++form) {
        const bool trans_a = form & 1, trans_b = form & 2;
        INFO("m ", m, " n ", n, " k ", k, " form ", form);
        const GpuInput a(operand(m, k, trans_a), 1, dtype), b(operand(k, n, trans_b), 2, dtype);
        check_product(a.gpu, trans_a, b.gpu, trans_b, {m, n}, dtype, a.reference, b.reference);
      }
    }
  }
}

TEST_CASE("gpu: a product over nothing overwrites NaN") {
  const Tensor c = gpu_output({2, 6}).slice(1, 0, 2);
  cuda::matmul(Tensor::empty({2, 0}, DType::f32, kGpu), false,
               Tensor::empty({0, 2}, DType::f32, kGpu), false, c);
  CHECK(same_values(c.contiguous(), Tensor::zeros({2, 2})));
}

TEST_CASE("gpu: strided rows, and nothing is written beside them") {
  for (const DType dtype : kGpuTypes) {
    const GpuInput a({40, 100}, 1, dtype), b({70, 90}, 2, dtype), c({37, 64}, 3, dtype);
    const auto left = [](const Tensor& t) { return t.slice(1, 3, 73).slice(0, 2, 39); };
    const auto right = [](const Tensor& t) { return t.slice(1, 11, 60); };
    const Tensor kept = c.gpu.clone(), out = c.gpu.slice(1, 7, 56);
    cuda::matmul(left(a.gpu), false, right(b.gpu), false, out, 2.0, 1.0);
    cpu::matmul(left(a.reference), false, right(b.reference), false, c.reference.slice(1, 7, 56),
                2.0, 1.0);
    check_close(c.gpu, c.reference, tolerance(dtype));
    CHECK(same_bits(c.gpu.slice(1, 0, 7), kept.slice(1, 0, 7)));
    CHECK(same_bits(c.gpu.slice(1, 56, 64), kept.slice(1, 56, 64)));
  }
}

TEST_CASE("gpu: batches, broadcast, permuted and expanded") {
  for (const DType dtype : kGpuTypes) {
    const GpuInput a({2, 3, 11, 20}, 1, dtype), b({3, 1, 20, 9}, 2, dtype);
    const auto moved = [](const Tensor& t) {
      return t.permute({1, 0, 2, 3}).expand({2, 3, 20, 9});
    };
    const auto one = [](const Tensor& t) { return t.select(0, 0).select(0, 0); };
    check_product(a.gpu, false, moved(b.gpu), false, {2, 3, 11, 9}, dtype, a.reference,
                  moved(b.reference));
    check_product(a.gpu, false, one(b.gpu), false, {2, 3, 11, 9}, dtype, a.reference,
                  one(b.reference));
    // [B, H, T, D] views of [B, T, H, D], transposed on either side.
    const GpuInput q({2, 11, 3, 20}, 4, dtype);
    const auto heads = [](const Tensor& t) { return t.permute({0, 2, 1, 3}); };
    check_product(heads(q.gpu), false, a.gpu, true, {2, 3, 11, 11}, dtype, heads(q.reference),
                  a.reference);
    check_product(heads(q.gpu), true, a.gpu, false, {2, 3, 20, 20}, dtype, heads(q.reference),
                  a.reference);
    // Rows that are all the same row.
    const GpuInput row({1, 20}, 5, dtype);
    check_product(row.gpu.expand({6, 20}), false, one(b.gpu), false, {6, 9}, dtype,
                  row.reference.expand({6, 20}), one(b.reference));
  }
}

TEST_CASE("gpu: a row has the same bits alone and inside any batch") {
  for (const DType dtype : kGpuTypes) {
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>{33, 70}, {64, 96}}) {
      const GpuInput a({50, k}, 1, dtype), b({n, k}, 2, dtype);
      const Tensor whole = gpu_output({50, n}, dtype), again = gpu_output({50, n}, dtype);
      cuda::matmul(a.gpu, false, b.gpu, true, whole);
      cuda::matmul(a.gpu, false, b.gpu, true, again);
      CHECK(same_bits(whole, again));
      for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {7, 8}, {17, 40}}) {
        const Tensor part = gpu_output({end - begin, n}, dtype);
        cuda::matmul(a.gpu.slice(0, begin, end), false, b.gpu, true, part);
        CHECK(same_bits(part, whole.slice(0, begin, end)));
      }
    }
  }
}

// bf16 with one narrow side over many rows: kernels/cuda/low_rank_gradient.cu.
TEST_CASE("gpu: sums over many rows into few columns") {
  const int64_t narrow[] = {2, 4, 8, 16, 20, 24, 32, 33, 40, 64};
  for (const int64_t rows : {256, 1023, 2500}) {
    for (const int64_t r : narrow) {
      for (const int64_t n : {72, 200}) {
        if (n == 200 && r != 32) continue;
        INFO("rows ", rows, ", ", r, " by ", n);
        const GpuInput p({rows, r}, 1, DType::bf16), x({rows, n}, 2, DType::bf16);
        check_product(p.gpu, true, x.gpu, false, {r, n}, DType::bf16, p.reference, x.reference);
        check_product(x.gpu, true, p.gpu, false, {n, r}, DType::bf16, x.reference, p.reference);
      }
    }
  }
}

TEST_CASE("gpu: sums over many rows of slices, the same bits every time") {
  const GpuInput p({700, 40}, 1, DType::bf16), x({700, 160}, 2, DType::bf16);
  for (const auto& [from, to] : {std::pair<int64_t, int64_t>{0, 16}, {8, 40}, {3, 19}}) {
    for (const int64_t begin : {0, 8, 5}) {
      const auto left = [&](const Tensor& t) { return t.slice(1, from, to); };
      const auto right = [&](const Tensor& t) { return t.slice(1, begin, 104); };
      const Shape shape{to - from, 104 - begin};
      check_product(left(p.gpu), true, right(x.gpu), false, shape, DType::bf16, left(p.reference),
                    right(x.reference));
      const Tensor once = gpu_output(shape, DType::bf16), again = gpu_output(shape, DType::bf16);
      cuda::matmul(left(p.gpu), true, right(x.gpu), false, once);
      cuda::matmul(left(p.gpu), true, right(x.gpu), false, again);
      CHECK(same_bits(once, again));
    }
  }
}

TEST_CASE("gpu: what matmul cannot do is refused") {
  const Tensor a = gpu_output({2, 3}), b = gpu_output({4, 5}), c = gpu_output({2, 5});
  CHECK(contains(message_of([&] { cuda::matmul(a, false, b, false, c); }), "inner sizes 3 and 4"));
  CHECK(contains(message_of([&] {
                   cuda::matmul(a, false, Tensor::zeros({3, 5}), false, c);
                 }),
                 "operands lie on cuda:0"));
  const Tensor wide = Tensor::zeros({2, 2}, DType::f64, kGpu);
  CHECK(contains(message_of([&] { cuda::matmul(wide, false, wide, false, wide); }),
                 "matmul: expected dtype f32 or bf16"));
}

}  // namespace parlo::test
