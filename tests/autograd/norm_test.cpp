// Layer, RMS and group norm with every combination of their parameters.
#include <cmath>

#include "tests/autograd/gradcheck.h"

namespace parlo {
namespace {

using namespace test;

struct NormCase {
  bool weight = false, bias = false, scale = false, shift = false;
  double eps = 1e-5;
};

// Inputs x, then weight, bias, scale, shift where present.
Op layer_norm_op(const NormCase& c) {
  return [c](std::span<const Var> in) {
    size_t next = 1;
    const Var weight = c.weight ? in[next++] : Var(), bias = c.bias ? in[next++] : Var();
    const Var scale = c.scale ? in[next++] : Var(), shift = c.shift ? in[next++] : Var();
    return layer_norm(in[0], weight, bias, c.eps, scale, shift);
  };
}

std::vector<Tensor> layer_norm_inputs(const NormCase& c, const Shape& x) {
  const int64_t B = x[0], C = x[-1];
  std::vector<Tensor> in{normal64(x, 1)};
  if (c.weight) in.push_back(normal64({C}, 2));
  if (c.bias) in.push_back(normal64({C}, 3));
  if (c.scale) in.push_back(normal64({B, C}, 4));
  if (c.shift) in.push_back(normal64({B, C}, 5));
  return in;
}

Tensor plain_layer_norm(const NormCase& c, const std::vector<Tensor>& in) {
  const Shape shape = in[0].shape();
  const int64_t C = shape[-1], rows = C ? shape.numel() / C : 0;
  std::vector<double> y = in[0].to_vector();
  for (int64_t r = 0; r < rows; ++r) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < C; ++i) mean += y[r * C + i] / C;
    for (int64_t i = 0; i < C; ++i) variance += std::pow(y[r * C + i] - mean, 2) / C;
    for (int64_t i = 0; i < C; ++i) {
      double& v = y[r * C + i];
      const int64_t at = r / (rows / shape[0]) * C + i;
      size_t next = 1;
      v = (v - mean) / std::sqrt(variance + c.eps);
      if (c.weight) v *= in[next++].to_vector()[i];
      if (c.bias) v += in[next++].to_vector()[i];
      if (c.scale) v *= 1 + in[next++].to_vector()[at];
      if (c.shift) v += in[next++].to_vector()[at];
    }
  }
  return Tensor::from(y, shape);
}

void check_layer_norm(const NormCase& c, const Shape& x) {
  INFO("weight ", c.weight, " bias ", c.bias, " scale ", c.scale, " shift ", c.shift);
  const std::vector<Tensor> in = layer_norm_inputs(c, x);
  check_close(check_op("layer_norm", layer_norm_op(c), in), plain_layer_norm(c, in));
}

TEST_CASE("layer_norm with every combination of parameters") {
  for (int flags = 0; flags < 16; ++flags)
    check_layer_norm({(flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0, (flags & 8) != 0},
                     {2, 3, 5});
}

TEST_CASE("layer_norm of odd, single and empty shapes") {
  const NormCase plain, all{true, true, true, true};
  for (const NormCase& c : {plain, all})
    for (const Shape& x : {Shape{3, 7}, Shape{1, 1, 2}, Shape{2, 2, 2, 3}, Shape{0, 3, 4},
                           Shape{2, 0, 4}, Shape{2, 3, 33}})
      check_layer_norm(c, x);
}

TEST_CASE("layer_norm of one channel is the bias") {
  const Var x(normal64({2, 3, 1}, 1), true), bias(normal64({1}, 2), true);
  const Var y = layer_norm(x, {}, bias, 1e-6);
  backward(sum(y));
  check_close(y.value(), bias.value().expand({2, 3, 1}).contiguous());
  check_close(x.grad(), Tensor::zeros({2, 3, 1}, DType::f64));
  CHECK(bias.grad().item() == 6);
}

Tensor plain_rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  const int64_t C = x.dim(-1), rows = x.numel() / C;
  std::vector<double> y = x.to_vector();
  for (int64_t r = 0; r < rows; ++r) {
    double squares = 0;
    for (int64_t i = 0; i < C; ++i) squares += y[r * C + i] * y[r * C + i] / C;
    for (int64_t i = 0; i < C; ++i)
      y[r * C + i] *= (weight ? weight.to_vector()[i] : 1) / std::sqrt(squares + eps);
  }
  return Tensor::from(y, x.shape());
}

TEST_CASE("rms_norm") {
  for (const Shape& shape :
       {Shape{2, 3, 5}, Shape{4}, Shape{1, 1}, Shape{2, 2, 3, 33}, Shape{0, 4}, Shape{2, 0, 4}}) {
    const Tensor x = normal64(shape, 1), weight = normal64({shape[-1]}, 2);
    const Op with = [](std::span<const Var> in) { return rms_norm(in[0], in[1], 1e-3); };
    const Op without = [](std::span<const Var> in) { return rms_norm(in[0], {}, 1e-3); };
    check_close(check_op("rms_norm", with, {x, weight}), plain_rms_norm(x, weight, 1e-3));
    check_close(check_op("rms_norm", without, {x}), plain_rms_norm(x, {}, 1e-3));
  }
}

// Both results in one, so that each gets a gradient of its own.
Var both(const NormedSum& r) {
  return cat(std::vector<Var>{r.y, r.sum}, 0);
}

