// The window matrix of a convolution: row (channel, kernel depth, height, column) and column
// (output position) hold the element of the image that this tap of this window meets. Parts of it
// are written where they are needed; all of it never exists.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/conv_checks.h"
#include "kernels/cpu/gemm.h"

namespace parlo::cpu {

// The input position under tap k of output position i; -1 outside.
inline int64_t window_position(const ConvSizes& c, size_t axis, int64_t i, int64_t k) {
  const int64_t at = i * c.stride[axis] + k - c.before[axis], last = c.size[axis] - 1;
  if (c.border == Border::replicate) return std::clamp<int64_t>(at, 0, last);
  return at <= last ? std::max<int64_t>(at, -1) : -1;
}

// Output columns [begin, end) read input columns inside the image for one kernel column: column j
// reads j stride + shift.
struct InsideColumns {
  int64_t begin, end, shift;
};

inline std::vector<InsideColumns> inside_columns(const ConvSizes& c) {
  const auto ceil_div = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  std::vector<InsideColumns> out;
  for (int64_t k = 0; k < c.kernel[2]; ++k) {
    InsideColumns in{0, 0, k - c.before[2]};
    if (in.shift < 0) in.begin = std::min(ceil_div(-in.shift, c.stride[2]), c.result[2]);
    if (in.shift < c.size[2]) in.end = (c.size[2] - 1 - in.shift) / c.stride[2] + 1;
    in.end = std::clamp(in.end, in.begin, c.result[2]);
    out.push_back(in);
  }
  return out;
}

template <class T>
class WindowMatrix {
 public:
  // The image of one group of channels.
  WindowMatrix(const ConvSizes& sizes, const T* image)
      : c_(sizes), image_(image), columns_(inside_columns(sizes)) {}

  void write(const GemmBlock& block, T* out) const {
    const int64_t end = block.col + block.cols, width = c_.result[2];
    for (int64_t at = block.col; at < end;) {  // a line of output positions after the other
      const int64_t line = at / width, first = at % width, n = std::min(width - first, end - at);
      write_line(block, line, first, n, out + (at - block.col));
      at += n;
    }
    for (int64_t i = 0; block.cols < block.width && i < block.rows; ++i) {
      std::fill(out + i * block.width + block.cols, out + (i + 1) * block.width, T(0));
    }
  }

 private:
  // Columns [first, first + n) of a line of output positions, a row for each tap.
  void write_line(const GemmBlock& block, int64_t line, int64_t first, int64_t n, T* out) const {
    const int64_t q = line / c_.result[1], r = line % c_.result[1];
    int64_t j = block.k % c_.kernel[2], i = block.k / c_.kernel[2] % c_.kernel[1];
    int64_t d = block.k / (c_.kernel[2] * c_.kernel[1]) % c_.kernel[0];
    int64_t channel = block.k / c_.taps();
    const T* from = input_line(channel, q, r, d, i);
    for (int64_t row = 0; row < block.rows; ++row, out += block.width) {
      write_run(columns_[static_cast<size_t>(j)], from, first, n, out);
      if (++j < c_.kernel[2]) continue;
      j = 0;
      if (++i == c_.kernel[1]) i = 0, ++d;
      if (d == c_.kernel[0]) d = 0, ++channel;
      if (row + 1 < block.rows) from = input_line(channel, q, r, d, i);
    }
  }

  // Null where all of it lies outside.
  const T* input_line(int64_t channel, int64_t q, int64_t r, int64_t d, int64_t i) const {
    const int64_t z = window_position(c_, 0, q, d), y = window_position(c_, 1, r, i);
    if (z < 0 || y < 0) return nullptr;
    return image_ + ((channel * c_.size[0] + z) * c_.size[1] + y) * c_.size[2];
  }

  void write_run(const InsideColumns& in, const T* line, int64_t first, int64_t n, T* out) const {
    if (!line) return std::fill(out, out + n, T(0));
    if (c_.stride[2] == 1 && first >= in.begin && first + n <= in.end) {
      const T* from = line + first + in.shift;
      // The usual width of a panel, copied without a call.
      if (n == kPanel) {
        std::memcpy(out, from, kPanel * sizeof(T));
      } else {
        std::copy(from, from + n, out);
      }
      return;
    }
    const int64_t begin = std::clamp(in.begin - first, int64_t{0}, n);
    const int64_t end = std::clamp(in.end - first, begin, n);
    const bool replicate = c_.border == Border::replicate;
    std::fill(out, out + begin, replicate ? line[0] : T(0));
    const T* from = line + first * c_.stride[2] + in.shift;
    for (int64_t t = begin; t < end; ++t) out[t] = from[t * c_.stride[2]];
    std::fill(out + end, out + n, replicate ? line[c_.size[2] - 1] : T(0));
  }

  static constexpr int64_t kPanel = 48;

  const ConvSizes& c_;
  const T* image_;
  std::vector<InsideColumns> columns_;
};

}  // namespace parlo::cpu
