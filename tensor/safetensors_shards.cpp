// SafeTensors over several files: which file a component's folder means, and one map of them all.
#include <algorithm>
#include <optional>
#include <set>

#include "tensor/error.h"
#include "tensor/safetensors.h"
#include "tensor/safetensors_format.h"

namespace parlo {
namespace fs = std::filesystem;
using namespace safetensors_format;

namespace {

struct Candidate {
  fs::path file;
  bool is_index = false;
};

// BASE[.variant].safetensors or BASE.safetensors.index[.variant].json.
std::optional<Candidate> find_weights(const fs::path& folder, const std::string& base,
                                      const std::string& variant) {
  const std::string v = variant.empty() ? "" : "." + variant;
  const fs::path file = folder / (base + v + ".safetensors");
  std::error_code ignored;
  if (fs::exists(file, ignored)) return Candidate{file, false};
  for (const std::string& name :
       {base + ".safetensors.index" + v + ".json", base + v + ".safetensors.index.json"}) {
    if (fs::exists(folder / name, ignored)) return Candidate{folder / name, true};
  }
  return std::nullopt;
}

// Variants a folder has: the V of every BASE.V.safetensors and BASE.safetensors.index.V.json.
std::vector<std::string> variants_in(const fs::path& folder, const std::string& base) {
  const auto between = [](const std::string& name, const std::string& prefix,
                          const std::string& suffix) {
    if (name.size() <= prefix.size() + suffix.size()) return std::string();
    if (!name.starts_with(prefix) || !name.ends_with(suffix)) return std::string();
    const std::string v = name.substr(prefix.size(), name.size() - prefix.size() - suffix.size());
    return v.find_first_of(".-") == std::string::npos ? v : std::string();
  };
  std::set<std::string> out;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    out.insert(between(name, base + ".", ".safetensors"));
    out.insert(between(name, base + ".safetensors.index.", ".json"));
  }
  out.erase("");
  return {out.begin(), out.end()};
}

std::string join(const std::vector<std::string>& items) {
  std::string out;
  for (const std::string& item : items) out += (out.empty() ? "" : ", ") + item;
  return out;
}

}  // namespace

SafeTensors SafeTensors::open_index(const fs::path& index) {
  const auto weight_map = read_weight_map(index);
  std::set<std::string> absent;
  for (const auto& [name, shard] : weight_map) {
    std::error_code ignored;
    if (!fs::exists(index.parent_path() / shard, ignored)) absent.insert(printable(shard));
  }
  CHECK(absent.empty(), index.string(),
        ": no such file among the shards that it names: ", join({absent.begin(), absent.end()}));
  SafeTensors out;
  std::map<std::string, SafeTensors> shards;
  std::vector<std::string> missing;
  for (const auto& [name, shard] : weight_map) {
    auto it = shards.find(shard);
    if (it == shards.end()) {
      it = shards.emplace(shard, open(index.parent_path() / shard)).first;
      out.maps_.push_back(it->second.maps_.front());
      out.paths_.push_back(it->second.paths_.front());
    }
    const auto found = it->second.tensors_.find(name);
    if (found == it->second.tensors_.end()) {
      missing.push_back(concat("'", printable(name), "' (", shard, ")"));
      continue;
    }
    Info info = found->second;
    const fs::path path = index.parent_path() / shard;
    info.file = int(std::find(out.paths_.begin(), out.paths_.end(), path) - out.paths_.begin());
    out.tensors_.emplace(name, info);
  }
  CHECK(missing.empty(), index.string(), ": the shards lack tensors of the index: ", join(missing));
  std::vector<std::string> extra;
  for (const auto& [shard, content] : shards) {
    for (const auto& [name, info] : content.tensors_) {
      if (!weight_map.count(name)) extra.push_back(concat("'", printable(name), "' (", shard, ")"));
    }
  }
  CHECK(extra.empty(), index.string(), ": the index lacks tensors of the shards: ", join(extra));
  return out;
}

SafeTensors SafeTensors::open_sharded(const fs::path& place, const std::string& base,
                                      const std::string& variant) {
  std::error_code ignored;
  if (!fs::is_directory(place, ignored)) {
    return place.extension() == ".json" ? open_index(place) : open(place);
  }
  auto found = find_weights(place, base, variant);
  if (!found && variant.empty()) {
    const auto variants = variants_in(place, base);
    CHECK(variants.size() <= 1, place.string(), ": several variants of ", base,
          ".safetensors, choose one: ", join(variants));
    if (variants.size() == 1) found = find_weights(place, base, variants.front());
  }
  const std::string v = variant.empty() ? "" : "." + variant;
  CHECK(found.has_value(), place.string(), ": holds neither ", base, v, ".safetensors nor ", base,
        ".safetensors.index", v, ".json");
  return found->is_index ? open_index(found->file) : open(found->file);
}

}  // namespace parlo
