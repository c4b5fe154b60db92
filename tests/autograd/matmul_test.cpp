// matmul: all transposes and broadcasts.
#include "tests/autograd/plain_matmul.h"

namespace parlo {
namespace {

using namespace test;

Shape matrix(Shape batch, int64_t rows, int64_t columns, bool transposed) {
  batch.push_back(transposed ? columns : rows);
  batch.push_back(transposed ? rows : columns);
  return batch;
}

void check_matmul(const Shape& batch_a, const Shape& batch_b, int64_t m, int64_t k, int64_t n) {
  for (int flags = 0; flags < 4; ++flags) {
    const bool ta = flags & 1, tb = flags & 2;
    const Tensor a = normal64(matrix(batch_a, m, k, ta), 1);
    const Tensor b = normal64(matrix(batch_b, k, n, tb), 2);
    const Op op = [=](std::span<const Var> in) { return matmul(in[0], in[1], ta, tb); };
    INFO("transposes ", ta, tb);
    check_close(check_op("matmul", op, {a, b}), plain_matmul(a, b, ta, tb));
  }
}

TEST_CASE("matmul with all transposes") {
  check_matmul({}, {}, 3, 4, 5);
  check_matmul({}, {}, 1, 1, 1);
  check_matmul({}, {}, 1, 7, 1);
  check_matmul({}, {}, 17, 3, 2);
}

TEST_CASE("matmul broadcasts leading axes") {
  check_matmul({2}, {2}, 2, 3, 4);
  check_matmul({3}, {}, 2, 3, 4);
  check_matmul({}, {3}, 2, 3, 4);
  check_matmul({2, 1}, {1, 3}, 2, 3, 2);
  check_matmul({2, 3}, {3}, 3, 2, 1);
  check_matmul({1}, {2, 3}, 1, 2, 3);
}

TEST_CASE("matmul of empty operands") {
  check_matmul({}, {}, 0, 3, 4);
  check_matmul({}, {}, 3, 0, 4);
  check_matmul({}, {}, 3, 4, 0);
  check_matmul({0}, {}, 2, 3, 4);
  check_matmul({0}, {1}, 2, 3, 4);
}

TEST_CASE("matmul names shapes that do not fit") {
  const Var a(normal64({2, 3}, 1)), b(normal64({4, 2}, 2)), c(normal64({3}, 3));
  CHECK(contains(message_of([&] { matmul(a, b); }), "(2, 3)"));
  CHECK(contains(message_of([&] { matmul(a, c); }), "two axes"));
}

}  // namespace
}  // namespace parlo
