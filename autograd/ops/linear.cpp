// The linear layer with its low-rank terms, each of all rows or of some:
//   y = act(x w' + b + s (x a') b') * gate + residual
// With p the pre-activation and dp its gradient:
//   dx = dp w + s (dp b) a,  dw = dp' x,  db = column sums of dp,
//   d(b) = s dp' (x a'),  d(a) = s (dp b)' x, over the term's rows.
// glu_linear: y = f(one half of p) * the other; its backward makes dp of dy and goes on as
// linear's.
#include "autograd/ops.h"
#include "autograd/ops/shared.h"
#include "kernels/dispatch.h"
#include "kernels/elementwise.h"
#include "kernels/glu.h"
#include "kernels/glu_linear_checks.h"
#include "kernels/reduce.h"

namespace parlo {
namespace {

// alpha op(a) op(b) in a dtype of its own: a gradient has that of the weight it belongs to.
Tensor product(const Tensor& a, bool ta, const Tensor& b, bool tb, DType dtype,
               double alpha = 1.0) {
  Tensor c = Tensor::empty({ta ? a.dim(1) : a.dim(0), tb ? b.dim(0) : b.dim(1)}, dtype, a.device());
  DISPATCH(a.device(), matmul(a, ta, b, tb, c, alpha, 0.0));
  return c;
}

// What linear's backward reads.
struct LinearSaved {
  Shape x_shape;
  int64_t rows = 0;
  Tensor x;  // only when w or an a wants a gradient
  Tensor w, pre;
  std::vector<LowRankRows> terms;  // `down` is x a'
  Activation activation = Activation::none;
  DType w_dtype = DType::f32, bias_dtype = DType::f32;
  Tensor gate;
};

// Inputs of linear in front of a and b of every term.
constexpr size_t kLinearInputs = 5;

// Gradients of each term's a and b where they are wanted, and its dp b [rows, r] in `down` of
// `terms` where dx or da wants it.
void low_rank_gradients(const LinearSaved& s, const Tensor& dp, const Need& need,
                        std::vector<LowRankRows>& terms, std::vector<Tensor>& grads) {
  for (size_t i = 0; i < terms.size(); ++i) {
    const int64_t begin = terms[i].first, end = begin + terms[i].rows;
    const size_t at = kLinearInputs + 2 * i;
    LowRank& low = terms[i].low_rank;
    const Tensor rows = dp.slice(0, begin, end), x_down = low.down;
    const DType dtype = dp.dtype(), factors = low.a.dtype();
    if (need[0] || need[at]) low.down = product(rows, false, low.b.to(dtype), false, dtype);
    if (need[at]) {
      grads[at] = product(low.down, true, s.x.slice(0, begin, end), false, factors, low.scale);
    }
    if (need[at + 1]) grads[at + 1] = product(rows, true, x_down, false, factors, low.scale);
  }
}

// The gradient of what the gate multiplies, and the gate's where it is wanted.
Tensor gate_gradients(const LinearSaved& s, const Tensor& dout, const Need& need, Tensor& dgate) {
  Tensor gated;
  if (need[4]) {
    dgate = Tensor::empty(s.gate.shape(), dout.dtype(), dout.device());
    gated = s.pre;
    if (s.activation != Activation::none) {
      gated = Tensor::empty_like(s.pre);
      DISPATCH(gated.device(), activation(s.activation, s.pre, gated));
    }
  }
  const Tensor dz = Tensor::empty_like(dout);
  DISPATCH(dz.device(), gate_residual_backward(s.gate, gated, dout, dgate, dz));
  return dz;
}

std::vector<Tensor> linear_backward(const LinearSaved& s, const Tensor& dy, const Need& need) {
  Tensor dout = dy.view({s.rows, s.w.dim(0)}), dgate;
  if (s.gate) dout = gate_gradients(s, dout, need, dgate);
  Tensor dp = dout;
  if (s.activation != Activation::none) {
    dp = Tensor::empty_like(dout);
    DISPATCH(dp.device(), activation_backward(s.activation, s.pre, dout, dp));
  }
  std::vector<Tensor> grads(kLinearInputs + 2 * s.terms.size());
  std::vector<LowRankRows> terms = s.terms;
  low_rank_gradients(s, dp, need, terms, grads);
  if (need[0]) {
    const Tensor dx = Tensor::empty({s.rows, s.w.dim(1)}, dp.dtype(), dp.device());
    DISPATCH(dx.device(), linear_backward(dp, s.w, dx, terms));
    grads[0] = dx.view(s.x_shape);
  }
  if (need[1]) grads[1] = product(dp, true, s.x, false, s.w_dtype);
  if (need[2]) {
    Tensor sums = Tensor::empty({1, dp.dim(1)}, dp.dtype(), dp.device());
    DISPATCH(dp.device(), sum_to(dp, sums));
    grads[2] = sums.view({dp.dim(1)}).to(s.bias_dtype);
  }
  if (need[3]) grads[3] = dy;
  grads[4] = dgate;
  return grads;
}

// One way to say it: all adapters as terms of rows.
std::vector<LowRankRowsVar> terms_of(const LinearExtras& extras, int64_t rows) {
  CHECK(!extras.low_rank || extras.low_rank_rows.empty(),
        "linear: a low rank of all rows and of some; expected one of them");
  if (extras.low_rank) return {{0, rows, *extras.low_rank}};
  return {extras.low_rank_rows.begin(), extras.low_rank_rows.end()};
}

void check_linear(const Var& x, const Var& w, const Var& bias,
                  std::span<const LowRankRowsVar> terms, int64_t rows) {
  CHECK(w.rank() == 2 && x.rank() >= 1 && x.dim(-1) == w.dim(1), "linear: x ", x.shape(),
        " does not fit w ", w.shape(), " (expected [..., ", w.rank() == 2 ? w.dim(1) : -1, "])");
  if (bias) check_shape("linear", "bias", bias.value(), {w.dim(0)});
  check_row_segments(terms, rows);
  for (const auto& [first, count, low] : terms) {
    CHECK(low.a.rank() == 2 && low.a.dim(1) == w.dim(1), "linear: low-rank a ", low.a.shape(),
          " does not fit w ", w.shape());
    check_shape("linear", "low-rank b", low.b.value(), {w.dim(0), low.a.dim(0)});
  }
}

// The terms as the kernel takes them, and their inputs; true if an a wants a gradient.
bool add_terms(std::span<const LowRankRowsVar> terms, const Tensor& y, LinearSaved& s,
               std::vector<Var>& inputs) {
  bool train_a = false;
  for (const auto& [first, rows, low] : terms) {
    const Tensor down = Tensor::empty({rows, low.a.dim(0)}, y.dtype(), y.device());
    s.terms.push_back(
        {first, rows, {low.a.value().contiguous(), low.b.value().contiguous(), low.scale, down}});
    inputs.insert(inputs.end(), {low.a, low.b});
    train_a = train_a || low.a.requires_grad();
  }
  return train_a;
}

// What linear and glu_linear begin with.
struct LinearCall {
  Tensor x, bias;  // contiguous rows; bias may be undefined
  LinearSaved saved;
  std::vector<Var> inputs;
};

LinearCall linear_call(const Var& x, const Var& w, const Var& bias, const LinearExtras& extras) {
  LinearCall call{as_rows(x.value()), {}, {}, {x, w, bias, extras.residual, extras.gate}};
  const std::vector<LowRankRowsVar> terms = terms_of(extras, call.x.dim(0));
  check_linear(x, w, bias, terms, call.x.dim(0));
  LinearSaved& s = call.saved;
  s.x_shape = x.shape();
  s.rows = call.x.dim(0);
  // Under bf16 activations a trained weight stays f32 and is rounded here.
  const bool round = x.dtype() == DType::bf16 && w.dtype() == DType::f32;
  s.w = round ? w.value().to(DType::bf16) : w.value().contiguous();
  s.w_dtype = w.dtype();
  if (bias) call.bias = bias.value().contiguous(), s.bias_dtype = bias.dtype();
  const bool train_a = add_terms(terms, call.x, s, call.inputs);
  if (w.requires_grad() || train_a) s.x = call.x;
  return call;
}

}  // namespace

Var linear(const Var& x, const Var& w, const Var& bias, const LinearExtras& extras) {
  LinearCall call = linear_call(x, w, bias, extras);
  LinearSaved& s = call.saved;
  s.activation = extras.activation;
  Shape out_shape = x.shape();
  out_shape[-1] = w.dim(0);
  Tensor y = Tensor::empty(out_shape, x.dtype(), call.x.device());
  const Tensor rows = y.view({s.rows, w.dim(0)});

  LinearArgs args;
  args.bias = call.bias, args.activation = extras.activation;
  if ((extras.activation != Activation::none || extras.gate.requires_grad()) && grad_enabled()) {
    s.pre = Tensor::empty(rows.shape(), rows.dtype(), rows.device());
    args.pre_activation = s.pre;
  }
  if (extras.residual) {
    check_shape("linear", "residual", extras.residual.value(), out_shape);
    args.residual = as_rows(extras.residual.value());
  }
  if (extras.gate) {
    check_shape("linear", "gate", extras.gate.value(), {x.dim(0), w.dim(0)});
    s.gate = unit_last_stride(extras.gate.value());
    args.gate = {s.gate, std::max<int64_t>(1, s.rows / std::max<int64_t>(1, x.dim(0)))};
  }
  args.low_rank_rows = s.terms;
  DISPATCH(rows.device(), linear(call.x, s.w, rows, args));
  return record("linear", y, std::move(call.inputs),
                [s](const Tensor& dy, const Need& need) { return linear_backward(s, dy, need); });
}

Var glu_linear(Activation f, const Var& x, const Var& w, const Var& bias,
               const LinearExtras& extras) {
  CHECK(extras.activation == Activation::none && !extras.residual && !extras.gate,
        "glu_linear: an activation, residual or gate among the extras; it takes low-rank terms");
  LinearCall call = linear_call(x, w, bias, extras);
  const LinearSaved& s = call.saved;
  const int64_t n = w.dim(0);
  CHECK(n % 2 == 0, "glu_linear: w has shape ", w.shape(), ", expected [2 F, K]");
  Shape out_shape = x.shape();
  out_shape[-1] = n / 2;
  const Tensor y = Tensor::empty(out_shape, x.dtype(), call.x.device());
  GluLinearArgs args;
  args.bias = call.bias, args.low_rank_rows = s.terms;
  if (grad_enabled()) args.halves = Tensor::empty({s.rows, n}, x.dtype(), y.device());
  DISPATCH(y.device(), glu_linear(f, call.x, s.w, y.view({s.rows, n / 2}), args));
  return record("glu_linear", y, std::move(call.inputs),
                [f, s, halves = args.halves](const Tensor& dy, const Need& need) {
                  const Tensor a = glu_half(halves, 0), b = glu_half(halves, 1);
                  const Tensor dp = Tensor::empty_like(halves);
                  DISPATCH(dp.device(), glu_backward(f, a, b, dy.view(a.shape()), glu_half(dp, 0),
                                                     glu_half(dp, 1)));
                  return linear_backward(s, dp, need);
                });
}

}  // namespace parlo
