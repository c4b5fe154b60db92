#include "kernels/glu.h"

#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {
namespace {

const std::vector<Activation> kAll = {Activation::none, Activation::gelu_tanh, Activation::gelu_erf,
                                      Activation::quick_gelu, Activation::silu};

// The CPU's results in f64 on the same rounded inputs are the reference.
void check_glu(Activation f, const GpuInput& joint, const GpuInput& dy) {
  const int64_t F = joint.gpu.dim(1) / 2;
  const auto a = [=](const Tensor& t) { return t.slice(1, 0, F); };
  const auto b = [=](const Tensor& t) { return t.slice(1, F, 2 * F); };
  const DType dtype = joint.gpu.dtype();
  INFO(concat(dtype_name(dtype), ", activation ", static_cast<int>(f), ", ", joint.gpu.shape()));
  const Tensor y = gpu_output(dy.gpu.shape(), dtype), want = Tensor::empty_like(dy.reference);
  cuda::glu(f, a(joint.gpu), b(joint.gpu), y);
  cpu::glu(f, a(joint.reference), b(joint.reference), want);
  check_close(y, want);
  // Into halves of one gradient, one alone, and over the operands.
  const Tensor d = gpu_output(joint.gpu.shape(), dtype);
  const Tensor want_d = Tensor::empty_like(joint.reference);
  cuda::glu_backward(f, a(joint.gpu), b(joint.gpu), dy.gpu, a(d), b(d));
  cpu::glu_backward(f, a(joint.reference), b(joint.reference), dy.reference, a(want_d), b(want_d));
  check_close(d, want_d);
  const Tensor alone = gpu_output(dy.gpu.shape(), dtype);
  cuda::glu_backward(f, a(joint.gpu), b(joint.gpu), dy.gpu, {}, alone);
  CHECK(same_gpu_bits(alone, b(d)));
  cuda::glu_backward(f, a(joint.gpu), b(joint.gpu), dy.gpu, alone, {});
  CHECK(same_gpu_bits(alone, a(d)));
  const Tensor over = joint.gpu.clone();
  cuda::glu_backward(f, a(over), b(over), dy.gpu, a(over), b(over));
  CHECK(same_gpu_bits(over, d));
}

}  // namespace

TEST_CASE("gpu: glu of halves of a projection") {
  for (const DType dtype : kGpuTypes)
    for (const Activation f : kAll)
      for (const int64_t F : {1, 13, 64}) {
        const int64_t R = F == 13 ? 35 : 3;
        check_glu(f, GpuInput({R, 2 * F}, 1, dtype, 2), GpuInput({R, F}, 2, dtype));
      }
}

TEST_CASE("gpu: glu of wide rows, large values, and rows with the same bits in any batch") {
  for (const DType dtype : kGpuTypes) {
    check_glu(Activation::silu, GpuInput({9, 2 * 520}, 1, dtype, 60), GpuInput({9, 520}, 2, dtype));
    const GpuInput a({40, 72}, 3, dtype), b({40, 72}, 4, dtype);
    const Tensor y = gpu_output({40, 72}, dtype), off = gpu_output({40, 72}, dtype);
    cuda::glu(Activation::silu, a.gpu, b.gpu, y);
    cuda::glu(Activation::silu, shifted(a.gpu), b.gpu, off);
    CHECK(same_gpu_bits(off, y));
    const Tensor one = gpu_output({1, 72}, dtype);
    cuda::glu(Activation::silu, a.gpu.slice(0, 37, 38), b.gpu.slice(0, 37, 38), one);
    CHECK(same_gpu_bits(one, y.slice(0, 37, 38)));
  }
}

TEST_CASE("gpu: glu of nothing, and what it refuses") {
  const Tensor none = gpu_output({0, 8}), x = gpu_output({2, 8}), wide = gpu_output({2, 9});
  cuda::glu(Activation::silu, none, none, none);
  cuda::glu_backward(Activation::silu, none, none, none, none, none);
  cuda::glu_backward(Activation::silu, x, x, x, {}, {});
  const auto message = [&](const Tensor& b) {
    return message_of([&] { cuda::glu(Activation::silu, x, b, x); });
  };
  CHECK(contains(message(wide), "glu: b has shape"));
  CHECK(contains(message(gpu_output({2, 8}, DType::bf16)), "glu: b has dtype"));
  CHECK(contains(message(Tensor::zeros({2, 8})), "operands lie on"));
}

}  // namespace parlo::test
