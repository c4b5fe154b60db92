// Element-wise maps, f32 and f64. f32 transcendental functions are SIMD polynomials (relative
// error <= 1e-6), never libm calls in a loop.
#pragma once

#include "kernels/matmul.h"
#include "tensor/tensor.h"

namespace parlo {

enum class Unary { neg, exp, log, sqrt, rsqrt, square, abs, sin, cos, tanh, sigmoid, relu };
enum class Binary { add, sub, mul, div, min, max };

namespace cpu {

// y[i] = f(x[i]); contiguous, may alias.
void unary(Unary f, const Tensor& x, const Tensor& y);
// dx[i] = f'(x[i]) * dy[i]; y is the forward's output (read by exp, sqrt, tanh, sigmoid ...).
void unary_backward(Unary f, const Tensor& x, const Tensor& y, const Tensor& dy, const Tensor& dx);

// y = activation(x), dx = activation'(x) * dy; contiguous.
void activation(Activation f, const Tensor& x, const Tensor& y);
void activation_backward(Activation f, const Tensor& x, const Tensor& dy, const Tensor& dx);

// out = a (op) b, where a and b are any strided views already expanded to out's shape; out is
// contiguous and may alias a contiguous operand.
void binary(Binary f, const Tensor& a, const Tensor& b, const Tensor& out);

// y = alpha * x + beta * y; y = alpha * x + c.
void axpby(double alpha, const Tensor& x, double beta, const Tensor& y);
void scale_shift(double alpha, double c, const Tensor& x, const Tensor& y);

// out[r, c] = residual[r, c] + gate[r / (R / G), c] * y[r, c]: x, y, out [R, C]; gate [G, C], rows
// may be strided.
void gate_residual(const Tensor& residual, const Tensor& gate, const Tensor& y, const Tensor& out);
// dy = gate * dout; dgate[g] = sum over the group's rows of y * dout. Undefined outputs are
// skipped.
void gate_residual_backward(const Tensor& gate, const Tensor& y, const Tensor& dout,
                            const Tensor& dgate, const Tensor& dy);

// True when every element is finite.
bool all_finite(const Tensor& x);

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::unary) unary;
decltype(cpu::unary_backward) unary_backward;
decltype(cpu::activation) activation;
decltype(cpu::activation_backward) activation_backward;
decltype(cpu::binary) binary;
decltype(cpu::axpby) axpby;
decltype(cpu::scale_shift) scale_shift;
decltype(cpu::gate_residual) gate_residual;
decltype(cpu::gate_residual_backward) gate_residual_backward;
decltype(cpu::all_finite) all_finite;
}  // namespace cuda
}  // namespace parlo
