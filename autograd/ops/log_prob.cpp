// Log-probabilities and entropies of tokens under a linear head: one node whose value [2, T] holds
// both, so that the backward makes the logits again once.
#include "autograd/ops.h"
#include "autograd/ops/shared.h"
#include "kernels/dispatch.h"

namespace parlo {
namespace {

// What the backward reads.
struct LogProbSaved {
  Shape x_shape;
  Tensor x, w, targets, entropy, lse;
  LinearLogProbArgs args;
};

std::vector<Tensor> log_prob_backward(const LogProbSaved& s, DType w_dtype, const Tensor& dy,
                                      const Need& need) {
  LinearLogProbGrads grads;
  const Tensor both = dy.contiguous();
  grads.d_log_prob = both.select(0, 0), grads.d_entropy = both.select(0, 1);
  if (need[0]) grads.dx = Tensor::empty_like(s.x);
  if (need[1]) grads.dw = Tensor::empty(s.w.shape(), dy.dtype(), dy.device());
  DISPATCH(dy.device(),
           linear_log_prob_backward(s.x, s.w, s.targets, s.args, s.entropy, s.lse, grads));
  return {need[0] ? grads.dx.view(s.x_shape) : Tensor(), need[1] ? grads.dw.to(w_dtype) : Tensor()};
}

}  // namespace

LogProbs linear_log_prob(const Var& x, const Var& w, const Tensor& targets,
                         const LinearLogProbArgs& args) {
  Shape shape = x.shape();
  CHECK(shape.rank() >= 1, "linear_log_prob: x must be [..., K], got a scalar");
  shape.erase(shape.rank() - 1);
  check_shape("linear_log_prob", "targets", targets, shape);
  LogProbSaved s;
  s.x_shape = x.shape(), s.args = args;
  s.x = as_rows(x.value()), s.w = w.value().contiguous();
  const int64_t rows = s.x.dim(0);
  s.targets = targets.to(s.x.device()).reshape({rows});
  const Tensor both = Tensor::empty({2, rows}, statistics_of(s.x), s.x.device());
  s.entropy = both.select(0, 1), s.lse = Tensor::empty_like(s.entropy);
  DISPATCH(s.x.device(),
           linear_log_prob(s.x, s.w, s.targets, args, both.select(0, 0), s.entropy, s.lse));
  const Var y = record("linear_log_prob", both, {x, w},
                       [s, dtype = w.dtype()](const Tensor& dy, const Need& need) {
                         return log_prob_backward(s, dtype, dy, need);
                       });
  return {reshape(slice(y, 0, 0, 1), shape), reshape(slice(y, 0, 1, 2), shape)};
}

}  // namespace parlo
