// out = residual + gate * y with one gate row per group of rows (adaLN-Zero), and its gradients.
// dgate is summed over blocks of a group's rows, which depend on the group's shape alone.
#include <algorithm>
#include <vector>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/isa/elementwise_isa.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/elementwise.h"
#include "kernels/gate_checks.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

template <class T>
void gate_row(const T* residual, const T* gate, const T* y, T* out, int64_t n) {
  if constexpr (std::is_same_v<T, float>)
    return PARLO_ISA_TABLE(elementwise).gate(residual, gate, y, out, n);
  for (int64_t c = 0; c < n; ++c) out[c] = residual[c] + gate[c] * y[c];
}

template <class T>
void gate_backward_row(const T* gate, const T* y, const T* dout, T* dgate, T* dy, int64_t n) {
  if constexpr (std::is_same_v<T, float>)
    return PARLO_ISA_TABLE(elementwise).gate_backward(gate, y, dout, dgate, dy, n);
  if (dgate)
    for (int64_t c = 0; c < n; ++c) dgate[c] += y[c] * dout[c];
  if (dy)
    for (int64_t c = 0; c < n; ++c) dy[c] = gate[c] * dout[c];
}

}  // namespace

void gate_residual(const Tensor& residual, const Tensor& gate, const Tensor& y, const Tensor& out) {
  const GateShape s = check_gate("gate_residual", gate, y, y.dtype());
  check_operand("gate_residual", "y", y, y.dtype(), y.numel());
  check_operand("gate_residual", "residual", residual, y.dtype(), y.numel());
  check_output("gate_residual", "out", out, y.dtype(), y.numel());
  visit_float(y.dtype(), "gate_residual", [&](auto type) {
    using T = decltype(type);
    const int64_t C = s.columns, stride = gate.strides()[0];
    const T *g = gate.data<T>(), *r = residual.data<T>(), *from = y.data<T>();
    T* to = out.data<T>();
    parallel_for(s.rows, row_grain(C), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        gate_row(r + i * C, g + i / s.rows_per_group * stride, from + i * C, to + i * C, C);
    });
  });
}

void gate_residual_backward(const Tensor& gate, const Tensor& y, const Tensor& dout,
                            const Tensor& dgate, const Tensor& dy) {
  const char* name = "gate_residual_backward";
  const GateShape s = check_gate(name, gate, dout, dout.dtype());
  check_operand(name, "dout", dout, gate.dtype(), s.rows * s.columns);
  if (dgate) {
    check_operand(name, "y", y, gate.dtype(), s.rows * s.columns);
    check_output(name, "dgate", dgate, gate.dtype(), s.groups * s.columns);
    if (s.rows == 0) dgate.fill(0);
  }
  if (dy) check_output(name, "dy", dy, gate.dtype(), s.rows * s.columns);
  if (s.rows == 0) return;
  const int64_t C = s.columns, stride = gate.strides()[0];
  const int64_t block = std::min(s.rows_per_group, row_grain(C));
  const int64_t per_group = ceil_div(s.rows_per_group, block), blocks = s.groups * per_group;
  visit_float(gate.dtype(), name, [&](auto type) {
    using T = decltype(type);
    const Tensor partial = dgate ? Tensor::zeros({blocks, C}, gate.dtype()) : Tensor();
    parallel_for(blocks, row_grain(block * C), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const int64_t group = k / per_group;
        const int64_t first = group * s.rows_per_group + k % per_group * block;
        const int64_t last = std::min(first + block, (group + 1) * s.rows_per_group);
        for (int64_t i = first; i < last; ++i)
          gate_backward_row(gate.data<T>() + group * stride, dgate ? y.data<T>() + i * C : nullptr,
                            dout.data<T>() + i * C, dgate ? partial.data<T>() + k * C : nullptr,
                            dy ? dy.data<T>() + i * C : nullptr, C);
      }
    });
    if (!dgate) return;
    std::vector<double> sum(static_cast<size_t>(C));
    for (int64_t g = 0; g < s.groups; ++g) {
      std::fill(sum.begin(), sum.end(), 0.0);
      add_rows(partial.data<T>() + g * per_group * C, per_group, C, sum.data());
      T* to = dgate.data<T>() + g * C;
      for (int64_t c = 0; c < C; ++c) to[c] = static_cast<T>(sum[static_cast<size_t>(c)]);
    }
  });
}

}  // namespace parlo::cpu
