#include "kernels/reduce.h"
#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {
namespace {

const Shape kRows[] = {{1, 1}, {9, 5}, {17, 32}, {3, 333}, {2, 2048}, {3, 2050}, {2, 9001}, {0, 7}};
constexpr int64_t kIgnore = -100;

// Spread over the classes; every third row is ignored.
Tensor targets_of(int64_t rows, int64_t C) {
  std::vector<int64_t> targets;
  for (int64_t r = 0; r < rows; ++r) targets.push_back(r % 3 == 2 ? kIgnore : r * 97 % C);
  return Tensor::from(targets, {rows});
}

struct Loss {
  Tensor losses, lse, dlogits;

  Loss(const Tensor& logits, const Tensor& targets, const Tensor& dlosses)
      : losses(gpu_output({logits.dim(0)})),
        lse(gpu_output({logits.dim(0)})),
        dlogits(gpu_output(logits.shape(), logits.dtype())) {
    cuda::cross_entropy(logits, targets, losses, lse);
    cuda::cross_entropy_backward(logits, targets, lse, dlosses, dlogits);
  }
};

}  // namespace

TEST_CASE("gpu: cross-entropy and its gradient, aligned or not") {
  for (const DType dtype : kGpuTypes) {
    for (const Shape& shape : kRows) {
      INFO("rows ", to_string(shape), " of ", dtype_name(dtype));
      const int64_t R = shape[0];
      const GpuInput x(shape, 1, dtype, 3), dlosses({R}, 2, DType::f32);
      const Tensor targets = targets_of(R, shape[1]);
      const Loss got(x.gpu, on_gpu(targets), dlosses.gpu);
      const Tensor losses = Tensor::empty({R}, DType::f64), lse = Tensor::empty_like(losses),
                   dlogits = Tensor::empty(shape, DType::f64);
      cpu::cross_entropy(x.reference, targets, losses, lse);
      cpu::cross_entropy_backward(x.reference, targets, lse, dlosses.reference, dlogits);
      check_close(got.losses, losses);
      check_close(got.lse, lse);
      check_close(got.dlogits, dlogits);
      const Loss again(shifted(x.gpu), on_gpu(targets), dlosses.gpu);
      CHECK(same_gpu_bits(got.losses, again.losses));
      CHECK(same_gpu_bits(got.dlogits, again.dlogits));
    }
  }
}

TEST_CASE("gpu: a row's cross-entropy does not depend on its batch; in place") {
  for (const int64_t C : {13, 3001}) {
    const GpuInput x({5, C}, 1, DType::f32), dlosses({5}, 2, DType::f32);
    const Tensor targets = on_gpu(targets_of(5, C));
    const Loss all(x.gpu, targets, dlosses.gpu);
    for (int64_t r = 0; r < 5; ++r) {
      const auto row = [r](const Tensor& t) { return t.slice(0, r, r + 1); };
      const Loss one(row(x.gpu), row(targets), row(dlosses.gpu));
      CHECK(same_gpu_bits(one.losses, row(all.losses)));
      CHECK(same_gpu_bits(one.dlogits, row(all.dlogits)));
    }
    cuda::cross_entropy_backward(x.gpu, targets, all.lse, dlosses.gpu, x.gpu);
    CHECK(same_gpu_bits(x.gpu, all.dlogits));
  }
}

TEST_CASE("gpu: cross-entropy of hidden, large and broken logits") {
  for (const int64_t C : {6, 3000}) {
    const Tensor x = Tensor::full({4, C}, 1),
                 targets = Tensor::from(std::vector<int64_t>{C - 1, 0, 1, 1}, {4});
    x.slice(0, 0, 1).slice(1, 0, C - 2).fill(-std::numeric_limits<float>::infinity());
    x.slice(0, 1, 2).slice(1, 0, 1).fill(1e30);
    x.slice(0, 2, 3).slice(1, 3, 4).fill(std::nan(""));
    x.slice(0, 3, 4).fill(-std::numeric_limits<float>::infinity());
    const Tensor one = Tensor::full({4}, 1, DType::f64);
    const Loss got(on_gpu(x), on_gpu(targets), on_gpu(one.to(DType::f32)));
    const Tensor losses = Tensor::empty({4}, DType::f64), lse = Tensor::empty_like(losses),
                 dlogits = Tensor::empty({4, C}, DType::f64);
    cpu::cross_entropy(x.to(DType::f64), targets, losses, lse);
    cpu::cross_entropy_backward(x.to(DType::f64), targets, lse, one, dlogits);
    check_close(got.losses, losses);
    check_close(got.dlogits, dlogits);
  }
}

TEST_CASE("gpu: a bad target is named; what does not fit is refused") {
  const Tensor x = gpu_output({3, 4}), rows = gpu_output({3}), half = gpu_output({3}, DType::bf16);
  const auto targets = [](int64_t a, int64_t b) {
    return on_gpu(Tensor::from(std::vector<int64_t>{a, b, 9}, {3}));
  };
  const auto message = [&](const Tensor& t, const Tensor& losses, int64_t ignored = kIgnore) {
    return message_of([&] { cuda::cross_entropy(x, t, losses, rows, ignored); });
  };
  CHECK(contains(message(targets(0, 4), rows), "target 4 of row 1 is outside [0, 4)"));
  CHECK(contains(message(targets(kIgnore, -1), rows), "target -1 of row 1 is outside"));
  CHECK(contains(message(targets(-1, -1), rows, -1), "target 9 of row 2 is outside"));
  CHECK(message(targets(0, 1), rows, 9) == "");
  CHECK(contains(message(targets(0, 1), half), "losses has dtype bf16, expected f32"));
  CHECK(contains(message(Tensor::zeros({3}, DType::i64), rows), "operands lie on"));
  const Tensor none = gpu_output({2, 0});
  CHECK(contains(message_of([&] { cuda::cross_entropy(none, rows, rows, rows); }), "no classes"));
}

}  // namespace parlo::test
