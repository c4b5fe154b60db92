#include "kernels/resize.h"

#include "autograd/ops.h"
#include "kernels/dispatch.h"

namespace parlo {

Var resize(const Var& x, const Shape& sizes, const ResizeArgs& args) {
  CHECK(x.rank() >= 3 && x.rank() == sizes.rank() + 2, "resize: x ", x.shape(),
        " does not have the axes of sizes ", sizes);
  Shape shape = {x.dim(0), x.dim(1)};
  for (int64_t size : sizes) shape.push_back(size);
  const Tensor in = x.value().contiguous();
  Tensor y = Tensor::empty(shape, in.dtype(), in.device());
  DISPATCH(in.device(), resize(in, y, args));
  const Shape from = x.shape();
  return record("resize", y, {x}, [=](const Tensor& dy, const Need&) -> std::vector<Tensor> {
    const Tensor dx = Tensor::empty(from, dy.dtype(), dy.device());
    DISPATCH(dy.device(), resize_backward(dy.contiguous(), dx, args));
    return {dx};
  });
}

}  // namespace parlo
