// Comparison with the fixtures of tests/golden: largest and L2 error, relative, in f32.
#pragma once

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "autograd/ops.h"
#include "models/params.h"
#include "tensor/safetensors.h"
#include "tests/support.h"

namespace parlo::test {

// inputs.safetensors and outputs.safetensors of one case.
struct GoldenCase {
  std::string folder;
  SafeTensors inputs, outputs;

  explicit GoldenCase(const std::string& name)
      : folder(golden(name)),
        inputs(SafeTensors::open(golden(name + "/inputs.safetensors"))),
        outputs(SafeTensors::open(golden(name + "/outputs.safetensors"))) {}
  // A fresh leaf.
  Var input(const std::string& name) const { return Var(inputs.get(name), true); }
};

constexpr double kParity = 1e-5, kBf16Parity = 2e-2;

// Both errors relative to the expected tensor, or to `scale` where that is larger: a gradient that
// is zero in theory has rounding errors of the size of what cancels.
inline void check_parity(const std::string& name, const Tensor& actual, const Tensor& expected,
                         double scale = 0, double limit = kParity) {
  INFO(name);
  DOCTEST_REQUIRE(actual.defined());
  DOCTEST_REQUIRE((actual.shape() == expected.shape()));
  const std::vector<double> a = actual.to_vector(), e = expected.to_vector();
  double largest = scale, norm = 0, off = 0, off_norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(e[i]));
    off = std::isnan(a[i]) ? a[i] : std::max(off, std::abs(a[i] - e[i]));
    norm += e[i] * e[i];
    off_norm += (a[i] - e[i]) * (a[i] - e[i]);
  }
  norm = std::max(std::sqrt(norm), scale * std::sqrt(static_cast<double>(a.size())));
  CHECK(off <= limit * largest);
  CHECK(std::sqrt(off_norm) <= limit * norm);
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() == b.defined();
  if (!(a.shape() == b.shape()) || a.dtype() != b.dtype()) return false;
  const Tensor x = a.contiguous(), y = b.contiguous();
  return x.numel() == 0 || std::memcmp(x.raw(), y.raw(), x.nbytes()) == 0;
}

}  // namespace parlo::test
