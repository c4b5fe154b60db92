// Matrix product over the last two axes; gradients are products of the same kind, summed over
// leading axes that were broadcast.
#include "autograd/ops.h"
#include "autograd/ops/shared.h"
#include "kernels/dispatch.h"
#include "kernels/reduce.h"

namespace parlo {
namespace {

// Sums a batched gradient over leading axes the operand had as 1.
Tensor sum_leading(const Tensor& grad, const Shape& shape) {
  if (grad.shape() == shape) return grad;
  Shape padded = shape;
  while (padded.rank() < grad.rank()) padded.insert(0, 1);
  Tensor out = Tensor::empty(padded, grad.dtype(), grad.device());
  DISPATCH(grad.device(), sum_to(grad, out));
  return out.view(shape);
}

Shape batch_of(const Shape& s) {
  return Shape(std::span(s.begin(), static_cast<size_t>(s.rank() - 2)));
}

// a and b with leading axes padded to the same rank, and the result's shape.
struct Batched {
  Tensor a, b;
  Shape out;
};

Batched batched(const Tensor& a, bool ta, const Tensor& b, bool tb) {
  CHECK(a.rank() >= 2 && b.rank() >= 2, "matmul: operands need two axes, got ", a.shape(), " and ",
        b.shape());
  const int64_t m = a.dim(ta ? -1 : -2), ka = a.dim(ta ? -2 : -1);
  const int64_t n = b.dim(tb ? -2 : -1), kb = b.dim(tb ? -1 : -2);
  CHECK(ka == kb, "matmul: inner sizes differ: ", a.shape(), ta ? "'" : "", " by ", b.shape(),
        tb ? "'" : "");
  Batched r{unit_last_stride(a), unit_last_stride(b),
            broadcast_shapes(batch_of(a.shape()), batch_of(b.shape()))};
  while (r.a.rank() < r.out.rank() + 2) r.a = r.a.unsqueeze(0);
  while (r.b.rank() < r.out.rank() + 2) r.b = r.b.unsqueeze(0);
  r.out.push_back(m);
  r.out.push_back(n);
  return r;
}

Tensor batched_product(const Tensor& a, bool ta, const Tensor& b, bool tb) {
  const Batched r = batched(a, ta, b, tb);
  Tensor c = Tensor::empty(r.out, a.dtype(), a.device());
  DISPATCH(a.device(), matmul(r.a, ta, r.b, tb, c, 1.0, 0.0));
  return c;
}

}  // namespace

Var matmul(const Var& a, const Var& b, bool ta, bool tb) {
  const Tensor x = a.value(), y = b.value();
  return record("matmul", batched_product(x, ta, y, tb), {a, b},
                [x, y, ta, tb](const Tensor& dc, const Need& need) -> std::vector<Tensor> {
                  std::vector<Tensor> grads(2);
                  if (need[0]) {
                    const Tensor g =
                        ta ? batched_product(y, tb, dc, true) : batched_product(dc, false, y, !tb);
                    grads[0] = sum_leading(g, x.shape());
                  }
                  if (need[1]) {
                    const Tensor g =
                        tb ? batched_product(dc, true, x, ta) : batched_product(x, !ta, dc, false);
                    grads[1] = sum_leading(g, y.shape());
                  }
                  return grads;
                });
}

}  // namespace parlo
