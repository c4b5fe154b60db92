#include "kernels/glu.h"

#include "kernels/elementwise.h"
#include "tests/kernels/kernel_support.h"

namespace parlo::test {

// The activation, the product and their slopes one after the other.
TEST_CASE("glu is an activation times the other half") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (const Shape& shape : {Shape{5, 3}, Shape{3, 300}, Shape{0, 4}, Shape{4, 0}}) {
      for (const Activation f : {Activation::silu, Activation::gelu_tanh, Activation::gelu_erf}) {
        const int64_t rows = shape[0], n = shape[1];
        const Tensor x = random_tensor({rows, 2 * n}, 1).to(dtype);
        const Tensor dy = random_tensor(shape, 2).to(dtype);
        const Tensor a = x.slice(1, 0, n).contiguous(), b = x.slice(1, n, 2 * n).contiguous();
        const Tensor want = Tensor::empty(shape, dtype), da = Tensor::empty(shape, dtype),
                     db = Tensor::empty(shape, dtype), y = Tensor::empty(shape, dtype);
        cpu::activation(f, a, want);
        cpu::binary(Binary::mul, want, dy, db);
        cpu::binary(Binary::mul, want, b, want);
        cpu::binary(Binary::mul, b, dy, da);
        cpu::activation_backward(f, a, da, da);
        cpu::glu(f, x, y);
        const Tensor dx = Tensor::empty(x.shape(), dtype);
        cpu::glu_backward(f, x, dy, dx);
        CHECK(same_bits(y, want));
        CHECK(same_bits(dx.slice(1, 0, n), da));
        CHECK(same_bits(dx.slice(1, n, 2 * n), db));
      }
    }
  }
}

TEST_CASE("glu refuses what does not fit") {
  const Tensor x = Tensor::zeros({2, 6}), y = Tensor::zeros({2, 3});
  CHECK(contains(message_of([&] {
                   cpu::glu(Activation::silu, Tensor::zeros({2, 5}), y);
                 }),
                 "expected [rows, 2 F]"));
  CHECK(contains(message_of([&] { cpu::glu(Activation::silu, x, Tensor::zeros({2, 4})); }), "glu"));
}

}  // namespace parlo::test
