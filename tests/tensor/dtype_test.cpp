#include "tensor/dtype.h"

#include <immintrin.h>

#include "tests/support.h"

using namespace parlo;

TEST_CASE("binary16 to float and back: all 65536 patterns, against the hardware") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const f16_t h{static_cast<uint16_t>(bits)};
    const float value = to_float(h), expected = _cvtsh_ss(static_cast<uint16_t>(bits));
    if (std::isnan(expected)) {
      REQUIRE(std::isnan(value));
      REQUIRE(std::isnan(to_float(to_f16(value))));
      continue;
    }
    REQUIRE(std::bit_cast<uint32_t>(value) == std::bit_cast<uint32_t>(expected));
    REQUIRE(to_f16(value).bits == bits);
  }
}

TEST_CASE("float to binary16 rounds as the hardware does") {
  std::mt19937 engine(1);
  const auto check = [](uint32_t bits) {
    const float x = std::bit_cast<float>(bits);
    if (std::isnan(x)) return;
    REQUIRE(to_f16(x).bits == _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
  };
  for (int i = 0; i < 200000; ++i) check(engine());
  // All neighbours and ties around every finite binary16.
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const uint32_t f = std::bit_cast<uint32_t>(to_float(f16_t{static_cast<uint16_t>(bits)}));
    for (uint32_t step : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x1fffu}) {
      check(f + step);
      check((f + step) | 0x80000000u);
    }
  }
}

TEST_CASE("bfloat16 rounds to nearest even, keeps NaN and infinity") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const bf16_t b{static_cast<uint16_t>(bits)};
    const float value = to_float(b);
    if (std::isnan(value)) {
      REQUIRE(std::isnan(to_float(to_bf16(value))));
    } else {
      REQUIRE(to_bf16(value).bits == bits);
    }
  }
  CHECK(to_bf16(std::bit_cast<float>(0x3f808000u)).bits == 0x3f80);  // tie to even, down
  CHECK(to_bf16(std::bit_cast<float>(0x3f818000u)).bits == 0x3f82);  // tie to even, up
  CHECK(to_bf16(std::bit_cast<float>(0x3f808001u)).bits == 0x3f81);
  CHECK(to_bf16(std::bit_cast<float>(0x7f7fffffu)).bits == 0x7f80);  // largest float -> infinity
  CHECK(std::isnan(to_float(to_bf16(std::bit_cast<float>(0x7f800001u)))));
}

TEST_CASE("names and sizes") {
  CHECK(dtype_size(DType::f64) == 8);
  CHECK(dtype_size(DType::bf16) == 2);
  CHECK(dtype_size(DType::u8) == 1);
  CHECK(dtype_name(DType::i32) == "i32");
  CHECK(is_floating(DType::f16));
  CHECK(!is_floating(DType::i64));
  CHECK(test::contains(
      test::message_of([] { visit_float(DType::bf16, "layer_norm", [](auto) {}); }), "layer_norm"));
}
