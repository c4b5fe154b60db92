// Checks one op in every way all ops share: gradients against central finite differences in f64,
// every combination of one frozen input and of one input alone, strided inputs, f32 against f64.
#pragma once

#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "autograd/ops.h"
#include "tests/support.h"

namespace parlo::test {

using Op = std::function<Var(std::span<const Var>)>;

struct GradCheck {
  double step = 1e-5;
  double limit = 2e-8;      // of the finite differences, relative to the largest gradient
  double f32_limit = 1e-5;  // of an f32 run against the f64 one
  bool f32 = true;
};

// Normal values that f32 represents, as f64.
inline Tensor normal64(const Shape& shape, uint32_t seed, double scale = 1) {
  return random_tensor(shape, seed, DType::f32, scale).to(DType::f64);
}

// |x| in [0.5, 1.5): away from kinks and poles. With a sign or all positive.
inline Tensor away_from_zero(const Shape& shape, uint32_t seed, bool positive) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> uniform(0.5f, 1.5f);
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (double& x : values) x = (positive || engine() % 2 ? 1 : -1) * double{uniform(engine)};
  return Tensor::from(values, shape);
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() == b.defined();
  if (!(a.shape() == b.shape()) || a.dtype() != b.dtype()) return false;
  const Tensor x = a.contiguous(), y = b.contiguous();
  return x.numel() == 0 || std::memcmp(x.raw(), y.raw(), x.nbytes()) == 0;
}

// The same values in memory of another order: 0 axes reversed, 1 a window of something larger,
// 2 every second element.
inline Tensor restrided(const Tensor& t, int kind) {
  const int rank = t.rank();
  if (rank == 0) return t;
  Tensor view;
  if (kind == 0) {
    Shape shape;
    std::vector<int> order;
    for (int i = rank - 1; i >= 0; --i) shape.push_back(t.dim(i)), order.push_back(i);
    view = Tensor::full(shape, 99, t.dtype()).permute(std::span<const int>(order));
  } else if (kind == 1) {
    Shape shape = t.shape();
    for (int i = 0; i < rank; ++i) shape[i] += 3;
    view = Tensor::full(shape, 99, t.dtype());
    for (int i = 0; i < rank; ++i) view = view.slice(i, 1, 1 + t.dim(i));
  } else {
    Shape shape = t.shape();
    shape.push_back(2);
    view = Tensor::full(shape, 99, t.dtype()).select(rank, 1);
  }
  view.copy_from(t);
  return view;
}

struct OpRun {
  Tensor y;
  std::vector<Tensor> grads;
};

inline Tensor upstream(const Shape& shape, DType dtype) {
  return random_tensor(shape, 4242, DType::f32).to(dtype);
}

inline OpRun run_op(const Op& op, const std::vector<Tensor>& inputs, const std::vector<bool>& need,
                    int dy_layout = -1) {
  std::vector<Var> vars;
  bool any = false;
  for (size_t i = 0; i < inputs.size(); ++i) {
    vars.emplace_back(inputs[i], need[i]);
    any = any || need[i];
  }
  const Var y = op(vars);
  OpRun run{y.value().contiguous(), {}};
  CHECK(y.requires_grad() == any);
  if (any) {
    const Tensor dy = upstream(y.shape(), y.dtype());
    backward(y, dy_layout < 0 ? dy : restrided(dy, dy_layout));
  }
  for (const Var& v : vars) run.grads.push_back(v.grad());
  return run;
}

// sum(op(inputs) * dy) in f64.
inline double weighted_sum(const Op& op, const std::vector<Tensor>& inputs) {
  const NoGrad guard;
  std::vector<Var> vars;
  for (const Tensor& t : inputs) vars.emplace_back(t);
  const Tensor y = op(vars).value();
  const std::vector<double> values = y.to_vector(),
                            weights = upstream(y.shape(), DType::f64).to_vector();
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) sum += values[i] * weights[i];
  return sum;
}

