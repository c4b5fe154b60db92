#include "kernels/glu.h"

#include "kernels/elementwise.h"
#include "tests/kernels/kernel_support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

const std::vector<Activation> kAll = {Activation::none, Activation::gelu_tanh, Activation::gelu_erf,
                                      Activation::quick_gelu, Activation::silu};

Tensor glu(Activation f, const Tensor& a, const Tensor& b) {
  Tensor y = Tensor::empty(a.shape(), a.dtype());
  cpu::glu(f, a, b, y);
  return y;
}

// The same by simple operations.
Tensor composite(Activation f, const Tensor& a, const Tensor& b) {
  Tensor y = Tensor::empty(a.shape(), a.dtype());
  cpu::activation(f, a.contiguous(), y);
  cpu::binary(Binary::mul, y, b.contiguous(), y);
  return y;
}

}  // namespace

TEST_CASE("glu: the composite, halves of one projection, rows alone") {
  for (DType dtype : {DType::f32, DType::f64})
    for (Activation f : kAll)
      for (int64_t F : {1, 7, 16, 40, 129}) {
        const Tensor joint = random_tensor({5, 2 * F}, 1, dtype, 2);
        const Tensor a = joint.slice(1, 0, F), b = joint.slice(1, F, 2 * F);
        const Tensor y = glu(f, a, b);
        check_close(y, composite(f, a, b), tolerance(dtype) / 10);
        CHECK(same_bits(glu(f, a.slice(0, 2, 3), b.slice(0, 2, 3)), y.slice(0, 2, 3)));
        CHECK(same_bits(glu(f, a.contiguous(), b.contiguous()), y));
      }
}

TEST_CASE("glu: gradients against finite differences, alone, and in place of the operands") {
  for (Activation f : kAll) {
    const Tensor a = random_tensor({2, 9}, 1, DType::f64), b = random_tensor({2, 9}, 2, DType::f64);
    const Tensor dy = random_tensor({2, 9}, 3, DType::f64);
    const Tensor da = Tensor::empty_like(a), db = Tensor::empty_like(a);
    cpu::glu_backward(f, a, b, dy, da, db);
    const auto loss = [&] { return weighted_sum(glu(f, a, b), dy); };
    check_close(da, numeric_gradient(a, loss), 1e-7);
    check_close(db, numeric_gradient(b, loss), 1e-7);
    const Tensor alone = Tensor::empty_like(a);
    cpu::glu_backward(f, a, b, dy, alone, {});
    CHECK(same_bits(alone, da));
    cpu::glu_backward(f, a, b, dy, {}, alone);
    CHECK(same_bits(alone, db));
    const Tensor a32 = a.to(DType::f32).clone(), b32 = b.to(DType::f32).clone();
    cpu::glu_backward(f, a32, b32, dy.to(DType::f32), a32, b32);
    check_close(a32, da, tolerance(DType::f32));
    check_close(b32, db, tolerance(DType::f32));
  }
}

TEST_CASE("glu: threads, empty, and what it refuses") {
  const Tensor a = random_tensor({300, 517}, 1), b = random_tensor({300, 517}, 2);
  check_thread_counts([&] {
    const Tensor da = Tensor::empty_like(a), db = Tensor::empty_like(a);
    cpu::glu_backward(Activation::silu, a, b, b, da, db);
    return std::vector<Tensor>{glu(Activation::silu, a, b), da, db};
  });
  glu(Activation::silu, Tensor::empty({0, 4}), Tensor::empty({0, 4}));
  glu(Activation::silu, Tensor::empty({4, 0}), Tensor::empty({4, 0}));
  const auto message = [&](const Tensor& other) {
    return message_of([&] { glu(Activation::silu, a, other); });
  };
  CHECK(contains(message(b.slice(1, 0, 516)), "glu: b has shape"));
  CHECK(contains(message(b.to(DType::f64)), "glu: b has dtype"));
  CHECK(contains(message(Tensor::empty({517, 300}).transpose(0, 1)), "unit column stride"));
}
