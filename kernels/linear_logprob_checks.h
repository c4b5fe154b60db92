// Checks of linear_log_prob's operands and the walk over its tiles, the same on every device.
#pragma once

#include <algorithm>

#include "kernels/checks.h"
#include "kernels/linear_logprob.h"

namespace parlo {

// What the op keeps per row, and dw.
inline DType log_prob_dtype(const Tensor& x) {
  return x.dtype() == DType::f64 ? DType::f64 : DType::f32;
}

inline void check_log_prob_operands(std::string_view name, const Tensor& x, const Tensor& w,
                                    const Tensor& targets, const LinearLogProbArgs& args) {
  CHECK(x.defined() && w.defined(), name, ": x or w is missing");
  CHECK(x.rank() == 2 && w.rank() == 2 && x.dim(1) == w.dim(1), name, ": x has shape ", x.shape(),
        " and w ", w.shape(), ", expected (T, K) and (V, K)");
  CHECK(w.dim(0) >= 1 && w.dim(1) >= 1, name, ": w of shape ", w.shape(), " gives no logits");
  CHECK(args.temperature > 0, name, ": temperature is ", args.temperature, ", expected above 0");
  const bool widened = x.dtype() == DType::f32 && w.dtype() == DType::bf16;
  check_operand(name, "x", x, x.dtype(), x.numel());
  check_operand(name, "w", w, widened ? DType::bf16 : x.dtype(), w.numel());
  check_operand(name, "targets", targets, DType::i64, x.dim(0));
}

inline void check_log_prob_results(std::string_view name, const Tensor& x, const Tensor& log_prob,
                                   const Tensor& entropy, const Tensor& lse) {
  check_output(name, "log_prob", log_prob, log_prob_dtype(x), x.dim(0));
  check_output(name, "entropy", entropy, log_prob_dtype(x), x.dim(0));
  check_output(name, "lse", lse, log_prob_dtype(x), x.dim(0));
}

inline void check_log_prob_grads(std::string_view name, const Tensor& x, const Tensor& w,
                                 const LinearLogProbGrads& grads) {
  const DType dtype = log_prob_dtype(x);
  const int64_t rows = x.dim(0);
  if (grads.d_log_prob) check_operand(name, "d_log_prob", grads.d_log_prob, dtype, rows);
  if (grads.d_entropy) check_operand(name, "d_entropy", grads.d_entropy, dtype, rows);
  if (grads.dx) check_output(name, "dx", grads.dx, x.dtype(), x.numel());
  if (grads.dw) check_output(name, "dw", grads.dw, dtype, w.numel());
}

// Rows [row, row + rows) of the logits in columns [first, first + columns).
struct LogitsTile {
  int64_t row, rows, first, columns;
};

// fn(tile) over [0, T) x [0, V), the tiles of some rows one after the other, first columns first.
template <class Fn>
void for_logits_tiles(int64_t T, int64_t most_rows, int64_t V, int64_t most_columns, Fn fn) {
  for (int64_t row = 0; row < T; row += most_rows)
    for (int64_t first = 0; first < V; first += most_columns)
      fn(LogitsTile{row, std::min(most_rows, T - row), first, std::min(most_columns, V - first)});
}

}  // namespace parlo
