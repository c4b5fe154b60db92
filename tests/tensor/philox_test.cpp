#include "tensor/philox.h"

#include <set>

#include "tests/support.h"

using namespace parlo;

TEST_CASE("published known answers (Random123 kat_vectors, philox4x32-10)") {
  CHECK((philox4x32_10({0, 0, 0, 0}, {0, 0}) ==
         PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  CHECK(
      (philox4x32_10({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
       PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  CHECK(
      (philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
       PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST_CASE("a key's block is Philox at its index") {
  const RandomKey key(0x1122334455667788ull);
  CHECK((key.block(5) == philox4x32_10({5, 0, 0, 0}, {0x55667788u, 0x11223344u})));
  CHECK((key.block((uint64_t{9} << 32) + 2) ==
         philox4x32_10({2, 9, 0, 0}, {0x55667788u, 0x11223344u})));
}

TEST_CASE("paths give keys of their own") {
  const RandomKey root(1);
  std::set<uint64_t> seen = {root.bits()};
  for (uint64_t i = 0; i < 1000; ++i) seen.insert(root.fold(i).bits());
  for (const char* name : {"", "a", "b", "ab", "ba", "prompt", "sample"})
    seen.insert(root.fold(name).bits());
  for (uint64_t i = 0; i < 30; ++i)
    for (uint64_t j = 0; j < 30; ++j) seen.insert(root.fold("x").fold(i).fold(j).bits());
  for (uint64_t seed = 2; seed < 100; ++seed) seen.insert(RandomKey(seed).fold(0).bits());
  CHECK(seen.size() == 1 + 1000 + 7 + 900 + 98);
  CHECK(root.fold("a").fold(3).bits() == RandomKey(1).fold("a").fold(3).bits());
  CHECK(root.fold("a").fold("b").bits() != root.fold("b").fold("a").bits());
}

TEST_CASE("uniform stays inside (0, 1) and is exact") {
  CHECK(uniform_from_bits(0) == 0x1p-24f);
  CHECK(uniform_from_bits(0xffffffffu) == 1 - 0x1p-24f);
  CHECK(uniform_from_bits(0x80000000u) == 0.5f + 0x1p-24f);
}

TEST_CASE("choices are even") {
  Random random{RandomKey(3)};
  std::vector<int> counts(7);
  for (int i = 0; i < 70000; ++i) ++counts[random.below(7)];
  double chi2 = 0;
  for (int c : counts) chi2 += (c - 10000.0) * (c - 10000.0) / 10000;
  CHECK(chi2 < 22.5);  // 6 degrees of freedom, p = 0.001
  CHECK(random.below(1) == 0);
  Random again{RandomKey(3)};
  const RandomKey key(3);
  for (uint64_t i = 0; i < 10; ++i)
    for (uint32_t word : key.block(i)) CHECK(again.bits() == word);
}
