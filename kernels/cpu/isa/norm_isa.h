// Layer and RMS norm over a block of rows that share their gain and offset (weight, bias and
// modulation folded together). Plain pointers to the block's first row, null where absent.
#pragma once

#include <cstdint>

namespace parlo::cpu {

template <class T>
struct NormBlock {
  const T* x = nullptr;
  const T* gain = nullptr;    // null: 1
  const T* offset = nullptr;  // null: 0
  int64_t rows = 0;
  int64_t columns = 0;
  double eps = 0;
  T* y = nullptr;     // forward
  T* mean = nullptr;  // written by the forward, read by the backward; unused by RMS norm
  T* rstd = nullptr;
  const T* dy = nullptr;  // backward
  T* dx = nullptr;
  // Column sums over the block's rows, added to: of dy xhat and of dy.
  T* dy_xhat = nullptr;
  T* dy_sum = nullptr;
};

struct NormIsa {
  void (*layer_norm)(const NormBlock<float>&);
  void (*layer_norm_backward)(const NormBlock<float>&);
  void (*rms_norm)(const NormBlock<float>&);
  void (*rms_norm_backward)(const NormBlock<float>&);
};
extern const NormIsa norm_avx2, norm_avx512;

}  // namespace parlo::cpu