TEST_CASE("add_rms_norm") {
  for (const Shape& shape : {Shape{2, 3, 5}, Shape{4}, Shape{0, 4}, Shape{2, 33}}) {
    const Tensor x = normal64(shape, 1), r = normal64(shape, 2), w = normal64({shape[-1]}, 3);
    const Op with = [](std::span<const Var> in) {
      return both(add_rms_norm(in[0], in[1], in[2], 1e-3));
    };
    const Op without = [](std::span<const Var> in) {
      return both(add_rms_norm(in[0], in[1], {}, 1e-3));
    };
    const Op composite = [](std::span<const Var> in) {
      const Var sum = add(in[0], in[1]);
      return both({rms_norm(sum, in[2], 1e-3), sum});
    };
    check_close(check_op("add_rms_norm", with, {x, r, w}),
                run_op(composite, {x, r, w}, {false, false, false}).y);
    check_op("add_rms_norm", without, {x, r});
    const Op normed = [](std::span<const Var> in) {
      return add_rms_norm(in[0], in[1], in[2], 1e-3).y;
    };
    check_op("add_rms_norm, y alone", normed, {x, r, w});
    // The sum alone leaves the weight a gradient of 0.
    const Op sum = [](std::span<const Var> in) {
      return add_rms_norm(in[0], in[1], in[2], 1e-3).sum;
    };
    check_op("add_rms_norm, sum alone", sum, {x, r, w});
  }
  const Var x(normal64({2, 3}, 1)), four(normal64({4}, 2));
  CHECK(contains(message_of([&] { add_rms_norm(x, four, {}, 0); }), "add_rms_norm: residual"));
  CHECK(contains(message_of([&] { add_rms_norm(x, x, four, 0); }), "add_rms_norm: weight"));
}

Tensor plain_group_norm(const Tensor& x, int64_t groups, const Tensor& weight, const Tensor& bias,
                        double eps) {
  const int64_t B = x.dim(0), C = x.dim(1), S = x.numel() / std::max<int64_t>(1, B * C);
  const int64_t n = C / groups * S;
  std::vector<double> y = x.to_vector();
  for (int64_t g = 0; g < B * groups; ++g) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < n; ++i) mean += y[g * n + i] / n;
    for (int64_t i = 0; i < n; ++i) variance += std::pow(y[g * n + i] - mean, 2) / n;
    for (int64_t i = 0; i < n; ++i) {
      double& v = y[g * n + i];
      const int64_t channel = g % groups * (C / groups) + i / S;
      v = (v - mean) / std::sqrt(variance + eps);
      if (weight) v = v * weight.to_vector()[channel] + bias.to_vector()[channel];
    }
  }
  return Tensor::from(y, x.shape());
}

TEST_CASE("group_norm") {
  struct Case {
    Shape shape;
    int64_t groups;
  };
  for (const Case& c : {Case{{2, 6, 2, 3}, 3}, Case{{2, 4, 5}, 1}, Case{{1, 4, 3}, 4},
                        Case{{3, 4}, 2}, Case{{0, 4, 3}, 2}, Case{{2, 4, 0}, 2}}) {
    const int64_t C = c.shape[1], groups = c.groups;
    const Tensor x = normal64(c.shape, 1), weight = normal64({C}, 2), bias = normal64({C}, 3);
    const Op with = [=](std::span<const Var> in) {
      return group_norm(in[0], groups, in[1], in[2], 1e-4);
    };
    const Op without = [=](std::span<const Var> in) {
      return group_norm(in[0], groups, {}, {}, 1e-4);
    };
    check_close(check_op("group_norm", with, {x, weight, bias}),
                plain_group_norm(x, groups, weight, bias, 1e-4));
    check_close(check_op("group_norm", without, {x}), plain_group_norm(x, groups, {}, {}, 1e-4));
  }
}

TEST_CASE("group_norm with silu equals the two ops") {
  for (const Shape& shape : {Shape{2, 6, 2, 3}, Shape{1, 4, 3}, Shape{2, 4, 0}}) {
    const int64_t C = shape[1];
    const Tensor x = normal64(shape, 1), weight = normal64({C}, 2), bias = normal64({C}, 3);
    const Op fused = [](std::span<const Var> in) {
      return group_norm(in[0], 2, in[1], in[2], 1e-4, Activation::silu);
    };
    const Op plain = [](std::span<const Var> in) {
      return silu(group_norm(in[0], 2, in[1], in[2], 1e-4));
    };
    check_close(check_op("group_norm silu", fused, {x, weight, bias}),
                run_op(plain, {x, weight, bias}, {false, false, false}).y);
    const OpRun a = run_op(fused, {x, weight, bias}, {true, true, true});
    const OpRun b = run_op(plain, {x, weight, bias}, {true, true, true});
    for (size_t i = 0; i < 3; ++i) check_close(a.grads[i], b.grads[i]);
    const Op bare = [](std::span<const Var> in) {
      return group_norm(in[0], 2, {}, {}, 1e-4, Activation::silu);
    };
    check_op("group_norm silu", bare, {x});
  }
}

TEST_CASE("norms name parameters that do not fit") {
  const Var x(normal64({2, 3, 4}, 1)), four(normal64({4}, 2)), three(normal64({3}, 3));
  const Var rows(normal64({3, 4}, 4));
  CHECK(contains(message_of([&] { layer_norm(x, three, {}, 1e-5); }), "layer_norm: weight"));
  CHECK(contains(message_of([&] { layer_norm(x, four, four, 1e-5, rows); }), "scale"));
  CHECK(contains(message_of([&] { rms_norm(x, three, 1e-5); }), "rms_norm: weight"));
  CHECK(contains(message_of([&] { group_norm(x, 2, {}, {}, 1e-5); }), "2 groups"));
  CHECK(contains(message_of([&] { group_norm(x, 3, {}, {}, 1e-5, Activation::gelu_erf); }),
                 "expected no activation or silu"));
  CHECK(contains(message_of([&] { rms_norm(Var(normal64({}, 1)), {}, 1e-5); }), "scalar"));
}

}  // namespace
}  // namespace parlo
