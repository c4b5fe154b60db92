// The helpers every other test relies on can fail.
#include "tests/support.h"

#include "tensor/error.h"

using namespace parlo;
using namespace parlo::test;

TEST_CASE("CHECK with a message throws, CHECK alone asserts") {
  CHECK(1 + 1 == 2);
  CHECK(true, "not ", "thrown");
  CHECK(message_of([] { CHECK(false, "x is ", 3, ", expected ", 4); }) == "x is 3, expected 4");
}

TEST_CASE("max_relative_error") {
  const Tensor a = Tensor::from<float>({1, -4, 2}, {3});
  const Tensor b = Tensor::from<float>({1, -4, 3}, {3});
  CHECK(max_relative_error(a, a) == 0);
  CHECK(max_relative_error(b, a) == doctest::Approx(0.25));
  CHECK(std::isinf(max_relative_error(a, a.view({1, 3}))));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isinf(max_relative_error(Tensor::from<float>({1, nan, 2}, {3}), a)));
  CHECK(std::isinf(max_relative_error(a, Tensor::from<float>({1, nan, 2}, {3}))));
  CHECK(same_values(random_tensor({2, 3}, 7), random_tensor({2, 3}, 7)));
  CHECK(!same_values(random_tensor({2, 3}, 7), random_tensor({2, 3}, 8)));
}

TEST_CASE("a temporary folder goes away") {
  std::filesystem::path path;
  {
    TemporaryFolder folder;
    path = folder.path();
    CHECK(std::filesystem::is_directory(path));
  }
  CHECK(!std::filesystem::exists(path));
}
