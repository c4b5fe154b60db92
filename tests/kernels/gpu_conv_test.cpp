#include "kernels/conv.h"

#include <cstring>

#include "tests/gpu_support.h"

namespace parlo::test {
namespace {

struct Sizes {
  int64_t batch, in, out, h, w, kh, kw, stride, padding, groups;
};

constexpr Sizes kSizes[] = {{2, 3, 4, 7, 6, 3, 3, 1, 1, 1}, {1, 4, 6, 8, 5, 3, 2, 2, 1, 2},
                            {2, 4, 4, 5, 5, 3, 3, 1, 2, 4}, {1, 2, 3, 4, 4, 4, 4, 4, 0, 1},
                            {1, 1, 1, 1, 1, 3, 3, 1, 1, 1}, {2, 2, 2, 6, 9, 1, 1, 3, 0, 1},
                            {1, 2, 2, 3, 3, 5, 5, 1, 4, 1}, {0, 2, 2, 3, 3, 2, 2, 1, 0, 1},
                            {3, 4, 6, 4, 6, 1, 1, 1, 0, 2}, {2, 8, 5, 16, 16, 3, 3, 1, 1, 1}};

struct Problem {
  Tensor x, w, bias, dy;
  Conv2dArgs args;
};

Problem make(const Sizes& s, DType dtype) {
  const auto random = [&](const Shape& shape, uint32_t seed) {
    return on_gpu(random_tensor(shape, seed, dtype));
  };
  Problem p;
  p.x = random({s.batch, s.in, s.h, s.w}, 1);
  p.w = random({s.out, s.in / s.groups, s.kh, s.kw}, 2);
  p.bias = random({s.out}, 3);
  p.args = {s.stride, s.padding, s.groups};
  const int64_t oh = (s.h + 2 * s.padding - s.kh) / s.stride + 1;
  const int64_t ow = (s.w + 2 * s.padding - s.kw) / s.stride + 1;
  p.dy = random({s.batch, s.out, oh, ow}, 4);
  return p;
}

Tensor reference(const Tensor& t) {
  return t.defined() ? t.to(Device{}).to(DType::f64) : t;
}

void check_forward(const Problem& p) {
  const DType dtype = p.x.dtype();
  const Tensor y = gpu_output(p.dy.shape(), dtype), want = Tensor::empty(y.shape(), DType::f64);
  cuda::conv2d(p.x, p.w, p.bias, y, p.args);
  cpu::conv2d(reference(p.x), reference(p.w), reference(p.bias), want, p.args);
  check_close(y, want, tolerance(dtype));
}

struct Gradients {
  Tensor dx, dw, dbias;
};

Gradients backward(const Problem& p) {
  const DType dtype = p.x.dtype();
  Gradients g{gpu_output(p.x.shape(), dtype), gpu_output(p.w.shape(), dtype),
              gpu_output({p.w.dim(0)}, dtype)};
  cuda::conv2d_backward(p.x, p.w, p.dy, g.dx, g.dw, g.dbias, p.args);
  return g;
}

void check_backward(const Problem& p) {
  const Gradients got = backward(p);
  const Tensor dx = Tensor::empty(p.x.shape(), DType::f64);
  const Tensor dw = Tensor::empty(p.w.shape(), DType::f64);
  const Tensor dbias = Tensor::empty(got.dbias.shape(), DType::f64);
  cpu::conv2d_backward(reference(p.x), reference(p.w), reference(p.dy), dx, dw, dbias, p.args);
  const double limit = tolerance(p.x.dtype());
  check_close(got.dx, dx, limit);
  check_close(got.dw, dw, limit);
  check_close(got.dbias, dbias, limit);
}

bool same_bits(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(Device{}).contiguous(), y = b.to(Device{}).contiguous();
  return x.nbytes() == y.nbytes() &&
         (x.nbytes() == 0 || !std::memcmp(x.raw(), y.raw(), x.nbytes()));
}

}  // namespace

TEST_CASE("gpu: conv2d and its gradients") {
  for (const DType dtype : kGpuTypes) {
    for (const Sizes& s : kSizes) {
      INFO("h ", s.h, " w ", s.w, " kernel ", s.kh, " x ", s.kw, " stride ", s.stride);
      Problem p = make(s, dtype);
      check_forward(p);
      check_backward(p);
      p.bias = Tensor();
      check_forward(p);
    }
  }
}

TEST_CASE("gpu: strided operands, and gradients one by one") {
  for (const DType dtype : kGpuTypes) {
    Problem p = make(kSizes[0], dtype);
    p.x = on_gpu(random_tensor({2, 7, 6, 3}, 1, dtype)).permute({0, 3, 1, 2});
    p.w = on_gpu(random_tensor({3, 4, 3, 3}, 2, dtype)).transpose(0, 1);
    p.dy = on_gpu(random_tensor({2, 7, 6, 4}, 3, dtype)).permute({0, 3, 1, 2});
    check_forward(p);
    check_backward(p);
    const Gradients all = backward(p);
    const Tensor dx = gpu_output(p.x.shape(), dtype), dw = gpu_output(p.w.shape(), dtype);
    cuda::conv2d_backward(p.x, p.w, p.dy, dx, Tensor(), Tensor(), p.args);
    cuda::conv2d_backward(p.x, p.w, p.dy, Tensor(), dw, Tensor(), p.args);
    CHECK(same_bits(dx, all.dx));
    CHECK(same_bits(dw, all.dw));
  }
}

// 2304 rows of windows: a slab of 32 MB holds 3640 of 3712 pixels in f32.
TEST_CASE("gpu: an image larger than a slab") {
  const Problem p = make({1, 256, 2, 116, 128, 3, 3, 2, 1, 1}, DType::f32);
  check_forward(p);
  check_backward(p);
}

TEST_CASE("gpu: an image has the same bits alone and inside any batch") {
  for (const DType dtype : kGpuTypes) {
    for (const Sizes& s : {kSizes[0], kSizes[2], kSizes[8], kSizes[9]}) {
      const Problem p = make(s, dtype);
      const Tensor whole = gpu_output(p.dy.shape(), dtype);
      cuda::conv2d(p.x, p.w, p.bias, whole, p.args);
      Problem one = p;
      one.x = p.x.slice(0, 1, 2), one.dy = p.dy.slice(0, 1, 2);
      const Tensor part = gpu_output(one.dy.shape(), dtype);
      cuda::conv2d(one.x, one.w, one.bias, part, one.args);
      CHECK(same_bits(part, whole.slice(0, 1, 2)));
      CHECK(same_bits(backward(one).dx, backward(p).dx.slice(0, 1, 2)));
      CHECK(same_bits(backward(p).dw, backward(p).dw));
    }
  }
}

TEST_CASE("gpu: faults of conv2d are named") {
  const Problem p = make(kSizes[0], DType::f32);
  CHECK(contains(message_of([&] {
                   cuda::conv2d(p.x, gpu_output({4, 2, 3, 3}), Tensor(), p.dy, p.args);
                 }),
                 "channels"));
  CHECK(contains(message_of([&] { cuda::conv2d(p.x, p.w, Tensor::zeros({4}), p.dy, p.args); }),
                 "operands lie on cuda:0"));
  const Tensor wide = Tensor::zeros({1, 1, 1, 1}, DType::f64, kGpu);
  CHECK(contains(message_of([&] { cuda::conv2d(wide, wide, Tensor(), wide, {}); }),
                 "conv3d: expected dtype f32 or bf16"));
}

}  // namespace parlo::test