inline void check_differences(const Op& op, const std::vector<Tensor>& inputs, const OpRun& full,
                              const GradCheck& options) {
  std::vector<std::vector<double>> numeric;
  double scale = 0.1, error = 0;  // a gradient of 0 is as exact as the terms that cancel
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::vector<Tensor> moved = inputs;
    moved[i] = inputs[i].clone();
    const std::vector<double> analytic = full.grads[i].to_vector();
    for (int64_t j = 0; j < inputs[i].numel(); ++j) {
      double* x = moved[i].data<double>() + j;
      const double at = *x;
      *x = at + options.step;
      const double up = weighted_sum(op, moved);
      *x = at - options.step;
      const double down = weighted_sum(op, moved);
      *x = at;
      const double expected = (up - down) / (2 * options.step);
      scale = std::max(scale, std::abs(expected));
      const double off = std::abs(expected - analytic[static_cast<size_t>(j)]);
      if (!(off <= error)) error = off;
    }
  }
  INFO("largest gradient ", scale);
  CHECK(error <= options.limit * scale);
}

inline void check_frozen(const Op& op, const std::vector<Tensor>& inputs, const OpRun& full) {
  const size_t n = inputs.size();
  CHECK(same_bits(run_op(op, inputs, std::vector<bool>(n, false)).y, full.y));
  for (size_t i = 0; i < n; ++i) {
    INFO("input ", i);
    std::vector<bool> frozen(n, true), alone(n, false);
    frozen[i] = false;
    alone[i] = true;
    const OpRun without = run_op(op, inputs, frozen), only = run_op(op, inputs, alone);
    CHECK(same_bits(without.y, full.y));
    CHECK(!without.grads[i].defined());
    CHECK(same_bits(only.grads[i], full.grads[i]));
    for (size_t j = 0; j < n; ++j) {
      if (j != i) CHECK(same_bits(without.grads[j], full.grads[j]));
      if (j != i) CHECK(!only.grads[j].defined());
    }
  }
}

inline void check_strided(const Op& op, const std::vector<Tensor>& inputs, const OpRun& full) {
  for (int kind = 0; kind < 3; ++kind) {
    INFO("layout ", kind);
    std::vector<Tensor> views;
    for (const Tensor& t : inputs) views.push_back(restrided(t, kind));
    const OpRun strided = run_op(op, views, std::vector<bool>(inputs.size(), true), kind);
    check_close(strided.y, full.y, 1e-12);
    for (size_t i = 0; i < inputs.size(); ++i) {
      INFO("input ", i);
      check_close(strided.grads[i], full.grads[i], 1e-12);
      for (size_t j = 0; j < inputs.size(); ++j) CHECK(same_bits(views[j], inputs[j]));
    }
  }
}

// inputs: f64, contiguous, all differentiable; op takes any float dtype. Returns the forward's
// value, for a comparison with a plain loop.
inline Tensor check_op(const std::string& name, const Op& op, const std::vector<Tensor>& inputs,
                       const GradCheck& options = {}) {
  std::string shapes;
  for (const Tensor& t : inputs) shapes += " " + to_string(t.shape());
  INFO(name, shapes);
  const std::vector<bool> all(inputs.size(), true);
  const OpRun full = run_op(op, inputs, all);
  for (size_t i = 0; i < inputs.size(); ++i) {
    DOCTEST_REQUIRE(full.grads[i].defined());
    DOCTEST_REQUIRE((full.grads[i].shape() == inputs[i].shape()));
  }
  check_differences(op, inputs, full, options);
  check_frozen(op, inputs, full);
  check_strided(op, inputs, full);
  if (options.f32) {
    std::vector<Tensor> singles;
    for (const Tensor& t : inputs) singles.push_back(t.to(DType::f32));
    const OpRun f32 = run_op(op, singles, all);
    check_close(f32.y, full.y, options.f32_limit);
    double scale = 0.1;
    for (const Tensor& g : full.grads)
      for (double x : g.to_vector()) scale = std::max(scale, std::abs(x));
    for (size_t i = 0; i < inputs.size(); ++i) {
      INFO("f32 gradient of input ", i);
      CHECK(f32.grads[i].dtype() == DType::f32);
      const std::vector<double> a = f32.grads[i].to_vector(), e = full.grads[i].to_vector();
      double error = 0;
      for (size_t j = 0; j < a.size(); ++j) error = std::max(error, std::abs(a[j] - e[j]));
      CHECK(error <= options.f32_limit * scale);
    }
  }
  return full.y;
}

}  // namespace parlo::test
