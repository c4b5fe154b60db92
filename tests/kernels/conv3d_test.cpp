// conv3d against plain loops in f64 and against conv2d; gradients against finite differences.
#include "tests/kernels/conv3d_support.h"
#include "tests/kernels/kernel_support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

using Axes = std::array<int64_t, 3>;

Axes unravel(int64_t n, const Tensor& t) {
  return {n / (t.dim(3) * t.dim(4)) % t.dim(2), n / t.dim(4) % t.dim(3), n % t.dim(4)};
}

// What lies at an input position, inside or outside.
double value_at(const Tensor& x, int64_t b, int64_t channel, Axes at, Border border) {
  int64_t offset = b * x.dim(1) + channel;
  for (int i = 0; i < 3; ++i) {
    const int64_t size = x.dim(i + 2);
    int64_t& p = at[static_cast<size_t>(i)];
    if (border == Border::replicate) p = std::clamp<int64_t>(p, 0, size - 1);
    if (p < 0 || p >= size) return 0;
    offset = offset * size + p;
  }
  return x.data<double>()[offset];
}

Tensor reference(const Conv3dProblem& p) {
  const Tensor x = p.x.to(DType::f64), w = p.w.to(DType::f64);
  const Tensor y = p.residual.to(DType::f64).clone();
  const std::vector<double> bias = p.bias.to_vector();
  const int64_t area = y.dim(2) * y.dim(3) * y.dim(4), taps = w.dim(2) * w.dim(3) * w.dim(4);
  const int64_t channels = w.dim(1), per_group = w.dim(0) / p.args.groups;
  for (int64_t n = 0; n < y.numel(); ++n) {
    const int64_t b = n / (area * y.dim(1)), o = n / area % y.dim(1);
    const Axes q = unravel(n, y);
    double sum = bias[static_cast<size_t>(o)];
    for (int64_t i = 0; i < channels * taps; ++i) {
      Axes at = unravel(i, w);
      for (size_t k = 0; k < 3; ++k) at[k] += q[k] * p.args.stride[k] - p.args.before[k];
      sum += w.data<double>()[o * channels * taps + i] *
             value_at(x, b, o / per_group * channels + i / taps, at, p.args.border);
    }
    y.data<double>()[n] += sum;
  }
  return y;
}

Tensor forward(const Conv3dProblem& p) {
  const Tensor y = Tensor::full(p.dy.shape(), std::nan(""), p.x.dtype());
  cpu::conv3d(p.x, p.w, p.bias, p.residual, y, p.args);
  return y;
}

struct Gradients {
  Tensor dx, dw, dbias;
};

Gradients backward(const Conv3dProblem& p) {
  const auto like = [](const Tensor& t) {
    return Tensor::full(t.shape(), std::nan(""), t.dtype());
  };
  const Gradients g{like(p.x), like(p.w), like(p.bias)};
  cpu::conv3d_backward(p.x, p.w, p.dy, g.dx, g.dw, g.dbias, p.args);
  return g;
}

}  // namespace

// Lines of several panels and windows of several blocks, cut where lines go on.
TEST_CASE("forward of long lines and many taps equals plain loops") {
  const std::vector<Conv3dCase> cases = {
      {1, 24, 5, {2, 3, 130}, {3, 3, 3}, causal_conv3d(3)},
      {2, 22, 4, {1, 5, 97}, {1, 3, 3}, {{1, 1, 2}, {0, 1, 2}, {0, 1, 1}, Border::zero, 2}},
      {1, 70, 9, {1, 1, 260}, {1, 1, 3}, {{1, 1, 1}, {0, 0, 1}, {0, 0, 1}, Border::zero, 1}}};
  for (const Conv3dCase& c : cases) {
    const Conv3dProblem p = make_conv3d(c, DType::f32);
    check_close(forward(p).to(DType::f64), reference(p), tolerance(DType::f32));
  }
}

