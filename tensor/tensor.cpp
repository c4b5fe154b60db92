#include "tensor/tensor.h"

#include <algorithm>
#include <cstring>

#include "tensor/device_memory.h"

namespace parlo {

Storage::Storage(size_t bytes_, Device device_)
    : data(allocate_memory(bytes_, device_)), bytes(bytes_), device(device_) {}

Storage::Storage(void* data_, size_t bytes_, std::shared_ptr<void> owner, bool read_only_)
    : data(data_), bytes(bytes_), read_only(read_only_), keep_alive(std::move(owner)) {}

Storage::~Storage() {
  if (!keep_alive) release_memory(data, device);
}

Shape contiguous_strides(const Shape& shape) {
  Shape strides = shape;
  int64_t step = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = step;
    step *= shape[i];
  }
  return strides;
}

namespace {

size_t bytes_of(std::string_view function, const Shape& shape, DType dtype) {
  for (int64_t d : shape) CHECK(d >= 0, function, ": negative dimension in ", shape);
  size_t bytes = 0;
  CHECK(!__builtin_mul_overflow(static_cast<size_t>(shape.numel()), dtype_size(dtype), &bytes),
        function, ": shape ", shape, " of ", dtype_name(dtype), " is too large");
  return bytes;
}

}  // namespace

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  const size_t bytes = bytes_of("Tensor::empty", shape, dtype);
  Tensor t;
  t.shape_ = shape;
  t.strides_ = contiguous_strides(shape);
  t.dtype_ = dtype;
  t.storage_ = std::make_shared<Storage>(bytes, device);
  return t;
}

Tensor Tensor::zeros(const Shape& shape, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  if (device.is_cpu()) {
    std::memset(t.raw(), 0, t.nbytes());
  } else {
    t.fill(0);
  }
  return t;
}

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  t.fill(value);
  return t;
}

Tensor Tensor::from_bytes(const void* values, size_t count, const Shape& shape, DType dtype) {
  CHECK(static_cast<int64_t>(count) == shape.numel(), "Tensor::from: ", count,
        " values do not fill shape ", shape);
  Tensor t = empty(shape, dtype);
  if (count) std::memcpy(t.raw(), values, t.nbytes());
  return t;
}

Tensor Tensor::wrap(void* data, const Shape& shape, DType dtype, std::shared_ptr<void> owner,
                    bool read_only) {
  CHECK(owner != nullptr, "Tensor::wrap: needs an owner for the memory");
  Tensor t;
  t.shape_ = shape;
  t.strides_ = contiguous_strides(shape);
  t.dtype_ = dtype;
  t.storage_ = std::make_shared<Storage>(data, bytes_of("Tensor::wrap", shape, dtype),
                                         std::move(owner), read_only);
  return t;
}

bool Tensor::is_contiguous() const {
  int64_t step = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (shape_[i] != 1 && strides_[i] != step) return numel() == 0;
    step *= shape_[i];
  }
  return true;
}

void* Tensor::raw() const {
  CHECK(storage_ != nullptr, "Tensor: used before it holds anything");
  return static_cast<std::byte*>(storage_->data) + offset_ * dtype_size(dtype_);
}

Tensor Tensor::view(Shape shape) const {
  CHECK(is_contiguous(), "Tensor::view: tensor of shape ", shape_,
        " is not contiguous; use reshape");
  int64_t known = 1;
  int unknown = -1;
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] == -1) {
      CHECK(unknown < 0, "Tensor::view: more than one -1 in ", shape);
      unknown = i;
    } else {
      known *= shape[i];
    }
  }
  if (unknown >= 0) {
    CHECK(known > 0 && numel() % known == 0, "Tensor::view: cannot view ", shape_, " as ", shape);
    shape[unknown] = numel() / known;
  }
  CHECK(shape.numel() == numel(), "Tensor::view: cannot view ", shape_, " as ", shape);
  Tensor t = *this;
  t.shape_ = shape;
  t.strides_ = contiguous_strides(shape);
  return t;
}

