// Arguments of the row-wise norms: plain pointers, null where an operand is absent.
#pragma once

#include <cstdint>

namespace parlo::cpu {

template <class T>
struct NormRows {
  const T* x = nullptr;
  const T* weight = nullptr;
  const T* bias = nullptr;
  const T* scale = nullptr;  // row r uses scale + (r / rows_per_group) * scale_stride
  const T* shift = nullptr;
  int64_t scale_stride = 0;
  int64_t shift_stride = 0;
  int64_t rows_per_group = 1;
  int64_t columns = 0;
  double eps = 0;
  T* y = nullptr;     // forward only
  T* mean = nullptr;  // written by the forward, read by the backward
  T* rstd = nullptr;
  const T* dy = nullptr;  // backward only
  T* dx = nullptr;
};

// Column sums of a block of rows are added to these [columns], null where not wanted.
template <class T>
struct NormSums {
  T* dweight = nullptr;
  T* dbias = nullptr;
  T* dscale = nullptr;
  T* dshift = nullptr;
};

}  // namespace parlo::cpu
