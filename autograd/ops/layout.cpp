#include "kernels/layout.h"

#include "autograd/ops.h"
#include "autograd/ops/shared.h"
#include "kernels/dispatch.h"

namespace parlo {

Var reshape(const Var& x, const Shape& shape) {
  const Shape in = x.shape();
  return record(
      "reshape", x.value().reshape(shape), {x},
      [in](const Tensor& dy, const Need&) -> std::vector<Tensor> { return {dy.view(in)}; });
}

Var permute(const Var& x, std::vector<int> order) {
  std::vector<int> inverse(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    if (order[i] < 0) order[i] += x.rank();
  }
  const Tensor y = x.value().permute(std::span<const int>(order));
  for (size_t i = 0; i < order.size(); ++i) inverse[order[i]] = static_cast<int>(i);
  return record("permute", y, {x}, [inverse](const Tensor& dy, const Need&) -> std::vector<Tensor> {
    return {dy.permute(std::span<const int>(inverse)).contiguous()};
  });
}

Var cat(std::span<const Var> parts, int axis) {
  CHECK(!parts.empty(), "cat: needs at least one part");
  if (axis < 0) axis += parts[0].rank();
  Shape shape = parts[0].shape();
  CHECK(axis >= 0 && axis < shape.rank(), "cat: axis out of range for ", shape);
  std::vector<Tensor> values;
  std::vector<int64_t> sizes;
  shape[axis] = 0;
  for (const Var& part : parts) {
    Shape expected = parts[0].shape();
    expected[axis] = part.rank() == shape.rank() ? part.dim(axis) : -1;
    check_shape("cat", "part", part.value(), expected);
    shape[axis] += part.dim(axis);
    sizes.push_back(part.dim(axis));
    values.push_back(part.value());
  }
  Tensor y = Tensor::empty(shape, parts[0].dtype(), values[0].device());
  DISPATCH(y.device(), concat(values, axis, y));
  return record("cat", y, {parts.begin(), parts.end()},
                [sizes, axis](const Tensor& dy, const Need& need) {
                  std::vector<Tensor> grads(sizes.size());
                  int64_t at = 0;
                  for (size_t i = 0; i < sizes.size(); ++i) {
                    if (need[i]) grads[i] = dy.slice(axis, at, at + sizes[i]);
                    at += sizes[i];
                  }
                  return grads;
                });
}

Var slice(const Var& x, int axis, int64_t begin, int64_t end) {
  const Shape in = x.shape();
  return record("slice", x.value().slice(axis, begin, end), {x},
                [=](const Tensor& dy, const Need&) -> std::vector<Tensor> {
                  Tensor dx = Tensor::zeros(in, dy.dtype(), dy.device());
                  dx.slice(axis, begin, end).copy_from(dy);
                  return {dx};
                });
}

std::vector<Var> chunk(const Var& x, int axis, int64_t n) {
  if (axis < 0) axis += x.rank();
  CHECK(axis >= 0 && axis < x.rank() && n > 0 && x.dim(axis) % n == 0, "chunk: ", n,
        " parts of axis ", axis, " do not fit shape ", x.shape());
  const int64_t size = x.dim(axis) / n;
  std::vector<Var> parts;
  for (int64_t i = 0; i < n; ++i) parts.push_back(slice(x, axis, i * size, (i + 1) * size));
  return parts;
}

Var gather_rows(const Var& table, const Tensor& index) {
  CHECK(table.rank() == 2, "gather_rows: table must be [V, C], got ", table.shape());
  CHECK(index.dtype() == DType::i64, "gather_rows: index must be i64, got ",
        dtype_name(index.dtype()));
  const Tensor source = table.value().contiguous();
  const Tensor ids = index.to(source.device()).contiguous();
  Tensor y = Tensor::empty({ids.numel(), table.dim(1)}, table.dtype(), source.device());
  DISPATCH(y.device(), gather_rows(source, ids, y));
  Shape shape = index.shape();
  shape.push_back(table.dim(1));
  const Shape in = table.shape();
  return record("gather_rows", y.view(shape), {table},
                [ids, in](const Tensor& dy, const Need&) -> std::vector<Tensor> {
                  Tensor dtable = Tensor::zeros(in, dy.dtype(), dy.device());
                  DISPATCH(dy.device(), scatter_add_rows(as_rows(dy), ids, dtable));
                  return {dtable};
                });
}

Var patchify(const Var& x, int64_t patch, bool channel_last) {
  CHECK(x.rank() == 4 && patch > 0 && x.dim(2) % patch == 0 && x.dim(3) % patch == 0,
        "patchify: ", x.shape(), " does not divide into patches of ", patch);
  const Shape in = x.shape();
  const int64_t tokens = (in[2] / patch) * (in[3] / patch);
  Tensor y = Tensor::empty({in[0], tokens, patch * patch * in[1]}, x.dtype(), x.value().device());
  DISPATCH(y.device(), patchify(x.value().contiguous(), patch, channel_last, y));
  return record("patchify", y, {x}, [=](const Tensor& dy, const Need&) -> std::vector<Tensor> {
    Tensor dx = Tensor::empty(in, dy.dtype(), dy.device());
    DISPATCH(dy.device(), unpatchify(dy, patch, channel_last, dx));
    return {dx};
  });
}

Var unpatchify(const Var& tokens, int64_t patch, bool channel_last, const Shape& image) {
  CHECK(image.rank() == 4 && patch > 0 && image[2] % patch == 0 && image[3] % patch == 0,
        "unpatchify: image ", image, " does not divide into patches of ", patch);
  check_shape("unpatchify", "tokens", tokens.value(),
              {image[0], (image[2] / patch) * (image[3] / patch), patch * patch * image[1]});
  Tensor y = Tensor::empty(image, tokens.dtype(), tokens.value().device());
  DISPATCH(y.device(), unpatchify(tokens.value().contiguous(), patch, channel_last, y));
  const Shape in = tokens.shape();
  return record("unpatchify", y, {tokens},
                [=](const Tensor& dy, const Need&) -> std::vector<Tensor> {
                  Tensor dx = Tensor::empty(in, dy.dtype(), dy.device());
                  DISPATCH(dy.device(), patchify(dy, patch, channel_last, dx));
                  return {dx};
                });
}

}  // namespace parlo
