// Sums and maxima. Every sum is taken in f64 over chunks that depend on the shape alone and the
// chunks added in order.
#include "kernels/reduce.h"

#include <vector>

#include "kernels/cpu/checks.h"
#include "kernels/sum_plan.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

// sum of value(i) over [begin, end) in eight interleaved lanes.
template <class Value>
double lane_sum(int64_t begin, int64_t end, Value&& value) {
  double lanes[8] = {};
  int64_t i = begin;
  for (; i + 8 <= end; i += 8)
    for (int k = 0; k < 8; ++k) lanes[k] += value(i + k);
  for (int k = 0; i < end; ++i, ++k) lanes[k] += value(i);
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

template <class Value>
double chunked_sum(int64_t n, Value&& value) {
  std::vector<double> partial(static_cast<size_t>(ceil_div(n, kGrain)));
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
    partial[static_cast<size_t>(begin / kGrain)] = lane_sum(begin, end, value);
  });
  double sum = 0;
  for (double p : partial) sum += p;
  return sum;
}

// to[r] = sum of row r of from [rows, n].
template <class T, class Out>
void sum_rows(const T* from, int64_t rows, int64_t n, Out* to) {
  const int64_t chunks = ceil_div(n, kGrain);
  std::vector<double> partial(static_cast<size_t>(rows * chunks));
  parallel_for(rows * chunks, row_grain(std::min(n, kGrain)), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t first = k % chunks * kGrain;
      const T* row = from + k / chunks * n;
      partial[static_cast<size_t>(k)] =
          lane_sum(first, std::min(first + kGrain, n), [row](int64_t i) { return double{row[i]}; });
    }
  });
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (int64_t k = 0; k < chunks; ++k) sum += partial[static_cast<size_t>(r * chunks + k)];
    to[r] = static_cast<Out>(sum);
  }
}

// to[o, c] = sum over m of from [outer, m, n].
template <class T, class Out>
void sum_columns(const T* from, int64_t outer, int64_t m, int64_t n, Out* to) {
  const int64_t block = std::min(m, row_grain(n)), chunks = ceil_div(m, block);
  std::vector<double> partial(static_cast<size_t>(outer * chunks * n));
  parallel_for(outer * chunks, row_grain(block * n), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t first = k % chunks * block, last = std::min(first + block, m);
      double* sum = partial.data() + k * n;
      for (int64_t i = first; i < last; ++i) {
        const T* row = from + (k / chunks * m + i) * n;
        for (int64_t c = 0; c < n; ++c) sum[c] += row[c];
      }
    }
  });
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t c = 0; c < n; ++c) {
      double sum = 0;
      for (int64_t k = 0; k < chunks; ++k) sum += partial[(o * chunks + k) * n + c];
      to[o * n + c] = static_cast<Out>(sum);
    }
}

// Intermediate results are f64.
template <class T, class Out>
void run_passes(const T* from, std::span<const SumPass> passes, Out* to) {
  const SumPass& p = passes.front();
  const auto run = [&](auto* target) {
    if (p.rows) {
      sum_rows(from, p.outer, p.n, target);
    } else {
      sum_columns(from, p.outer, p.m, p.n, target);
    }
  };
  if (passes.size() == 1) return run(to);
  std::vector<double> smaller(static_cast<size_t>(p.rows ? p.outer : p.outer * p.n));
  run(smaller.data());
  run_passes(static_cast<const double*>(smaller.data()), passes.subspan(1), to);
}

}  // namespace

void sum_to(const Tensor& x, const Tensor& out) {
  check_sum_to(x, out);
  if (x.numel() == 0) return out.fill(0);
  const std::vector<SumPass> passes = sum_passes(x.shape(), out.shape());
  if (passes.empty()) return out.copy_from(x);
  visit_float(x.dtype(), "sum_to", [&](auto type) {
    using T = decltype(type);
    run_passes(static_cast<const T*>(x.data<T>()), std::span<const SumPass>(passes), out.data<T>());
  });
}

void max_rows(const Tensor& x, const Tensor& values, const Tensor& indices) {
  const int64_t C = columns_of("max_rows", x);
  CHECK(C >= 1, "max_rows: rows of shape ", x.shape(), " are empty");
  const int64_t rows = x.numel() / C;
  check_operand("max_rows", "x", x, x.dtype(), x.numel());
  if (values) check_output("max_rows", "values", values, x.dtype(), rows);
  if (indices) check_output("max_rows", "indices", indices, DType::i64, rows);
  visit_float(x.dtype(), "max_rows", [&](auto type) {
    using T = decltype(type);
    parallel_for(rows, row_grain(C), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* row = x.data<T>() + r * C;
        int64_t best = 0;
        // The first NaN wins, as a maximum that hides it would be a lie.
        for (int64_t c = 1; c < C && row[best] == row[best]; ++c)
          if (row[c] > row[best] || row[c] != row[c]) best = c;
        if (values) values.data<T>()[r] = row[best];
        if (indices) indices.data<int64_t>()[r] = best;
      }
    });
  });
}

double sum_squares(const Tensor& x) {
  return dot(x, x);
}

double sum(const Tensor& x) {
  check_operand("sum", "x", x, x.dtype(), x.numel());
  return visit_float(x.dtype(), "sum", [&](auto type) {
    const auto* values = x.data<decltype(type)>();
    return chunked_sum(x.numel(), [values](int64_t i) { return double{values[i]}; });
  });
}

double dot(const Tensor& a, const Tensor& b) {
  check_operand("dot", "a", a, a.dtype(), a.numel());
  check_operand("dot", "b", b, a.dtype(), a.numel());
  return visit_float(a.dtype(), "dot", [&](auto type) {
    const auto *pa = a.data<decltype(type)>(), *pb = b.data<decltype(type)>();
    return chunked_sum(a.numel(), [=](int64_t i) { return double{pa[i]} * pb[i]; });
  });
}

}  // namespace parlo::cpu
