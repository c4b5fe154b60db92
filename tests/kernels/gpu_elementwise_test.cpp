#include "kernels/elementwise.h"

#include "tests/gpu_support.h"

namespace parlo::test {
namespace {

const int64_t kSizes[] = {0, 1, 3, 7, 255, 256, 1000, 4099};

constexpr Unary kUnaries[] = {Unary::neg,   Unary::exp,    Unary::log,     Unary::sqrt,
                              Unary::rsqrt, Unary::square, Unary::abs,     Unary::sin,
                              Unary::cos,   Unary::tanh,   Unary::sigmoid, Unary::relu};
constexpr Activation kActivations[] = {Activation::none, Activation::gelu_tanh,
                                       Activation::gelu_erf, Activation::quick_gelu,
                                       Activation::silu};

// Positive where the function asks for it.
GpuInput operand(Unary f, int64_t n, DType dtype) {
  GpuInput x({n}, 1, dtype);
  if (f == Unary::log || f == Unary::sqrt || f == Unary::rsqrt) {
    const Tensor y = Tensor::empty({n}, DType::f64);
    cpu::unary(Unary::abs, x.reference, y);
    cpu::scale_shift(1, 0.5, y, y);
    x.gpu = on_gpu(y.to(dtype));
    x.reference = y.to(dtype).to(DType::f64);
  }
  return x;
}

}  // namespace

TEST_CASE("gpu: unary functions and their slopes") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t n : kSizes) {
      for (const Unary f : kUnaries) {
        INFO("function ", static_cast<int>(f), ", ", n, " elements");
        const GpuInput x = operand(f, n, dtype), dy({n}, 2, dtype);
        const Tensor y = gpu_output({n}, dtype), dx = gpu_output({n}, dtype);
        const Tensor want = Tensor::empty({n}, DType::f64), slope = Tensor::empty({n}, DType::f64);
        cpu::unary(f, x.reference, want);
        cuda::unary(f, x.gpu, y);
        check_close(y, want, tolerance(dtype));
        const Tensor rounded = want.to(dtype);
        cpu::unary_backward(f, x.reference, rounded.to(DType::f64), dy.reference, slope);
        cuda::unary_backward(f, x.gpu, on_gpu(rounded), dy.gpu, dx);
        check_close(dx, slope, tolerance(dtype));
      }
    }
  }
}

TEST_CASE("gpu: activations and their slopes") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t n : kSizes) {
      for (const Activation f : kActivations) {
        INFO("activation ", static_cast<int>(f), ", ", n, " elements");
        const GpuInput x({n}, 1, dtype, 3), dy({n}, 2, dtype);
        const Tensor y = gpu_output({n}, dtype), dx = gpu_output({n}, dtype);
        const Tensor want = Tensor::empty({n}, DType::f64), slope = Tensor::empty({n}, DType::f64);
        cpu::activation(f, x.reference, want);
        cuda::activation(f, x.gpu, y);
        check_close(y, want, tolerance(dtype));
        cpu::activation_backward(f, x.reference, dy.reference, slope);
        cuda::activation_backward(f, x.gpu, dy.gpu, dx);
        check_close(dx, slope, tolerance(dtype));
      }
    }
  }
}

TEST_CASE("gpu: activations at the ends of the range") {
  const std::vector<float> ends = {
      0.0f, -0.0f, 25.0f, -25.0f, 1e30f, -1e30f, std::numeric_limits<float>::quiet_NaN()};
  const Tensor x = Tensor::from(ends, {static_cast<int64_t>(ends.size())});
  const Tensor one = Tensor::full(x.shape(), 1), want = Tensor::empty_like(x);
  const Tensor got = gpu_output(x.shape());
  for (const Activation f : kActivations) {
    INFO("activation ", static_cast<int>(f));
    cpu::activation(f, x, want);
    cuda::activation(f, on_gpu(x), got);
    check_close(got, want, 1e-6);
    cpu::activation_backward(f, x, one, want);
    cuda::activation_backward(f, on_gpu(x), on_gpu(one), got);
    check_close(got, want, 1e-6);
  }
}

TEST_CASE("gpu: axpby and scale_shift, aligned or not") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t n : kSizes) {
      const GpuInput x({n + 1}, 1, dtype), y({n + 1}, 2, dtype);
      for (const int64_t offset : {0, 1}) {
        const auto part = [&](const Tensor& t) { return t.slice(0, offset, offset + n); };
        const Tensor want = part(y.reference).clone(), got = y.gpu.clone();
        cpu::axpby(0.5, part(x.reference).contiguous(), -2, want);
        cuda::axpby(0.5, part(x.gpu), -2, part(got));
        check_close(part(got), want, tolerance(dtype));
        const Tensor fresh = gpu_output({n}, dtype);
        cuda::axpby(0.5, part(x.gpu), 0, fresh);
        cpu::scale_shift(0.5, 0, part(x.reference).contiguous(), want);
        check_close(fresh, want, tolerance(dtype));
        cuda::scale_shift(0.5, 3, part(x.gpu), fresh);
        cpu::scale_shift(0.5, 3, part(x.reference).contiguous(), want);
        check_close(fresh, want, tolerance(dtype));
      }
    }
  }
}

TEST_CASE("gpu: what does not fit is refused") {
  const Tensor x = gpu_output({4}), here = Tensor::zeros({4});
  CHECK(contains(message_of([&] { cuda::unary(Unary::exp, x, here); }), "operands lie on cuda:0"));
  CHECK(contains(message_of([&] { cuda::unary(Unary::exp, x, gpu_output({5})); }), "unary: y"));
  const Tensor wide = Tensor::zeros({4}, DType::f64, kGpu);
  CHECK(contains(message_of([&] { cuda::unary(Unary::exp, wide, wide); }),
                 "expected dtype f32 or bf16"));
}

}  // namespace parlo::test
