// Where a tensor lives. The CPU is always there; CUDA joins with the CUDA backend.
#pragma once

#include <cstdint>
#include <string>

namespace parlo {

struct Device {
  enum class Kind : uint8_t { cpu, cuda };
  Kind kind = Kind::cpu;
  int index = 0;

  bool is_cpu() const { return kind == Kind::cpu; }
  bool operator==(const Device&) const = default;
};

inline std::string to_string(Device d) {
  return d.is_cpu() ? "cpu" : "cuda:" + std::to_string(d.index);
}

}  // namespace parlo
