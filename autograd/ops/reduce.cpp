#include "kernels/reduce.h"

#include <algorithm>

#include "autograd/ops.h"
#include "autograd/ops/shared.h"
#include "kernels/dispatch.h"

namespace parlo {

Var sum(const Var& x, std::vector<int> axes, bool keep) {
  const Shape in = x.shape();
  Shape kept = in;
  if (axes.empty()) {
    for (int i = 0; i < in.rank(); ++i) axes.push_back(i);
  }
  for (int& axis : axes) {
    if (axis < 0) axis += in.rank();
    CHECK(axis >= 0 && axis < in.rank(), "sum: axis out of range for shape ", in);
    kept[axis] = 1;
  }
  Shape out_shape = kept;
  if (!keep) {
    out_shape = Shape();
    for (int i = 0; i < in.rank(); ++i) {
      if (std::find(axes.begin(), axes.end(), i) == axes.end()) out_shape.push_back(in[i]);
    }
  }
  Tensor y = Tensor::empty(kept, x.dtype(), x.value().device());
  DISPATCH(y.device(), sum_to(x.value().contiguous(), y));
  return record("sum", y.view(out_shape), {x},
                [in, kept](const Tensor& dy, const Need&) -> std::vector<Tensor> {
                  return {dy.view(kept).expand(in).clone()};
                });
}

Var mean(const Var& x, std::vector<int> axes, bool keep) {
  const Var total = sum(x, std::move(axes), keep);
  const double count = static_cast<double>(x.value().numel()) /
                       static_cast<double>(std::max<int64_t>(1, total.value().numel()));
  return affine(total, 1.0 / count);
}

Var softmax(const Var& x) {
  const Shape shape = x.shape();
  const Tensor rows = as_rows(x.value());
  Tensor y = Tensor::empty(rows.shape(), rows.dtype(), rows.device());
  DISPATCH(rows.device(), softmax(rows, y));
  return record("softmax", y.view(shape), {x},
                [y, shape](const Tensor& dy, const Need&) -> std::vector<Tensor> {
                  Tensor dx = Tensor::empty(y.shape(), y.dtype(), y.device());
                  DISPATCH(y.device(), softmax_backward(y, dy.view(y.shape()), dx));
                  return {dx.view(shape)};
                });
}

Var cross_entropy(const Var& logits, const Tensor& targets, int64_t ignore_index) {
  Shape shape = logits.shape();
  CHECK(shape.rank() >= 1, "cross_entropy: logits must be [..., C], got a scalar");
  shape.erase(shape.rank() - 1);
  check_shape("cross_entropy", "targets", targets, shape);
  CHECK(targets.dtype() == DType::i64, "cross_entropy: targets must be i64, got ",
        dtype_name(targets.dtype()));
  const Tensor rows = as_rows(logits.value());
  const Tensor ids = targets.to(rows.device()).reshape({rows.dim(0)});
  Tensor losses = Tensor::empty({rows.dim(0)}, statistics_of(rows), rows.device());
  Tensor lse = Tensor::empty_like(losses);
  DISPATCH(rows.device(), cross_entropy(rows, ids, losses, lse, ignore_index));
  const Shape in = logits.shape();
  return record(
      "cross_entropy", losses.view(shape), {logits},
      [=](const Tensor& dy, const Need&) -> std::vector<Tensor> {
        Tensor dx = Tensor::empty(rows.shape(), rows.dtype(), rows.device());
        DISPATCH(rows.device(),
                 cross_entropy_backward(rows, ids, lse, dy.view({rows.dim(0)}), dx, ignore_index));
        return {dx.view(in)};
      });
}

Var l2_normalize(const Var& x) {
  return mul(x, rsqrt(sum(square(x), {-1}, true)));
}

}  // namespace parlo
