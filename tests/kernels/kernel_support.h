// Shared by kernel tests: bit comparison, thread counts, finite differences.
#pragma once

#include <cstring>
#include <functional>
#include <vector>

#include "tensor/parallel.h"
#include "tests/support.h"

namespace parlo::test {

inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (!(a.shape() == b.shape()) || a.dtype() != b.dtype()) return false;
  const Tensor ca = a.contiguous(), cb = b.contiguous();
  return ca.nbytes() == 0 || std::memcmp(ca.raw(), cb.raw(), ca.nbytes()) == 0;
}

// body() returns its results; they must be the same bits for 1, 2 and 3 threads.
template <class Body>
void check_thread_counts(Body&& body) {
  const int before = num_threads();
  set_num_threads(1);
  const std::vector<Tensor> expected = body();
  for (int threads : {2, 3}) {
    set_num_threads(threads);
    const std::vector<Tensor> actual = body();
    REQUIRE(actual.size() == expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      INFO("result ", i, " with ", threads, " threads");
      DOCTEST_CHECK(same_bits(actual[i], expected[i]));
    }
  }
  set_num_threads(before);
}

// d loss / d x by central differences; x is f64 and contiguous.
inline Tensor numeric_gradient(const Tensor& x, const std::function<double()>& loss,
                               double step = 1e-6) {
  Tensor gradient = Tensor::zeros(x.shape(), DType::f64);
  double* values = x.data<double>();
  for (int64_t i = 0; i < x.numel(); ++i) {
    const double kept = values[i];
    values[i] = kept + step;
    const double up = loss();
    values[i] = kept - step;
    const double down = loss();
    values[i] = kept;
    gradient.data<double>()[i] = (up - down) / (2 * step);
  }
  return gradient;
}

// Sum of a * b over all elements: a scalar loss whose gradient in a is b.
inline double weighted_sum(const Tensor& a, const Tensor& b) {
  const std::vector<double> va = a.to_vector(), vb = b.to_vector();
  double sum = 0;
  for (size_t i = 0; i < va.size(); ++i) sum += va[i] * vb[i];
  return sum;
}

}  // namespace parlo::test
