// resize against the formula of each mode in plain loops, and against sums worked out by hand.
#include "kernels/resize.h"

#include <functional>

#include "tests/kernels/kernel_support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

constexpr Interpolation kNearest = Interpolation::nearest, kBilinear = Interpolation::bilinear,
                        kBicubic = Interpolation::bicubic;

Tensor resized(const Tensor& x, const Shape& shape, const ResizeArgs& args) {
  const Tensor y = Tensor::full(shape, std::nan(""), x.dtype());
  cpu::resize(x, y, args);
  return y;
}

Tensor line(const std::vector<double>& values, int64_t n, const ResizeArgs& args) {
  const Tensor x = Tensor::from(values, {1, 1, static_cast<int64_t>(values.size())});
  return resized(x, {1, 1, n}, args).view({n});
}

Tensor numbers(const std::vector<double>& values) {
  return Tensor::from(values, {static_cast<int64_t>(values.size())});
}

// Element i of the result by torch's formula, x(j) with j clamped.
double formula(const std::function<double(int64_t)>& x, int64_t i, double scale,
               Interpolation mode) {
  if (mode == kNearest) return x(static_cast<int64_t>(std::floor(static_cast<double>(i) * scale)));
  double at = (static_cast<double>(i) + 0.5) * scale - 0.5;
  if (mode == kBilinear) at = std::max(at, 0.0);
  const double floor = std::floor(at), t = at - floor, a = -0.75;
  const auto j = static_cast<int64_t>(floor);
  if (mode == kBilinear) return (1 - t) * x(j) + t * x(j + 1);
  const auto near = [a](double d) { return ((a + 2) * d - (a + 3)) * d * d + 1; };
  const auto far = [a](double d) { return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a; };
  return far(t + 1) * x(j - 1) + near(t) * x(j) + near(1 - t) * x(j + 1) + far(2 - t) * x(j + 2);
}

Tensor plain_image(const Tensor& x, int64_t h, int64_t w, Interpolation mode) {
  std::vector<double> y;
  const double* values = x.data<double>();
  const int64_t H = x.dim(2), W = x.dim(3);
  const double sh = static_cast<double>(H) / static_cast<double>(h);
  const double sw = static_cast<double>(W) / static_cast<double>(w);
  for (int64_t n = 0; n < x.dim(0) * x.dim(1) * h * w; ++n) {
    const double* plane = values + n / (h * w) * H * W;
    const auto row = [&](int64_t i) {
      const double* from = plane + std::clamp<int64_t>(i, 0, H - 1) * W;
      return formula([&](int64_t j) { return from[std::clamp<int64_t>(j, 0, W - 1)]; }, n % w, sw,
                     mode);
    };
    y.push_back(formula(row, n / w % h, sh, mode));
  }
  return Tensor::from(y, {x.dim(0), x.dim(1), h, w});
}

}  // namespace

TEST_CASE("resize equals the formulas") {
  for (const Interpolation mode : {kNearest, kBilinear, kBicubic}) {
    for (const auto& [h, w] : std::vector<std::pair<int64_t, int64_t>>{
             {10, 8}, {3, 2}, {5, 4}, {1, 1}, {7, 4}, {2, 13}}) {
      INFO("mode ", static_cast<int>(mode), " to ", h, " x ", w);
      const Tensor x = random_tensor({2, 3, 5, 4}, 1, DType::f64);
      check_close(resized(x, {2, 3, h, w}, {mode}), plain_image(x, h, w, mode));
      const Tensor single = resized(x.to(DType::f32), {2, 3, h, w}, {mode});
      check_close(single, plain_image(x, h, w, mode), 1e-6);
    }
  }
}

TEST_CASE("resize of lines, by hand") {
  check_close(line({1, 2}, 4, {kBilinear}), numbers({1, 1.25, 1.75, 2}));
  check_close(line({1, 2, 3}, 6, {}), numbers({1, 1, 2, 2, 3, 3}));
  check_close(line({1, 2, 3, 4, 5}, 3, {}), numbers({1, 2, 4}));
  // a = -0.75 at one half: -3/32, 19/32.
  check_close(line({0, 1, 0, 0, 0, 0, 0, 0}, 4, {kBicubic}), numbers({19.0 / 32, -3.0 / 32, 0, 0}));
  // Triangle of half width 2 around 1: 3/4, 3/4, 1/4 of elements 0, 1, 2.
  check_close(line({7, 0, 0, 0}, 2, {kBilinear, true}), numbers({3, 0}));
  check_close(line({0, 0, 7, 0}, 2, {kBilinear, true}), numbers({1, 3}));
  // An enlargement has nothing to smooth.
  check_close(line({1, 2}, 4, {kBilinear, true}), numbers({1, 1.25, 1.75, 2}));
  for (const Interpolation mode : {kBilinear, kBicubic}) {  // constants stay
    check_close(line(std::vector<double>(29, 3.0), 7, {mode, true}),
                numbers(std::vector<double>(7, 3.0)));
  }
}

TEST_CASE("resize of volumes") {
  const Tensor x = random_tensor({1, 2, 2, 3, 4}, 1, DType::f64);
  const Tensor y = resized(x, {1, 2, 4, 6, 8}, {});
  for (int64_t n = 0; n < y.numel(); ++n) {
    const int64_t w = n % 8 / 2, h = n / 8 % 6 / 2, d = n / 48 % 4 / 2, c = n / 192;
    CHECK(y.data<double>()[n] == x.data<double>()[((c * 2 + d) * 3 + h) * 4 + w]);
  }
}

TEST_CASE("the gradient of resize is its transpose") {
  for (const ResizeArgs& args : {ResizeArgs{kNearest}, ResizeArgs{kBilinear}, ResizeArgs{kBicubic},
                                 ResizeArgs{kBilinear, true}, ResizeArgs{kBicubic, true}}) {
    for (const Shape& shape : {Shape{1, 2, 2, 9}, Shape{1, 2, 7, 2}, Shape{1, 2, 3, 5}}) {
      const Tensor x = random_tensor({1, 2, 3, 5}, 1, DType::f64);
      const Tensor dy = random_tensor(shape, 2, DType::f64);
      const Tensor dx = Tensor::full(x.shape(), std::nan(""), DType::f64);
      cpu::resize_backward(dy, dx, args);
      const auto loss = [&] { return weighted_sum(resized(x, shape, args), dy); };
      check_close(dx, numeric_gradient(x, loss, 1e-2), 1e-9);
    }
  }
}

TEST_CASE("resize: threads, and what it refuses") {
  const Tensor x = random_tensor({2, 3, 40, 50}, 1);
  check_thread_counts([&]() -> std::vector<Tensor> {
    const Tensor dx = Tensor::empty_like(x), y = resized(x, {2, 3, 33, 70}, {kBicubic, true});
    cpu::resize_backward(y, dx, {kBicubic, true});
    return {y, dx};
  });
  CHECK(contains(message_of([&] { resized(x, {2, 3, 33}, {}); }), "resize: cannot turn"));
  CHECK(contains(message_of([&] { resized(x, {2, 3, 0, 1}, {}); }), "empty axis"));
  CHECK(contains(message_of([&] { resized(x, x.shape(), {kNearest, true}); }), "no antialias"));
}
