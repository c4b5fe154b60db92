#include "kernels/resize.h"

#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {
namespace {

constexpr Interpolation kModes[] = {Interpolation::nearest, Interpolation::bilinear,
                                    Interpolation::bicubic};

void check_case(const Shape& from, const Shape& to, DType dtype, const ResizeArgs& args) {
  INFO(concat(dtype_name(dtype), ", ", from, " to ", to, ", mode ", static_cast<int>(args.mode)));
  const GpuInput x(from, 1, dtype), dy(to, 2, dtype);
  const Tensor y = gpu_output(to, dtype), dx = gpu_output(from, dtype);
  const Tensor want = Tensor::empty(to, DType::f64), want_dx = Tensor::empty(from, DType::f64);
  cuda::resize(x.gpu, y, args);
  cpu::resize(x.reference, want, args);
  check_close(y, want);
  cuda::resize_backward(dy.gpu, dx, args);
  cpu::resize_backward(dy.reference, want_dx, args);
  check_close(dx, want_dx);
}

}  // namespace

TEST_CASE("gpu: resize and its gradient") {
  for (const DType dtype : kGpuTypes) {
    for (const Interpolation mode : kModes) {
      check_case({2, 3, 5, 4}, {2, 3, 10, 8}, dtype, {mode});       // packs
      check_case({1, 2, 7, 8}, {1, 2, 3, 5}, dtype, {mode});        // smaller, packs of dx
      check_case({1, 2, 3, 5, 3}, {1, 2, 6, 5, 7}, dtype, {mode});  // volumes
      check_case({1, 2, 9}, {1, 2, 31}, dtype, {mode});
      check_case({0, 2, 9}, {0, 2, 31}, dtype, {mode});
      if (mode != Interpolation::nearest) {
        check_case({1, 2, 17, 9}, {1, 2, 4, 16}, dtype, {mode, true});
      }
    }
  }
}

TEST_CASE("gpu: resize of any alignment") {
  for (const DType dtype : kGpuTypes) {
    const Tensor x = on_gpu(random_tensor({1, 2, 3, 4}, 1, dtype));
    const Tensor y = gpu_output({1, 2, 6, 8}, dtype), odd = shifted(y);
    cuda::resize(x, y, {});
    cuda::resize(shifted(x), odd, {});
    CHECK(same_gpu_bits(y, odd));
  }
}

TEST_CASE("gpu: resize refuses what it cannot take") {
  const Tensor x = gpu_output({1, 2, 3, 4}), y = gpu_output({1, 2, 6, 8});
  CHECK(contains(message_of([&] {
                   cuda::resize(x, Tensor::zeros({1, 2, 6, 8}), {});
                 }),
                 "operands lie on"));
  CHECK(contains(message_of([&] {
                   cuda::resize(x, gpu_output({1, 3, 6, 8}), {});
                 }),
                 "resize: cannot turn"));
  CHECK(contains(message_of([&] { cuda::resize(x, y.to(DType::bf16), {}); }), "output has dtype"));
}

}  // namespace parlo::test
