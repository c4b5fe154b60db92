// Softmax and cross-entropy over the rows of [R, C], shifted by the row's maximum.
#include <cmath>

#include "kernels/cpu/checks.h"
#include "kernels/reduce.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

// exp(x - max) into y, their sum as result. A NaN in x makes the sum NaN.
template <class T>
double exp_row(const T* x, int64_t n, double max, T* y) {
  double sum = 0;
  for (int64_t c = 0; c < n; ++c) {
    const double e = std::exp(x[c] - max);
    if (y) y[c] = static_cast<T>(e);
    sum += e;
  }
  return sum;
}

template <class T>
T row_max(const T* x, int64_t n) {
  T max = x[0];
  for (int64_t c = 1; c < n; ++c) max = x[c] > max ? x[c] : max;
  return max;
}

template <class T>
void softmax_rows(const T* x, int64_t C, T* y, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const double sum = exp_row(x + r * C, C, row_max(x + r * C, C), y + r * C);
    const T inverse = static_cast<T>(1 / sum);
    for (int64_t c = 0; c < C; ++c) y[r * C + c] *= inverse;
  }
}

template <class T>
void softmax_backward_rows(const T* y, const T* dy, int64_t C, T* dx, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    double dot = 0;
    for (int64_t c = r * C; c < (r + 1) * C; ++c) dot += double{y[c]} * dy[c];
    const T d = static_cast<T>(dot);
    for (int64_t c = r * C; c < (r + 1) * C; ++c) dx[c] = y[c] * (dy[c] - d);
  }
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
      softmax_rows<T>(x.data<T>(), C, y.data<T>(), begin, end);
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
      softmax_backward_rows<T>(y.data<T>(), dy.data<T>(), C, dx.data<T>(), begin, end);
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
        const double max = row_max(row, C);
        const double log_sum = max + std::log(exp_row<T>(row, C, max, nullptr));
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
        const T gradient = target < 0 ? T{0} : dlosses.data<T>()[r];
        const double log_sum = lse.data<T>()[r];
        if (target < 0) {
          std::fill(to, to + C, T{0});
          continue;
        }
        for (int64_t c = 0; c < C; ++c)
          to[c] = static_cast<T>(std::exp(row[c] - log_sum)) * gradient;
        to[target] -= gradient;
      }
    });
  });
}

}  // namespace parlo::cpu
