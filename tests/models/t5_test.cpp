#include "models/t5.h"

#include "tests/models/golden.h"

namespace parlo {
namespace {

using namespace test;

TEST_CASE("distances fall into the reference's buckets") {
  const int64_t tokens = 200;
  const Tensor all = t5_buckets(tokens, 32, 128);
  const auto bucket = [&](int64_t query, int64_t key) {
    return all.data<int64_t>()[query * tokens + key];
  };
  // The first distance of every logarithmic bucket.
  const int64_t edges[] = {8, 12, 16, 23, 32, 46, 64, 91};
  for (int64_t i = 0; i < 8; ++i) {
    const int64_t d = edges[i];
    CAPTURE(d);
    CHECK(bucket(d, 0) == 8 + i);
    CHECK(bucket(d - 1, 0) == 7 + i);
    CHECK(bucket(0, d) == 16 + 8 + i);
  }
  CHECK(bucket(0, 0) == 0);
  CHECK(bucket(0, 1) == 17);
  CHECK(bucket(1, 0) == 1);
  CHECK(bucket(199, 0) == 15);
  CHECK(bucket(0, 199) == 31);
}

}  // namespace
}  // namespace parlo
