// Checks of the operands of glu and its backward that both backends make.
#pragma once

#include "kernels/checks.h"

namespace parlo {

inline void check_glu_operand(std::string_view function, std::string_view name, const Tensor& t,
                              const Tensor& a) {
  CHECK(t.defined() && t.rank() == 2 && (t.strides()[1] == 1 || t.dim(1) <= 1), function, ": ",
        name, " has shape ", t.defined() ? to_string(t.shape()) : "(nothing)",
        ", expected rows [R, F] with unit column stride");
  check_shape(function, name, t, a.shape());
  CHECK(t.dtype() == a.dtype(), function, ": ", name, " has dtype ", dtype_name(t.dtype()),
        ", expected ", dtype_name(a.dtype()));
}

inline void check_glu_output(std::string_view function, std::string_view name, const Tensor& t,
                             const Tensor& a) {
  check_glu_operand(function, name, t, a);
  CHECK(!t.read_only(), function, ": ", name, " is a read-only mapping");
}

// Of rows [R, 2 F] the columns of the gate (0) or of what it gates (1).
inline Tensor glu_half(const Tensor& halves, int64_t i) {
  const int64_t F = halves.dim(1) / 2;
  return halves.slice(1, i * F, (i + 1) * F);
}

inline void check_glu(const Tensor& a, const Tensor& b, const Tensor& y) {
  check_glu_operand("glu", "a", a, a);
  check_glu_operand("glu", "b", b, a);
  check_glu_output("glu", "y", y, a);
}

inline void check_glu_backward(const Tensor& a, const Tensor& b, const Tensor& dy, const Tensor& da,
                               const Tensor& db) {
  const char* name = "glu_backward";
  check_glu_operand(name, "a", a, a);
  check_glu_operand(name, "b", b, a);
  check_glu_operand(name, "dy", dy, a);
  if (da) check_glu_output(name, "da", da, a);
  if (db) check_glu_output(name, "db", db, a);
}

}  // namespace parlo
