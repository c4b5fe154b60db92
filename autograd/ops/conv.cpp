#include "kernels/conv.h"

#include "autograd/ops.h"
#include "kernels/dispatch.h"

namespace parlo {

Var conv3d(const Var& x, const Var& w, const Var& bias, const Conv3dArgs& args,
           const Var& residual) {
  CHECK(x.rank() == 5 && w.rank() == 5 && args.groups > 0 && x.dim(1) == w.dim(1) * args.groups &&
            w.dim(0) % args.groups == 0,
        "conv3d: x ", x.shape(), " does not fit w ", w.shape(), " with ", args.groups, " groups");
  Shape shape = {x.dim(0), w.dim(0)};
  for (int i = 0; i < 3; ++i) {
    const auto axis = static_cast<size_t>(i);
    const int64_t size = x.dim(i + 2) + args.before[axis] + args.after[axis] - w.dim(i + 2);
    CHECK(size >= 0 && args.stride[axis] > 0, "conv3d: kernel ", w.shape(),
          " is larger than input ", x.shape(), ", or stride ", args.stride[axis], " is not > 0");
    shape.push_back(size / args.stride[axis] + 1);
  }
  if (bias) check_shape("conv3d", "bias", bias.value(), {w.dim(0)});
  // Not made contiguous: a GPU reads channels that lie side by side as they are.
  const Tensor in = x.value(), weight = w.value().contiguous();
  Tensor y = Tensor::empty(shape, x.dtype(), in.device());
  DISPATCH(in.device(), conv3d(in, weight, bias ? bias.value() : Tensor(),
                               residual ? residual.value() : Tensor(), y, args));
  return record("conv3d", y, {x, w, bias, residual},
                [=](const Tensor& dy, const Need& need) -> std::vector<Tensor> {
                  const auto room = [&](size_t i, const Shape& of) {
                    return need[i] ? Tensor::empty(of, dy.dtype(), dy.device()) : Tensor();
                  };
                  const Tensor dx = room(0, in.shape()), dw = room(1, weight.shape());
                  const Tensor dbias = room(2, {weight.dim(0)});
                  if (dx || dw || dbias) {
                    DISPATCH(in.device(), conv3d_backward(in, weight, dy, dx, dw, dbias, args));
                  }
                  return {dx, dw, dbias, need[3] ? dy : Tensor()};
                });
}

Var conv2d(const Var& x, const Var& w, const Var& bias, const Conv2dArgs& args) {
  CHECK(x.rank() == 4 && w.rank() == 4 && args.groups > 0 && args.stride > 0 &&
            x.dim(1) == w.dim(1) * args.groups && w.dim(0) % args.groups == 0,
        "conv2d: x ", x.shape(), " does not fit w ", w.shape(), " with ", args.groups, " groups");
  const int64_t h = x.dim(2) + 2 * args.padding - w.dim(2);
  const int64_t v = x.dim(3) + 2 * args.padding - w.dim(3);
  CHECK(h >= 0 && v >= 0, "conv2d: kernel ", w.shape(), " is larger than input ", x.shape());
  if (bias) check_shape("conv2d", "bias", bias.value(), {w.dim(0)});
  const Tensor in = x.value(), weight = w.value().contiguous();
  Tensor y = Tensor::empty({x.dim(0), w.dim(0), h / args.stride + 1, v / args.stride + 1},
                           x.dtype(), in.device());
  DISPATCH(in.device(), conv2d(in, weight, bias ? bias.value().contiguous() : Tensor(), y, args));
  return record("conv2d", y, {x, w, bias},
                [=](const Tensor& dy, const Need& need) -> std::vector<Tensor> {
                  Tensor dx, dw, dbias;
                  if (need[0]) dx = Tensor::empty(in.shape(), in.dtype(), in.device());
                  if (need[1]) dw = Tensor::empty_like(weight);
                  if (need[2]) dbias = Tensor::empty({weight.dim(0)}, dy.dtype(), dy.device());
                  DISPATCH(in.device(), conv2d_backward(in, weight, dy, dx, dw, dbias, args));
                  return {dx, dw, dbias};
                });
}

}  // namespace parlo
