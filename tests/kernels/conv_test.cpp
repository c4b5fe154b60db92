// conv2d against six plain loops in f64; gradients against finite differences.
#include "kernels/conv.h"

#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

struct Problem {
  Tensor x, w, bias, dy;
  Conv2dArgs args;
};

struct Sizes {
  int64_t batch, in, out, h, w, kh, kw, stride, padding, groups;
};

constexpr Sizes kSizes[] = {{2, 3, 4, 7, 6, 3, 3, 1, 1, 1}, {1, 4, 6, 8, 5, 3, 2, 2, 1, 2},
                            {2, 4, 4, 5, 5, 3, 3, 1, 2, 4}, {1, 2, 3, 4, 4, 4, 4, 4, 0, 1},
                            {1, 1, 1, 1, 1, 3, 3, 1, 1, 1}, {2, 2, 2, 6, 9, 1, 1, 3, 0, 1},
                            {1, 2, 2, 3, 3, 5, 5, 1, 4, 1}, {0, 2, 2, 3, 3, 2, 2, 1, 0, 1}};

Problem make(const Sizes& s, DType dtype) {
  Problem p;
  p.x = random_tensor({s.batch, s.in, s.h, s.w}, 1, dtype);
  p.w = random_tensor({s.out, s.in / s.groups, s.kh, s.kw}, 2, dtype);
  p.bias = random_tensor({s.out}, 3, dtype);
  p.args = {s.stride, s.padding, s.groups};
  const int64_t oh = (s.h + 2 * s.padding - s.kh) / s.stride + 1;
  const int64_t ow = (s.w + 2 * s.padding - s.kw) / s.stride + 1;
  p.dy = random_tensor({s.batch, s.out, oh, ow}, 4, dtype);
  return p;
}

double at(const Tensor& t, int64_t a, int64_t b, int64_t c, int64_t d) {
  if (c < 0 || d < 0 || c >= t.dim(2) || d >= t.dim(3)) return 0;
  return t.data<double>()[((a * t.dim(1) + b) * t.dim(2) + c) * t.dim(3) + d];
}

Tensor reference(const Problem& p) {
  const Tensor x = p.x.to(DType::f64), w = p.w.to(DType::f64),
               y = Tensor::empty(p.dy.shape(), DType::f64);
  const std::vector<double> bias = p.bias.to_vector();
  const int64_t per_group = w.dim(0) / p.args.groups, area = y.dim(2) * y.dim(3);
  for (int64_t n = 0; n < y.numel(); ++n) {
    const int64_t b = n / (area * y.dim(1)), o = n / area % y.dim(1);
    const int64_t i = n % area / y.dim(3), j = n % y.dim(3);
    double sum = bias[o];
    for (int64_t c = 0; c < w.dim(1); ++c) {
      for (int64_t k = 0; k < w.dim(2) * w.dim(3); ++k) {
        const int64_t di = k / w.dim(3), dj = k % w.dim(3);
        sum += at(w, o, c, di, dj) * at(x, b, o / per_group * w.dim(1) + c,
                                        i * p.args.stride + di - p.args.padding,
                                        j * p.args.stride + dj - p.args.padding);
      }
    }
    y.data<double>()[n] = sum;
  }
  return y;
}

double loss(const Problem& p) {
  const Tensor y = reference(p);
  double sum = 0;
  for (int64_t i = 0; i < y.numel(); ++i) sum += y.data<double>()[i] * p.dy.data<double>()[i];
  return sum;
}

void check_gradient(const Problem& p, const Tensor& x, const Tensor& dx) {
  for (int64_t i = 0; i < x.numel(); i += 2) {
    double& value = x.data<double>()[i];
    const double kept = value, step = 1e-3;  // the loss is linear: any step is exact
    value = kept + step;
    const double up = loss(p);
    value = kept - step;
    const double down = loss(p);
    value = kept;
    CHECK(dx.data<double>()[i] == doctest::Approx((up - down) / (2 * step)).epsilon(1e-7).scale(1));
  }
}

}  // namespace

TEST_CASE("forward equals plain loops") {
  for (DType dtype : {DType::f32, DType::f64}) {
    for (const Sizes& s : kSizes) {
      const Problem p = make(s, dtype);
      const Tensor y = Tensor::full(p.dy.shape(), std::nan(""), dtype);
      cpu::conv2d(p.x, p.w, p.bias, y, p.args);
      check_close(y.to(DType::f64), reference(p), tolerance(dtype));
    }
  }
}

TEST_CASE("no bias, strided input") {
  Problem p = make(kSizes[0], DType::f32);
  p.x = random_tensor({2, 7, 6, 3}, 1).permute({0, 3, 1, 2});
  p.bias.fill(0);
  const Tensor y = Tensor::empty(p.dy.shape());
  cpu::conv2d(p.x, p.w, Tensor(), y, p.args);
  p.x = p.x.contiguous();
  check_close(y.to(DType::f64), reference(p), 1e-5);
}

TEST_CASE("gradients equal finite differences") {
  for (const Sizes& s : kSizes) {
    const Problem p = make(s, DType::f64);
    const Tensor dx = Tensor::full(p.x.shape(), std::nan(""), DType::f64);
    const Tensor dw = Tensor::full(p.w.shape(), std::nan(""), DType::f64);
    const Tensor dbias = Tensor::full(p.bias.shape(), std::nan(""), DType::f64);
    cpu::conv2d_backward(p.x, p.w, p.dy, dx, dw, dbias, p.args);
    check_gradient(p, p.x, dx);
    check_gradient(p, p.w, dw);
    check_gradient(p, p.bias, dbias);
    const Tensor only = Tensor::empty(p.w.shape(), DType::f64);
    cpu::conv2d_backward(p.x, p.w, p.dy, Tensor(), only, Tensor(), p.args);
    CHECK(same_values(only, dw));
  }
}

TEST_CASE("faults are named") {
  const Problem p = make(kSizes[0], DType::f32);
  CHECK(contains(message_of([&] {
                   cpu::conv2d(p.x, Tensor::zeros({4, 2, 3, 3}), Tensor(), p.dy, p.args);
                 }),
                 "channels"));
  CHECK(contains(message_of([&] {
                   cpu::conv2d(p.x, Tensor::zeros({4, 3, 13, 3}), Tensor(), p.dy, p.args);
                 }),
                 "larger than the padded image"));
}
