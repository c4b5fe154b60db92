// Softmax and cross-entropy over the rows of [R, C], shifted by the row's maximum.
#include <cmath>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/reduce_isa.h"
#include "kernels/reduce.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

double row_max(const double* x, int64_t n) {
  double max = x[0];
  for (int64_t c = 1; c < n; ++c) max = x[c] > max ? x[c] : max;
  return max;
}

void softmax_rows(const double* x, int64_t rows, int64_t C, double* y) {
  for (int64_t r = 0; r < rows; ++r, x += C, y += C) {
    const double max = row_max(x, C);
    double sum = 0;
    for (int64_t c = 0; c < C; ++c) sum += y[c] = std::exp(x[c] - max);
    for (int64_t c = 0; c < C; ++c) y[c] /= sum;
  }
}
void softmax_rows(const float* x, int64_t rows, int64_t C, float* y) {
  PARLO_ISA_TABLE(reduce).softmax(x, rows, C, y);
}

void softmax_backward_rows(const double* y, const double* dy, int64_t rows, int64_t C, double* dx) {
  for (int64_t r = 0; r < rows; ++r, y += C, dy += C, dx += C) {
    double dot = 0;
    for (int64_t c = 0; c < C; ++c) dot += y[c] * dy[c];
    for (int64_t c = 0; c < C; ++c) dx[c] = y[c] * (dy[c] - dot);
  }
}
void softmax_backward_rows(const float* y, const float* dy, int64_t rows, int64_t C, float* dx) {
  PARLO_ISA_TABLE(reduce).softmax_backward(y, dy, rows, C, dx);
}

// log sum exp of a row; NaN where the row holds one.
double log_sum_exp(const double* x, int64_t C) {
  const double max = row_max(x, C);
  double sum = 0;
  for (int64_t c = 0; c < C; ++c) sum += std::exp(x[c] - max);
  return max + std::log(sum);
}
double log_sum_exp(const float* x, int64_t C) {
  float max = 0, sum = 0;
  PARLO_ISA_TABLE(reduce).max_and_exp_sum(x, C, &max, &sum);
  return max + std::log(double{sum});
}

void scaled_softmax(const double* x, int64_t C, double lse, double gradient, double* to) {
  for (int64_t c = 0; c < C; ++c) to[c] = std::exp(x[c] - lse) * gradient;
}
void scaled_softmax(const float* x, int64_t C, float lse, float gradient, float* to) {
  PARLO_ISA_TABLE(reduce).scaled_softmax(x, C, lse, gradient, to);
}

// The target of a row, or -1 where it is ignored.
int64_t target_of(const char* function, const int64_t* targets, int64_t row, int64_t C,
                  int64_t ignore_index) {
  const int64_t target = targets[row];
  if (target == ignore_index) return -1;
  CHECK(target >= 0 && target < C, function, ": target ", target, " of row ", row,
        " is outside [0, ", C, ")");
  return target;
}

}  // namespace

void softmax(const Tensor& x, const Tensor& y) {
  const int64_t C = columns_of("softmax", x);
  check_operand("softmax", "x", x, x.dtype(), x.numel());
  check_output("softmax", "y", y, x.dtype(), x.numel());
  if (x.numel() == 0) return;
  visit_float(x.dtype(), "softmax", [&](auto type) {
    using T = decltype(type);
    parallel_for(x.numel() / C, row_grain(C), [&](int64_t begin, int64_t end) {
      softmax_rows(static_cast<const T*>(x.data<T>()) + begin * C, end - begin, C,
                   y.data<T>() + begin * C);
    });
  });
}

void softmax_backward(const Tensor& y, const Tensor& dy, const Tensor& dx) {
  const int64_t C = columns_of("softmax_backward", y);
  check_operand("softmax_backward", "y", y, y.dtype(), y.numel());
  check_operand("softmax_backward", "dy", dy, y.dtype(), y.numel());
  check_output("softmax_backward", "dx", dx, y.dtype(), y.numel());
  if (y.numel() == 0) return;
  visit_float(y.dtype(), "softmax_backward", [&](auto type) {
    using T = decltype(type);
    parallel_for(y.numel() / C, row_grain(C), [&](int64_t begin, int64_t end) {
      const int64_t at = begin * C;
      softmax_backward_rows(y.data<T>() + at, dy.data<T>() + at, end - begin, C, dx.data<T>() + at);
    });
  });
}

void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& losses,
                   const Tensor& lse, int64_t ignore_index) {
  const char* name = "cross_entropy";
  const int64_t C = columns_of(name, logits);
  CHECK(C >= 1, name, ": logits of shape ", logits.shape(), " have no classes");
  const int64_t rows = logits.numel() / C;
  check_operand(name, "logits", logits, logits.dtype(), logits.numel());
  check_operand(name, "targets", targets, DType::i64, rows);
  check_output(name, "losses", losses, logits.dtype(), rows);
  check_output(name, "lse", lse, logits.dtype(), rows);
  visit_float(logits.dtype(), name, [&](auto type) {
    using T = decltype(type);
    parallel_for(rows, row_grain(C), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t target = target_of(name, targets.data<int64_t>(), r, C, ignore_index);
        const T* row = logits.data<T>() + r * C;
        const double log_sum = log_sum_exp(row, C);
        lse.data<T>()[r] = static_cast<T>(log_sum);
        losses.data<T>()[r] = target < 0 ? T{0} : static_cast<T>(log_sum - row[target]);
      }
    });
  });
}

void cross_entropy_backward(const Tensor& logits, const Tensor& targets, const Tensor& lse,
                            const Tensor& dlosses, const Tensor& dlogits, int64_t ignore_index) {
  const char* name = "cross_entropy_backward";
  const int64_t C = columns_of(name, logits);
  CHECK(C >= 1, name, ": logits of shape ", logits.shape(), " have no classes");
  const int64_t rows = logits.numel() / C;
  check_operand(name, "logits", logits, logits.dtype(), logits.numel());
  check_operand(name, "targets", targets, DType::i64, rows);
  check_operand(name, "lse", lse, logits.dtype(), rows);
  check_operand(name, "dlosses", dlosses, logits.dtype(), rows);
  check_output(name, "dlogits", dlogits, logits.dtype(), logits.numel());
  visit_float(logits.dtype(), name, [&](auto type) {
    using T = decltype(type);
    parallel_for(rows, row_grain(C), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t target = target_of(name, targets.data<int64_t>(), r, C, ignore_index);
        const T* row = logits.data<T>() + r * C;
        T* to = dlogits.data<T>() + r * C;
        if (target < 0) {
          std::fill(to, to + C, T{0});
          continue;
        }
        const T gradient = dlosses.data<T>()[r];
        scaled_softmax(row, C, lse.data<T>()[r], gradient, to);
        to[target] -= gradient;
      }
    });
  });
}

}  // namespace parlo::cpu
