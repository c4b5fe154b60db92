// The shapes of the presets, by family: bench/shapes.json, which the peers read too. The build puts
// its text into the program, so that the figures need no file beside it.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tensor/error.h"

namespace parlo::bench {

// Written by CMake from shapes.json.
extern const char* const kShapesJson;

// One line of the table.
class GpuShape {
 public:
  explicit GpuShape(nlohmann::json line) : line_(std::move(line)) {}
  std::string name() const { return line_.at("name").get<std::string>(); }
  int64_t operator[](const char* key) const {
    CHECK(line_.contains(key), "shapes.json: ", name(), " has no ", key);
    return line_.at(key).get<int64_t>();
  }
  int64_t get(const char* key, int64_t otherwise) const { return line_.value(key, otherwise); }
  bool has(const char* flag) const { return line_.value(flag, false); }

 private:
  nlohmann::json line_;
};

inline std::vector<GpuShape> gpu_shapes(const char* family) {
  std::vector<GpuShape> shapes;
  const nlohmann::json table = nlohmann::json::parse(kShapesJson);
  for (const nlohmann::json& line : table.at(family)) shapes.emplace_back(line);
  return shapes;
}

}  // namespace parlo::bench
