#include "tools/shards.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "tensor/file.h"

namespace parlo {
namespace {

namespace fs = std::filesystem;

// In order, cut wherever the next tensor would go beyond the limit.
std::vector<std::vector<PlannedTensor>> divide(const std::vector<PlannedTensor>& tensors,
                                               size_t limit) {
  std::vector<std::vector<PlannedTensor>> shards(1);
  size_t bytes = 0;
  for (const PlannedTensor& t : tensors) {
    if (limit > 0 && !shards.back().empty() && bytes + t.bytes() > limit) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(t);
    bytes += t.bytes();
  }
  return shards;
}

}  // namespace

void stream_shards(const fs::path& folder, const std::string& base,
                   const std::vector<PlannedTensor>& tensors, const MakeTensor& make,
                   size_t limit) {
  // transformers refuses files that do not say so.
  const std::map<std::string, std::string> metadata{{"format", "pt"}};
  const auto shards = divide(tensors, limit);
  if (shards.size() == 1) {
    stream_safetensors(folder / (base + ".safetensors"), shards[0], make, metadata);
    return;
  }
  nlohmann::ordered_json index{{"metadata", {{"total_size", 0}}}, {"weight_map", {}}};
  size_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    char number[32];
    std::snprintf(number, sizeof number, "-%05zu-of-%05zu", i + 1, shards.size());
    const std::string file = base + number + ".safetensors";
    stream_safetensors(folder / file, shards[i], make, metadata);
    for (const PlannedTensor& t : shards[i]) {
      index["weight_map"][t.name] = file;
      total += t.bytes();
    }
  }
  index["metadata"]["total_size"] = total;
  write_file(folder / (base + ".safetensors.index.json"), index.dump(2) + "\n");
}

}  // namespace parlo
