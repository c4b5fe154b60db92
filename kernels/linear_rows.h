// A batch of linear as parts of consecutive rows that have one adapter or none.
#pragma once

#include <algorithm>
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
  part.gate = args.gate, part.gate.first += begin;
  return part;
}

// Calls fn(begin, end, gates) for all rows: `gates` share rows [begin, end) in equal parts.
template <class Fn>
void each_gate(const RowGate& gate, int64_t rows, Fn&& fn) {
  for (int64_t row = 0; row < rows;) {
    const int64_t index = (gate.first + row) / gate.rows, within = (gate.first + row) % gate.rows;
    const int64_t whole = within == 0 ? (rows - row) / gate.rows : 0;
    const int64_t gates = std::max<int64_t>(1, whole);
    const int64_t end =
        whole > 0 ? row + whole * gate.rows : std::min(rows, row + gate.rows - within);
    fn(row, end, gate.values.slice(0, index, index + gates));
    row = end;
  }
}

}  // namespace parlo
