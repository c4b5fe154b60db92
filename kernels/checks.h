// Checks of operands that both backends make.
#pragma once

#include <cstdint>
#include <string_view>

#include "tensor/tensor.h"

namespace parlo {

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// A defined, contiguous operand of that dtype with that many elements.
inline void check_operand(std::string_view function, std::string_view name, const Tensor& t,
                          DType dtype, int64_t numel) {
  CHECK(t.defined(), function, ": ", name, " is missing");
  CHECK(t.dtype() == dtype, function, ": ", name, " has dtype ", dtype_name(t.dtype()),
        ", expected ", dtype_name(dtype));
  CHECK(t.numel() == numel, function, ": ", name, " has shape ", t.shape(), ", expected ", numel,
        " elements");
  CHECK(t.is_contiguous(), function, ": ", name, " of shape ", t.shape(),
        " is not contiguous; call contiguous() first");
}

inline void check_output(std::string_view function, std::string_view name, const Tensor& t,
                         DType dtype, int64_t numel) {
  check_operand(function, name, t, dtype, numel);
  CHECK(!t.read_only(), function, ": ", name, " is a read-only mapping");
}

// Rows of C = last axis.
inline int64_t columns_of(std::string_view function, const Tensor& x) {
  CHECK(x.defined() && x.rank() >= 1, function, ": expected rows [R, C], got ",
        x.defined() ? to_string(x.shape()) : "(nothing)");
  return x.dim(-1);
}

}  // namespace parlo
