// A batch of linear as parts of consecutive rows that have one adapter or none.
#pragma once

#include <vector>

#include "kernels/matmul.h"

namespace parlo {

// All rows in order; a part without an adapter has no `a`.
inline std::vector<LowRankRows> linear_parts(const LinearArgs& args, int64_t rows) {
  if (args.low_rank) return {{0, rows, *args.low_rank}};
  std::vector<LowRankRows> parts;
  int64_t row = 0;
  for (const LowRankRows& s : args.low_rank_rows) {
    if (s.first > row) parts.push_back({row, s.first - row, {}});
    parts.push_back(s);
    row = s.first + s.rows;
  }
  if (row < rows) parts.push_back({row, rows - row, {}});
  return parts;
}

// What rows [begin, end) have besides low-rank terms.
inline LinearArgs linear_args_of(const LinearArgs& args, int64_t begin, int64_t end) {
  const auto rows = [&](const Tensor& t) { return t ? t.slice(0, begin, end) : t; };
  LinearArgs part;
  part.bias = args.bias, part.activation = args.activation;
  part.pre_activation = rows(args.pre_activation), part.residual = rows(args.residual);
  return part;
}

}  // namespace parlo
