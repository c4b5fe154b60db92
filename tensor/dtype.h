// Element types, their sizes and names, and the 16-bit float formats.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

#include "tensor/error.h"

namespace parlo {

enum class DType : uint8_t { f64, f32, bf16, f16, i64, i32, u8 };

// Truncated float32; converting rounds to nearest even, NaN stays NaN.
struct bf16_t {
  uint16_t bits = 0;
};

// IEEE binary16.
struct f16_t {
  uint16_t bits = 0;
};

inline float to_float(bf16_t x) {
  return std::bit_cast<float>(uint32_t{x.bits} << 16);
}

inline bf16_t to_bf16(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

float to_float(f16_t x);
f16_t to_f16(float x);

inline size_t dtype_size(DType t) {
  constexpr size_t kSizes[] = {8, 4, 2, 2, 8, 4, 1};
  return kSizes[static_cast<int>(t)];
}

inline std::string_view dtype_name(DType t) {
  constexpr std::string_view kNames[] = {"f64", "f32", "bf16", "f16", "i64", "i32", "u8"};
  return kNames[static_cast<int>(t)];
}

inline bool is_floating(DType t) {
  return t <= DType::f16;
}

template <class T>
struct dtype_traits;
template <>
struct dtype_traits<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct dtype_traits<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct dtype_traits<bf16_t> {
  static constexpr DType value = DType::bf16;
};
template <>
struct dtype_traits<f16_t> {
  static constexpr DType value = DType::f16;
};
template <>
struct dtype_traits<int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct dtype_traits<int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct dtype_traits<uint8_t> {
  static constexpr DType value = DType::u8;
};
template <class T>
inline constexpr DType dtype_of = dtype_traits<T>::value;

// Calls fn with a value of the C++ type behind t; fn is a generic lambda.
template <class Fn>
decltype(auto) visit_dtype(DType t, Fn&& fn) {
  switch (t) {
    case DType::f64:
      return fn(double{});
    case DType::f32:
      return fn(float{});
    case DType::bf16:
      return fn(bf16_t{});
    case DType::f16:
      return fn(f16_t{});
    case DType::i64:
      return fn(int64_t{});
    case DType::i32:
      return fn(int32_t{});
    case DType::u8:
      return fn(uint8_t{});
  }
  throw Error("visit_dtype: unknown dtype");
}

// The two types gradients are computed in. Throws for any other, naming the function.
template <class Fn>
decltype(auto) visit_float(DType t, std::string_view function, Fn&& fn) {
  if (t == DType::f32) return fn(float{});
  if (t == DType::f64) return fn(double{});
  throw Error(concat(function, ": expected dtype f32 or f64, got ", dtype_name(t),
                     "; convert with Tensor::to"));
}

}  // namespace parlo
