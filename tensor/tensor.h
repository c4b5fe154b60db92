// Tensor: a shared handle on storage with shape and strides (in elements). Copying the handle
// shares the data; views share storage; clone() copies. No arithmetic and no gradients here.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "tensor/device.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace parlo {

// One block of bytes on one device. `keep_alive` owns foreign memory such as a mapped file.
struct Storage {
  void* data = nullptr;
  size_t bytes = 0;
  Device device;
  bool read_only = false;
  std::shared_ptr<void> keep_alive;

  Storage(size_t bytes, Device device);
  Storage(void* data, size_t bytes, std::shared_ptr<void> owner, bool read_only);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
};

class Tensor {
 public:
  Tensor() = default;

  // Uninitialised memory.
  static Tensor empty(const Shape& shape, DType dtype = DType::f32, Device device = {});
  static Tensor zeros(const Shape& shape, DType dtype = DType::f32, Device device = {});
  static Tensor full(const Shape& shape, double value, DType dtype = DType::f32,
                     Device device = {});
  static Tensor empty_like(const Tensor& t) { return empty(t.shape(), t.dtype(), t.device()); }
  static Tensor zeros_like(const Tensor& t) { return zeros(t.shape(), t.dtype(), t.device()); }
  // Copies values; their number must fit the shape.
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape) {
    return from_bytes(values.data(), values.size(), shape, dtype_of<T>);
  }
  // A tensor over memory somebody else owns.
  static Tensor wrap(void* data, const Shape& shape, DType dtype, std::shared_ptr<void> owner,
                     bool read_only);

  bool defined() const { return storage_ != nullptr; }
  explicit operator bool() const { return defined(); }
  const Shape& shape() const { return shape_; }
  const Shape& strides() const { return strides_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t numel() const { return shape_.numel(); }
  size_t nbytes() const { return static_cast<size_t>(numel()) * dtype_size(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return storage_ ? storage_->device : Device{}; }
  bool is_contiguous() const;
  bool read_only() const { return storage_ && storage_->read_only; }
  const std::shared_ptr<Storage>& storage() const { return storage_; }

  // Pointer to the first element; T must be the dtype's type. The handle is shared, so a const
  // Tensor gives a mutable pointer.
  template <class T>
  T* data() const {
    CHECK(dtype_of<T> == dtype_, "Tensor::data: tensor holds ", dtype_name(dtype_), ", asked for ",
          dtype_name(dtype_of<T>));
    return static_cast<T*>(raw());
  }
  void* raw() const;
  template <class T>
  std::span<T> span() const {
    CHECK(is_contiguous(), "Tensor::span: tensor is not contiguous, call contiguous() first");
    return {data<T>(), static_cast<size_t>(numel())};
  }

  // Views. view() needs contiguity and takes one -1; reshape() copies when it must.
  Tensor view(Shape shape) const;
  Tensor reshape(Shape shape) const;
  Tensor permute(std::span<const int> order) const;
  Tensor permute(std::initializer_list<int> order) const {
    return permute(std::span(order.begin(), order.size()));
  }
  Tensor transpose(int i, int j) const;
  Tensor slice(int axis, int64_t begin, int64_t end) const;  // [begin, end)
  Tensor select(int axis, int64_t index) const;              // drops the axis
  Tensor expand(const Shape& shape) const;                   // broadcast, stride 0
  Tensor unsqueeze(int axis) const;
  Tensor squeeze(int axis) const;

  // Copies.
  Tensor contiguous() const;  // itself when contiguous
  Tensor clone() const;
  Tensor to(DType dtype) const;  // itself when it has that dtype
  Tensor to(Device device) const;
  // Same shape, any strides and dtypes; the two may overlap. Conversion to an integer truncates and
  // stops at the ends of its range, NaN becomes 0.
  void copy_from(const Tensor& src) const;
  void fill(double value) const;
  double item() const;                    // the only element, as double
  std::vector<double> to_vector() const;  // row-major values as double

 private:
  static Tensor from_bytes(const void* values, size_t count, const Shape& shape, DType dtype);

  std::shared_ptr<Storage> storage_;
  int64_t offset_ = 0;  // elements
  Shape shape_;
  Shape strides_;
  DType dtype_ = DType::f32;
};

// Row-major strides of a shape.
Shape contiguous_strides(const Shape& shape);

// Throws Error "FUNCTION: NAME has shape S, expected E" unless t has the shape.
void check_shape(std::string_view function, std::string_view name, const Tensor& t,
                 const Shape& expected);

}  // namespace parlo
