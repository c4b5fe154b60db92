#include "tensor/shape.h"

#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;

TEST_CASE("shapes hold their sizes") {
  const Shape s = {2, 3, 4};
  CHECK(s.rank() == 3);
  CHECK(s[-1] == 4);
  CHECK(s[0] == 2);
  CHECK(s.numel() == 24);
  CHECK(Shape{}.numel() == 1);
  CHECK((Shape{3, 0, 5}.numel()) == 0);
  CHECK(to_string(s) == "(2, 3, 4)");
  CHECK(!(s == Shape{2, 3}));
  Shape t = s;
  t.insert(0, 9);
  t.push_back(8);
  CHECK((t == Shape{9, 2, 3, 4, 8}));
  t.erase(1);
  t.erase(3);
  CHECK((t == Shape{9, 3, 4}));
}

TEST_CASE("shapes refuse what they cannot hold") {
  CHECK(contains(message_of([] { Shape{1, 1, 1, 1, 1, 1, 1, 1, 1}; }), "at most 8"));
  CHECK(contains(message_of([] { Shape{2, -2}; }), "negative"));
  CHECK(contains(message_of([] {
                   (void)Shape{int64_t{1} << 40, int64_t{1} << 40}.numel();
                 }),
                 "too many"));
  const Shape s = {2, 3};
  for (int axis : {2, -3, 8, 100}) {
    CAPTURE(axis);
    CHECK(contains(message_of([&] { (void)s[axis]; }), "(2, 3)"));
  }
  CHECK(message_of([] { (void)Shape{}[0]; }) != "");
}

TEST_CASE("broadcasting follows NumPy") {
  CHECK((broadcast_shapes({2, 1, 4}, {3, 1}) == Shape{2, 3, 4}));
  CHECK((broadcast_shapes({}, {3, 1}) == Shape{3, 1}));
  CHECK((broadcast_shapes({1}, {0}) == Shape{0}));
  CHECK((broadcast_shapes({5, 0}, {1, 1}) == Shape{5, 0}));
  CHECK(contains(message_of([] { broadcast_shapes({2, 3}, {2, 4}); }), "(2, 3) and (2, 4)"));
  CHECK(message_of([] { broadcast_shapes({0}, {2}); }) != "");
}
