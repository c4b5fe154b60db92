// The linear map of one axis of a resize (kernels/resize.h) as a table, the same on every device,
// and the checks of its operands.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/checks.h"
#include "kernels/resize.h"

namespace parlo {

// Result i is the sum of weights[i taps + k] times element first[i] + k, k < count[i].
struct ResizeTable {
  int64_t taps = 0;
  std::vector<int32_t> first, count;
  std::vector<double> weights;

  int64_t size() const { return static_cast<int64_t>(first.size()); }
  const double* row(int64_t i) const { return weights.data() + i * taps; }
};

// Keys' cubic; a triangle for bilinear.
inline double resize_filter(Interpolation mode, double x, double a) {
  x = std::abs(x);
  if (mode == Interpolation::bilinear) return std::max(0.0, 1 - x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? a * (((x - 5) * x + 8) * x - 4) : 0;
}

// Weights by element from `begin` on; what lies outside counts for the nearest end. Zeros at the
// ends are dropped, so that what is not looked at may hold anything.
inline void add_row(ResizeTable* table, int64_t in, int64_t begin, std::vector<double> row) {
  while (row.back() == 0) row.pop_back();
  while (row.front() == 0) row.erase(row.begin()), ++begin;
  const auto place = [&](int64_t at) { return std::clamp<int64_t>(at, 0, in - 1); };
  const int64_t first = place(begin);
  const int64_t count = place(begin + static_cast<int64_t>(row.size()) - 1) - first + 1;
  table->first.push_back(static_cast<int32_t>(first));
  table->count.push_back(static_cast<int32_t>(count));
  const size_t at = table->weights.size();
  table->weights.resize(at + static_cast<size_t>(table->taps));
  for (size_t k = 0; k < row.size(); ++k) {
    const int64_t to = place(begin + static_cast<int64_t>(k)) - first;
    table->weights[at + static_cast<size_t>(to)] += row[k];
  }
}

inline ResizeTable resize_table(int64_t in, int64_t out, const ResizeArgs& args) {
  const int64_t half = args.mode == Interpolation::bicubic ? 2 : 1;
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double stretch = args.antialias ? std::max(1.0, scale) : 1.0;
  const double support = static_cast<double>(half) * stretch;
  ResizeTable table;
  table.taps = args.antialias ? static_cast<int64_t>(std::ceil(support)) * 2 + 1 : 2 * half;
  for (int64_t i = 0; i < out; ++i) {
    std::vector<double> row;
    int64_t begin = 0;
    double centre = (static_cast<double>(i) + 0.5) * scale, sum = 0;
    if (args.mode == Interpolation::nearest) {
      begin = i * in / out, row = {1};
    } else if (args.antialias) {
      begin = std::max<int64_t>(static_cast<int64_t>(centre - support + 0.5), 0);
      const int64_t end = std::min(static_cast<int64_t>(centre + support + 0.5), in);
      for (int64_t k = begin; k < end; ++k) {
        const double x = (static_cast<double>(k) - centre + 0.5) / stretch;
        row.push_back(resize_filter(args.mode, x, -0.5));
        sum += row.back();
      }
      for (double& w : row) w /= sum;
    } else {
      centre -= 0.5;
      if (args.mode == Interpolation::bilinear) centre = std::max(centre, 0.0);
      begin = static_cast<int64_t>(std::floor(centre)) - half + 1;
      for (int64_t k = begin; k < begin + 2 * half; ++k)
        row.push_back(resize_filter(args.mode, static_cast<double>(k) - centre, -0.75));
    }
    add_row(&table, in, begin, row);
  }
  return table;
}

// The map of the gradient: element j of the input meets the results first[j] .. of its own row.
inline ResizeTable transpose(const ResizeTable& table, int64_t in) {
  std::vector<std::vector<double>> rows(static_cast<size_t>(in));
  ResizeTable turned;
  turned.first.assign(static_cast<size_t>(in), 0);
  for (int64_t i = 0; i < table.size(); ++i) {
    const auto at = static_cast<size_t>(i);
    for (int64_t k = 0; k < table.count[at]; ++k) {
      const auto j = static_cast<size_t>(table.first[at] + k);
      if (rows[j].empty()) turned.first[j] = static_cast<int32_t>(i);
      // Results that pass over an element between two others count with 0.
      rows[j].resize(static_cast<size_t>(i - turned.first[j]));
      rows[j].push_back(table.row(i)[k]);
      turned.taps = std::max(turned.taps, static_cast<int64_t>(rows[j].size()));
    }
  }
  for (std::vector<double>& row : rows) {
    turned.count.push_back(static_cast<int32_t>(row.size()));
    row.resize(static_cast<size_t>(turned.taps));
    turned.weights.insert(turned.weights.end(), row.begin(), row.end());
  }
  return turned;
}

inline void check_resize(const char* function, const Tensor& x, const Tensor& y,
                         const ResizeArgs& args) {
  CHECK(x.rank() >= 3 && x.rank() <= 5 && y.rank() == x.rank() && x.dim(0) == y.dim(0) &&
            x.dim(1) == y.dim(1),
        function, ": cannot turn ", x.shape(), " into ", y.shape(),
        ", expected (B, C, ...) of rank 3 to 5 with the same B and C");
  CHECK(args.mode != Interpolation::nearest || !args.antialias, function,
        ": nearest has no antialias");
  for (int i = 2; i < x.rank(); ++i) {
    CHECK(x.dim(i) > 0 && y.dim(i) > 0, function, ": ", x.shape(), " or ", y.shape(),
          " has an empty axis");
  }
  check_operand(function, "input", x, x.dtype(), x.numel());
  check_output(function, "output", y, x.dtype(), y.numel());
}

}  // namespace parlo
