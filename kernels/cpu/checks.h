// Chunk sizes and helpers shared by the CPU kernels. The split of every loop depends on the shape
// alone: results are the same bits for any number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/checks.h"
#include "tensor/tensor.h"

namespace parlo::cpu {

// Elements per chunk of parallel_for: about 10 us of work, so that less stays serial.
inline constexpr int64_t kGrain = int64_t{1} << 15;

inline int64_t row_grain(int64_t row_elements) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, row_elements));
}

// The pointer of an optional operand.
template <class T>
T* data_or_null(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}

// sum[c] += rows [count, columns] of partial sums, in their order.
template <class T>
void add_rows(const T* rows, int64_t count, int64_t columns, double* sum) {
  for (int64_t k = 0; k < count; ++k, rows += columns)
    for (int64_t c = 0; c < columns; ++c) sum[c] += rows[c];
}

}  // namespace parlo::cpu
