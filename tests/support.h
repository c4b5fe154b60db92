// What every test shares: doctest beside the tree's own CHECK, tolerances, comparison of tensors.
// Include this instead of <doctest/doctest.h>.
#pragma once

#include "tensor/error.h"

// doctest and tensor/error.h both define CHECK. In a test, CHECK(x) is doctest's assertion, and
// CHECK(x, message...) is the tree's, which templates in headers still need; it throws and so fails
// the test as well. Commas outside of parentheses count: write CHECK((f<a, b>(x) == y)).
#undef CHECK
#include <doctest/doctest.h>
#undef CHECK
#define PARLO_THROWING_CHECK(condition, ...)                              \
  do {                                                                    \
    if (!(condition)) throw ::parlo::Error(::parlo::concat(__VA_ARGS__)); \
  } while (0)
#define PARLO_PICK_17(a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, pick, \
                      ...)                                                                         \
  pick
#define PARLO_TC PARLO_THROWING_CHECK
#define CHECK(...)                                                                                 \
  PARLO_PICK_17(__VA_ARGS__, PARLO_TC, PARLO_TC, PARLO_TC, PARLO_TC, PARLO_TC, PARLO_TC, PARLO_TC, \
                PARLO_TC, PARLO_TC, PARLO_TC, PARLO_TC, PARLO_TC, PARLO_TC, PARLO_TC, PARLO_TC,    \
                DOCTEST_CHECK, )                                                                   \
  (__VA_ARGS__)

#include <unistd.h>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace parlo::test {

// Largest allowed error relative to the largest magnitude of what is expected. A test that needs a
// looser one says why.
inline double tolerance(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return 1e-10;
    case DType::f32:
      return 1e-5;
    case DType::bf16:
      return 1.0 / 128;  // two units in the last place
    case DType::f16:
      return 1.0 / 1024;
    default:
      return 0;
  }
}

// max |actual - expected| / max |expected|; infinite when shapes differ or one side alone is NaN.
inline double max_relative_error(const Tensor& actual, const Tensor& expected) {
  if (!(actual.shape() == expected.shape())) return std::numeric_limits<double>::infinity();
  const std::vector<double> a = actual.to_vector(), e = expected.to_vector();
  double error = 0, scale = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == e[i] || (std::isnan(a[i]) && std::isnan(e[i]))) {
      if (std::isfinite(e[i])) scale = std::max(scale, std::abs(e[i]));
      continue;
    }
    if (!std::isfinite(a[i]) || !std::isfinite(e[i])) {
      return std::numeric_limits<double>::infinity();
    }
    error = std::max(error, std::abs(a[i] - e[i]));
    scale = std::max(scale, std::abs(e[i]));
  }
  return error == 0 ? 0 : error / std::max(scale, std::numeric_limits<double>::min());
}

// Fails the test, with the figures, when the two are further apart than the dtype's tolerance.
inline void check_close(const Tensor& actual, const Tensor& expected, double limit) {
  INFO("shapes ", concat(actual.shape()), " and ", concat(expected.shape()));
  DOCTEST_CHECK(max_relative_error(actual, expected) <= limit);
}
inline void check_close(const Tensor& actual, const Tensor& expected) {
  check_close(actual, expected, tolerance(actual.dtype()));
}

// Same shape, same values, bit for bit as far as values can tell (NaN equals NaN).
inline bool same_values(const Tensor& a, const Tensor& b) {
  return max_relative_error(a, b) == 0;
}

// Normal values from a fixed seed, rounded to the dtype.
inline Tensor random_tensor(const Shape& shape, uint32_t seed, DType dtype = DType::f32,
                            double scale = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal(0, scale);
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (double& value : values) value = normal(engine);
  return Tensor::from(values, shape).to(dtype);
}

// The one-line message of what `body` throws; empty when it throws nothing.
template <class Body>
std::string message_of(Body&& body) {
  try {
    body();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// A fixture of tests/golden/.
inline std::string golden(const std::string& name) {
  return std::string(PARLO_SOURCE_DIR "/tests/golden/") + name;
}

// A folder of its own for one test, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "parlo_test_XXXXXX").string();
    CHECK(::mkdtemp(pattern.data()) != nullptr, "mkdtemp: cannot create ", pattern);
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace parlo::test
