// Checks of the operands of gate_residual and its backward that both backends make.
#pragma once

#include <algorithm>

#include "kernels/checks.h"

namespace parlo {

struct GateShape {
  int64_t rows, columns, groups, rows_per_group;
};

inline GateShape check_gate(std::string_view function, const Tensor& gate, const Tensor& y,
                            DType gate_dtype) {
  const int64_t C = columns_of(function, y);
  const int64_t rows = C ? y.numel() / C : 0;
  const bool matrix = gate.defined() && gate.dtype() == gate_dtype && gate.rank() == 2 &&
                      gate.dim(1) == C && (gate.strides()[1] == 1 || C <= 1);
  const int64_t G = matrix ? gate.dim(0) : 0;
  CHECK(matrix && (G ? rows % G == 0 : rows == 0), function, ": gate has shape ",
        gate.defined() ? to_string(gate.shape()) : "(nothing)", ", expected [G, ", C,
        "] with unit column stride and G dividing ", rows, " rows");
  return {rows, C, G, G ? std::max<int64_t>(1, rows / G) : 1};
}

}  // namespace parlo
