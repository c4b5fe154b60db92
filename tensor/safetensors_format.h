// Shared by the reader, the shards and the writer of safetensors files; not for anyone else.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "tensor/dtype.h"

namespace parlo::safetensors_format {

// The reference refuses longer headers too; nothing real comes near.
inline constexpr uint64_t kMaxHeaderBytes = 100'000'000;
inline constexpr std::string_view kMetadata = "__metadata__";

struct FormatDType {
  std::string_view name;
  DType dtype;
};
// In the order the reference writes them; BOOL is for reading only.
inline constexpr std::array<FormatDType, 8> kDTypes{{{"I64", DType::i64},
                                                     {"F64", DType::f64},
                                                     {"F32", DType::f32},
                                                     {"I32", DType::i32},
                                                     {"BF16", DType::bf16},
                                                     {"F16", DType::f16},
                                                     {"U8", DType::u8},
                                                     {"BOOL", DType::u8}}};

inline std::optional<DType> parse_dtype(std::string_view name) {
  for (const FormatDType& d : kDTypes) {
    if (d.name == name) return d.dtype;
  }
  return std::nullopt;
}

inline size_t write_rank(DType dtype) {
  const auto same = [dtype](const FormatDType& d) { return d.dtype == dtype; };
  return static_cast<size_t>(std::find_if(kDTypes.begin(), kDTypes.end(), same) - kDTypes.begin());
}

// weight_map of an index: tensor -> file name in the same folder.
std::map<std::string, std::string> read_weight_map(const std::filesystem::path& index);

}  // namespace parlo::safetensors_format
