// Where a tensor lives. The CPU is always there, and so is meta, where bytes are only counted
// (tensor/meta.h); CUDA joins with the CUDA backend.
#pragma once

#include <cstdint>
#include <string>

namespace parlo {

struct Device {
  enum class Kind : uint8_t { cpu, cuda, meta };
  Kind kind = Kind::cpu;
  int index = 0;

  bool is_cpu() const { return kind == Kind::cpu; }
  bool is_cuda() const { return kind == Kind::cuda; }
  bool is_meta() const { return kind == Kind::meta; }
  bool operator==(const Device&) const = default;
};

inline std::string to_string(Device d) {
  if (d.is_meta()) return "meta";
  return d.is_cpu() ? "cpu" : "cuda:" + std::to_string(d.index);
}

}  // namespace parlo