TEST_CASE("conv3d equals plain loops") {
  for (DType dtype : {DType::f32, DType::f64}) {
    for (const Conv3dCase& c : conv3d_cases()) {
      const Conv3dProblem p = make_conv3d(c, dtype);
      check_close(forward(p).to(DType::f64), reference(p), tolerance(dtype));
    }
  }
}

TEST_CASE("gradients of conv3d equal finite differences") {
  for (const Conv3dCase& c : conv3d_cases()) {
    const Conv3dProblem p = make_conv3d(c, DType::f64);
    const Gradients g = backward(p);
    const auto loss = [&] { return weighted_sum(forward(p), p.dy); };
    // The loss is linear in each operand: any step is exact.
    check_close(g.dx, numeric_gradient(p.x, loss, 1e-2), 1e-8);
    check_close(g.dw, numeric_gradient(p.w, loss, 1e-2), 1e-8);
    check_close(g.dbias, numeric_gradient(p.bias, loss, 1e-2), 1e-8);
    const Tensor only = Tensor::empty_like(p.x);
    cpu::conv3d_backward(p.x, p.w, p.dy, only, Tensor(), Tensor(), p.args);
    CHECK(same_values(only, g.dx));
  }
}

// 1152 rows of windows: a slab of 16 MB holds 3640 of 4320 pixels in f32.
TEST_CASE("a volume larger than a slab, for any number of threads") {
  const Conv3dCase c{1, 128, 3, {3, 40, 36}, {1, 3, 3}, {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}}};
  const Conv3dProblem p = make_conv3d(c, DType::f32);
  check_close(forward(p).to(DType::f64), reference(p), tolerance(DType::f32));
  check_thread_counts([&]() -> std::vector<Tensor> {
    const Gradients g = backward(p);
    return {forward(p), g.dx, g.dw, g.dbias};
  });
  Conv3dProblem wide = p;
  for (Tensor* t : {&wide.x, &wide.w, &wide.bias, &wide.dy}) *t = t->to(DType::f64);
  const Gradients got = backward(p), want = backward(wide);
  check_close(got.dx, want.dx);
  check_close(got.dw, want.dw);
}

TEST_CASE("strided operands, and no bias or residual") {
  Conv3dProblem p = make_conv3d(conv3d_cases()[0], DType::f32);
  p.bias.fill(0), p.residual.fill(0);
  const Tensor want = reference(p), y = Tensor::empty(p.dy.shape());
  p.x = p.x.permute({0, 2, 3, 4, 1}).contiguous().permute({0, 4, 1, 2, 3});
  p.w = p.w.transpose(0, 4).contiguous().transpose(0, 4);
  cpu::conv3d(p.x, p.w, Tensor(), Tensor(), y, p.args);
  check_close(y.to(DType::f64), want, tolerance(DType::f32));
}

TEST_CASE("a causal convolution does not look ahead") {
  Conv3dProblem p = make_conv3d(conv3d_cases()[0], DType::f64);
  const Tensor before = forward(p);
  p.x.slice(2, 2, 3).fill(7);
  const Tensor after = forward(p);
  CHECK(same_values(before.slice(2, 0, 2), after.slice(2, 0, 2)));
  CHECK(!same_values(before.slice(2, 2, 3), after.slice(2, 2, 3)));
}

TEST_CASE("faults of conv3d are named") {
  const Conv3dProblem p = make_conv3d(conv3d_cases()[0], DType::f32);
  const auto message = [&](const Tensor& w, const Tensor& residual, const Conv3dArgs& args) {
    return message_of([&] { cpu::conv3d(p.x, w, {}, residual, p.dy, args); });
  };
  CHECK(contains(message(Tensor::zeros({4, 2, 3, 3, 3}), {}, p.args), "channels"));
  CHECK(contains(message(Tensor::zeros({4, 3, 9, 3, 3}), {}, p.args), "larger than the padded"));
  CHECK(contains(message(p.w, p.x, p.args), "conv3d: residual has shape"));
  CHECK(contains(message(p.w, {}, {}), "conv3d: y has shape"));
}
