// Element-wise maps (kernels/elementwise.h) on a GPU, f32 and bf16.
#include "kernels/elementwise.h"

#include "kernels/cuda/map.cuh"
#include "kernels/cuda/math.cuh"

namespace parlo::cuda {
namespace {

template <Unary F>
struct UnaryOf {
  __device__ float operator()(float x) const { return apply<F>(x); }
};
template <Unary F>
struct UnarySlope {
  __device__ float operator()(float x, float y, float dy) const {
    return apply_backward<F>(x, y, dy);
  }
};
template <Activation F>
struct ActivationOf {
  __device__ float operator()(float x) const { return activate<F>(x); }
};
template <Activation F>
struct ActivationSlope {
  __device__ float operator()(float x, float dy) const { return activation_slope<F>(x) * dy; }
};
struct AxpBy {
  float alpha, beta;
  __device__ float operator()(float x, float y) const { return fmaf(alpha, x, beta * y); }
};
struct ScaleShift {
  float alpha, c;
  __device__ float operator()(float x) const { return fmaf(alpha, x, c); }
};

}  // namespace

void unary(Unary f, const Tensor& x, const Tensor& y) {
  check_operand("unary", "x", x, x.dtype(), x.numel());
  check_output("unary", "y", y, x.dtype(), x.numel());
  check_same_device("unary", x, y);
  visit_dtype_gpu(x.dtype(), "unary", [&](auto type) {
    using T = decltype(type);
    visit_unary(f, [&](auto which) {
      map("unary", UnaryOf<which.value>{}, y, x.numel(), pointer<T>(y), pointer<const T>(x));
    });
  });
}

void unary_backward(Unary f, const Tensor& x, const Tensor& y, const Tensor& dy, const Tensor& dx) {
  const char* name = "unary_backward";
  check_operand(name, "x", x, x.dtype(), x.numel());
  check_operand(name, "y", y, x.dtype(), x.numel());
  check_operand(name, "dy", dy, x.dtype(), x.numel());
  check_output(name, "dx", dx, x.dtype(), x.numel());
  check_same_device(name, x, y, dy, dx);
  visit_dtype_gpu(x.dtype(), name, [&](auto type) {
    using T = decltype(type);
    visit_unary(f, [&](auto which) {
      map(name, UnarySlope<which.value>{}, dx, x.numel(), pointer<T>(dx), pointer<const T>(x),
          pointer<const T>(y), pointer<const T>(dy));
    });
  });
}

void activation(Activation f, const Tensor& x, const Tensor& y) {
  check_operand("activation", "x", x, x.dtype(), x.numel());
  check_output("activation", "y", y, x.dtype(), x.numel());
  check_same_device("activation", x, y);
  visit_dtype_gpu(x.dtype(), "activation", [&](auto type) {
    using T = decltype(type);
    visit_activation(f, [&](auto which) {
      map("activation", ActivationOf<which.value>{}, y, x.numel(), pointer<T>(y),
          pointer<const T>(x));
    });
  });
}

void activation_backward(Activation f, const Tensor& x, const Tensor& dy, const Tensor& dx) {
  const char* name = "activation_backward";
  check_operand(name, "x", x, x.dtype(), x.numel());
  check_operand(name, "dy", dy, x.dtype(), x.numel());
  check_output(name, "dx", dx, x.dtype(), x.numel());
  check_same_device(name, x, dy, dx);
  visit_dtype_gpu(x.dtype(), name, [&](auto type) {
    using T = decltype(type);
    visit_activation(f, [&](auto which) {
      map(name, ActivationSlope<which.value>{}, dx, x.numel(), pointer<T>(dx), pointer<const T>(x),
          pointer<const T>(dy));
    });
  });
}

void axpby(double alpha, const Tensor& x, double beta, const Tensor& y) {
  check_operand("axpby", "x", x, x.dtype(), x.numel());
  check_output("axpby", "y", y, x.dtype(), x.numel());
  check_same_device("axpby", x, y);
  if (beta == 0) return scale_shift(alpha, 0, x, y);  // y may hold anything
  const auto a = static_cast<float>(alpha), b = static_cast<float>(beta);
  visit_dtype_gpu(x.dtype(), "axpby", [&](auto type) {
    using T = decltype(type);
    map("axpby", AxpBy{a, b}, y, x.numel(), pointer<T>(y), pointer<const T>(x),
        pointer<const T>(y));
  });
}

void scale_shift(double alpha, double c, const Tensor& x, const Tensor& y) {
  check_operand("scale_shift", "x", x, x.dtype(), x.numel());
  check_output("scale_shift", "y", y, x.dtype(), x.numel());
  check_same_device("scale_shift", x, y);
  visit_dtype_gpu(x.dtype(), "scale_shift", [&](auto type) {
    using T = decltype(type);
    map("scale_shift", ScaleShift{static_cast<float>(alpha), static_cast<float>(c)}, y, x.numel(),
        pointer<T>(y), pointer<const T>(x));
  });
}

}  // namespace parlo::cuda