Tensor Tensor::reshape(Shape shape) const {
  return contiguous().view(shape);
}

Tensor Tensor::permute(std::span<const int> order) const {
  CHECK(static_cast<int>(order.size()) == rank(), "Tensor::permute: ", order.size(),
        " axes given for shape ", shape_);
  Tensor t = *this;
  unsigned seen = 0;
  for (int i = 0; i < rank(); ++i) {
    const int axis = order[i] < 0 ? order[i] + rank() : order[i];
    CHECK(axis >= 0 && axis < rank() && !(seen >> axis & 1u),
          "Tensor::permute: axes must be a permutation of 0..", rank() - 1);
    seen |= 1u << axis;
    t.shape_[i] = shape_[axis];
    t.strides_[i] = strides_[axis];
  }
  return t;
}

Tensor Tensor::transpose(int i, int j) const {
  Tensor t = *this;
  std::swap(t.shape_[i], t.shape_[j]);
  std::swap(t.strides_[i], t.strides_[j]);
  return t;
}

Tensor Tensor::slice(int axis, int64_t begin, int64_t end) const {
  if (axis < 0) axis += rank();
  CHECK(axis >= 0 && axis < rank() && 0 <= begin && begin <= end && end <= shape_[axis],
        "Tensor::slice: [", begin, ", ", end, ") of axis ", axis, " does not fit shape ", shape_);
  Tensor t = *this;
  t.offset_ += begin * strides_[axis];
  t.shape_[axis] = end - begin;
  return t;
}

Tensor Tensor::select(int axis, int64_t index) const {
  return slice(axis, index, index + 1).squeeze(axis);
}

Tensor Tensor::expand(const Shape& shape) const {
  CHECK(broadcast_shapes(shape_, shape) == shape, "Tensor::expand: ", shape_,
        " does not broadcast to ", shape);
  Tensor t = *this;
  t.shape_ = shape;
  t.strides_ = shape;
  const int lead = shape.rank() - rank();
  for (int i = 0; i < shape.rank(); ++i) {
    const bool stretched = i < lead || shape_[i - lead] != shape[i];
    t.strides_[i] = stretched ? 0 : strides_[i - lead];
  }
  return t;
}

Tensor Tensor::unsqueeze(int axis) const {
  if (axis < 0) axis += rank() + 1;
  Tensor t = *this;
  t.strides_.insert(axis, axis < rank() ? shape_[axis] * strides_[axis] : 1);
  t.shape_.insert(axis, 1);
  return t;
}

Tensor Tensor::squeeze(int axis) const {
  if (axis < 0) axis += rank();
  CHECK(shape_[axis] == 1, "Tensor::squeeze: axis ", axis, " of ", shape_, " is not 1");
  Tensor t = *this;
  t.shape_.erase(axis);
  t.strides_.erase(axis);
  return t;
}

Tensor Tensor::contiguous() const {
  if (numel() == 0) return view(shape_);  // any strides count as contiguous: give the usual ones
  return is_contiguous() ? *this : clone();
}

Tensor Tensor::clone() const {
  Tensor t = empty(shape_, dtype_, device());
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_) return *this;
  Tensor t = empty(shape_, dtype, device());
  t.copy_from(*this);
  return t;
}

Tensor Tensor::to(Device target) const {
  if (target == device()) return *this;
  Tensor t = empty(shape_, dtype_, target);
  t.copy_from(*this);
  return t;
}

double Tensor::item() const {
  CHECK(numel() == 1, "Tensor::item: expected one element, got shape ", shape_);
  return to_vector()[0];
}

void check_shape(std::string_view function, std::string_view name, const Tensor& t,
                 const Shape& expected) {
  CHECK(t.defined() && t.shape() == expected, function, ": ", name, " has shape ",
        t.defined() ? to_string(t.shape()) : "(nothing)", ", expected ", expected);
}

}  // namespace parlo
