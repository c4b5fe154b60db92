#include "kernels/reduce.h"
#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {
namespace {

// Every way to hold a row: one warp, a block, nothing held; whole packs and not.
const Shape kRows[] = {{1, 1},    {9, 5},    {17, 32},  {3, 127},  {2, 300},  {2, 1000}, {3, 1024},
                       {2, 1030}, {2, 2500}, {2, 4096}, {1, 8193}, {2, 9008}, {0, 7},    {3, 0}};
const float kInf = std::numeric_limits<float>::infinity();

}  // namespace

TEST_CASE("gpu: softmax and its gradient, aligned or not") {
  for (const DType dtype : kGpuTypes) {
    for (const Shape& shape : kRows) {
      INFO("rows ", to_string(shape), " of ", dtype_name(dtype));
      const GpuInput x(shape, 1, dtype, 3), dy(shape, 2, dtype);
      const Tensor y = gpu_output(shape, dtype), again = gpu_output(shape, dtype);
      const Tensor want = Tensor::empty(shape, DType::f64), slope = Tensor::empty_like(want);
      cpu::softmax(x.reference, want);
      cuda::softmax(x.gpu, y);
      check_close(y, want);
      cuda::softmax(shifted(x.gpu), again);
      CHECK(same_gpu_bits(y, again));
      const Tensor rounded = want.to(dtype);
      cpu::softmax_backward(rounded.to(DType::f64), dy.reference, slope);
      cuda::softmax_backward(on_gpu(rounded), dy.gpu, y);
      check_close(y, slope);
      cuda::softmax_backward(shifted(on_gpu(rounded)), dy.gpu, again);
      CHECK(same_gpu_bits(y, again));
    }
  }
}

TEST_CASE("gpu: a row's softmax does not depend on its batch; in place") {
  for (const int64_t C : {13, 777, 9001}) {
    const GpuInput x({4, C}, 1, DType::f32), dy({4, C}, 2, DType::f32);
    const Tensor y = gpu_output({4, C}), dx = gpu_output({4, C});
    cuda::softmax(x.gpu, y);
    cuda::softmax_backward(y, dy.gpu, dx);
    for (int64_t r = 0; r < 4; ++r) {
      const auto row = [r](const Tensor& t) { return t.slice(0, r, r + 1); };
      const Tensor one = gpu_output({1, C}), slope = gpu_output({1, C});
      cuda::softmax(row(x.gpu), one);
      cuda::softmax_backward(one, row(dy.gpu), slope);
      CHECK(same_gpu_bits(one, row(y)));
      CHECK(same_gpu_bits(slope, row(dx)));
    }
    cuda::softmax(x.gpu, x.gpu);
    CHECK(same_gpu_bits(x.gpu, y));
  }
}

TEST_CASE("gpu: softmax of hidden and of broken values") {
  for (const int64_t C : {5, 700, 9000}) {
    const Tensor x = Tensor::full({4, C}, 1), want = Tensor::empty({4, C}, DType::f64);
    x.slice(0, 0, 1).slice(1, 0, C - 2).fill(-kInf);  // two are left
    x.slice(0, 1, 2).fill(-kInf);
    x.slice(0, 2, 3).slice(1, 3, 4).fill(std::nan(""));
    x.slice(0, 3, 4).slice(1, 0, 1).fill(1000);  // all the rest vanish
    const Tensor y = gpu_output({4, C});
    cpu::softmax(x.to(DType::f64), want);
    cuda::softmax(on_gpu(x), y);
    check_close(y, want, 1e-6);
  }
}

TEST_CASE("gpu: softmax of what does not fit is refused") {
  const Tensor x = gpu_output({4, 3});
  CHECK(contains(message_of([&] { cuda::softmax(x, gpu_output({4, 2})); }), "softmax: y"));
  CHECK(contains(message_of([&] { cuda::softmax(x, Tensor::zeros({4, 3})); }), "operands lie on"));
  CHECK(contains(message_of([&] { cuda::softmax_backward(x, gpu_output({3}), x); }), ": dy"));
}

}  // namespace parlo::test
