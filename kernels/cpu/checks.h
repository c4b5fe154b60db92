// Checks and chunk sizes shared by the CPU kernels. The split of every loop depends on the shape
// alone: results are the same bits for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "tensor/tensor.h"

namespace parlo::cpu {

// Elements per chunk of parallel_for: about 10 us of work, so that less stays serial.
inline constexpr int64_t kGrain = int64_t{1} << 15;

inline int64_t row_grain(int64_t row_elements) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, row_elements));
}

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

// The pointer of an optional operand.
template <class T>
T* data_or_null(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}

// Rows of C = last axis.
inline int64_t columns_of(std::string_view function, const Tensor& x) {
  CHECK(x.defined() && x.rank() >= 1, function, ": expected rows [R, C], got ",
        x.defined() ? to_string(x.shape()) : "(nothing)");
  return x.dim(-1);
}

// sum[c] += rows [count, columns] of partial sums, in their order.
template <class T>
void add_rows(const T* rows, int64_t count, int64_t columns, double* sum) {
  for (int64_t k = 0; k < count; ++k, rows += columns)
    for (int64_t c = 0; c < columns; ++c) sum[c] += rows[c];
}

}  // namespace parlo::cpu
