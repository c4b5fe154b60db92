// Log-probabilities and entropies of tokens under a linear head: two results of one node, so that
// the backward makes the logits again once.
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

std::vector<Tensor> log_prob_backward(const LogProbSaved& s, std::span<const Tensor> dys,
                                      const Need& need) {
  const auto rows = [](const Tensor& dy) { return dy ? dy.reshape({dy.numel()}) : dy; };
  LinearLogProbGrads grads;
  grads.d_log_prob = rows(dys[0]), grads.d_entropy = rows(dys[1]);
  if (need[0]) grads.dx = Tensor::empty_like(s.x);
  if (need[1]) grads.dw = Tensor::empty(s.w.shape(), s.lse.dtype(), s.lse.device());
  DISPATCH(s.x.device(),
           linear_log_prob_backward(s.x, s.w, s.targets, s.args, s.entropy, s.lse, grads));
  return {need[0] ? grads.dx.view(s.x_shape) : Tensor(),
          need[1] ? grads.dw.to(s.w.dtype()) : Tensor()};
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
  const Tensor log_prob = Tensor::empty({rows}, statistics_of(s.x), s.x.device());
  s.entropy = Tensor::empty_like(log_prob), s.lse = Tensor::empty_like(log_prob);
  DISPATCH(s.x.device(), linear_log_prob(s.x, s.w, s.targets, args, log_prob, s.entropy, s.lse));
  const std::vector<Var> y =
      record("linear_log_prob", {log_prob.view(shape), s.entropy.view(shape)}, {x, w},
             [s](std::span<const Tensor> dys, const Need& need) {
               return log_prob_backward(s, dys, need);
             });
  return {y[0], y[1]};
}

}  // namespace parlo
