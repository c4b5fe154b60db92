// How sum_to walks a tensor: passes that each sum one run of neighbouring axes. Both backends.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "kernels/checks.h"

namespace parlo {

// rows: [outer, n] -> [outer]. Otherwise [outer, m, n] -> [outer, n].
struct SumPass {
  bool rows;
  int64_t outer, m, n;
};

inline void check_sum_to(const Tensor& x, const Tensor& out) {
  check_operand("sum_to", "x", x, x.dtype(), x.numel());
  check_output("sum_to", "out", out, x.dtype(), out.numel());
  CHECK(x.rank() == out.rank(), "sum_to: ranks of ", x.shape(), " and ", out.shape(), " differ");
  for (int i = 0; i < x.rank(); ++i)
    CHECK(out.dim(i) == x.dim(i) || out.dim(i) == 1, "sum_to: ", x.shape(), " does not sum to ",
          out.shape());
}

// Innermost first; none where nothing is summed.
inline std::vector<SumPass> sum_passes(const Shape& in, const Shape& out) {
  struct Run {
    int64_t size;
    bool summed;
  };
  std::vector<Run> runs;  // axes merged into alternating runs of kept and summed ones
  for (int i = 0; i < in.rank(); ++i) {
    if (in[i] == 1) continue;
    const bool summed = out[i] == 1;
    if (!runs.empty() && runs.back().summed == summed) {
      runs.back().size *= in[i];
    } else {
      runs.push_back({in[i], summed});
    }
  }
  std::vector<SumPass> passes;
  while (std::any_of(runs.begin(), runs.end(), [](const Run& r) { return r.summed; })) {
    const bool rows = runs.back().summed;
    const Run last = runs.back();
    runs.pop_back();
    SumPass pass{rows, 1, 1, last.size};
    if (!rows) {
      pass.m = runs.back().size;
      runs.pop_back();
    }
    for (const Run& r : runs) pass.outer *= r.size;
    passes.push_back(pass);
    if (rows) continue;
    if (runs.empty()) {
      runs.push_back(last);
    } else {
      runs.back().size *= last.size;  // two kept runs meet
    }
  }
  return passes;
}

}  // namespace parlo
