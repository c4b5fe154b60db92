#include "tools/fold.h"

#include <optional>
#include <set>

#include "tensor/file.h"
#include "tensor/safetensors.h"
#include "tensor/safetensors_stream.h"
#include "tools/scratch_folder.h"
#include "tools/shards.h"

namespace parlo {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWeight = ".weight";

// Every safetensors file of a component's folder.
std::vector<fs::path> weight_files(const fs::path& component) {
  std::set<fs::path> found;
  for (const auto& entry : fs::directory_iterator(component)) {
    if (entry.path().extension() == ".safetensors") found.insert(entry.path());
  }
  if (found.empty()) {
    throw UsageError("--fold " + component.string() +
                     ": holds no safetensors file; expected a pipeline or a component");
  }
  return {found.begin(), found.end()};
}

std::string module_of(const std::string& name) {
  return name.ends_with(kWeight) ? name.substr(0, name.size() - kWeight.size()) : "";
}

// Names of the modules that have a matrix, with its shape.
std::map<std::string, Shape> matrices(const std::vector<fs::path>& files) {
  std::map<std::string, Shape> out;
  for (const fs::path& f : files) {
    const SafeTensors tensors = SafeTensors::open(f);
    for (const std::string& name : tensors.names()) {
      const Shape& shape = tensors.info(name).shape;
      if (!module_of(name).empty() && shape.rank() == 2) out.emplace(module_of(name), shape);
    }
  }
  return out;
}

std::vector<PlannedTensor> planned(const SafeTensors& tensors,
                                   const std::vector<std::string>& names) {
  std::vector<PlannedTensor> plan;
  for (const std::string& name : names) {
    plan.push_back({name, tensors.info(name).dtype, tensors.info(name).shape});
  }
  return plan;
}

// Tensors of a set, the adapted ones folded.
MakeTensor folded(const SafeTensors& tensors, const std::set<std::string>& adapted,
                  const FoldWeight& fold) {
  return [&](const std::string& name) {
    const Tensor value = tensors.get(name);
    const std::string module = module_of(name);
    return adapted.count(module) > 0 && value.rank() == 2 ? fold(module, value) : value;
  };
}

// The weights that the reference library loads from a component's folder.
struct WeightSet {
  std::string base;
  SafeTensors tensors;
};

WeightSet weight_set(const fs::path& component) {
  for (const std::string base : {"diffusion_pytorch_model", "model"}) {
    for (const auto& entry : fs::directory_iterator(component)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with(base + ".") && !name.starts_with(base + "-")) continue;
      return {base, SafeTensors::open_sharded(component, base)};
    }
  }
  throw UsageError(concat("--fold ", component.string(),
                          ": holds neither diffusion_pytorch_model nor model weights; leave out "
                          "--shard-size"));
}

void write_shards(const fs::path& folder, const WeightSet& set,
                  const std::set<std::string>& adapted, const FoldWeight& fold, size_t limit) {
  stream_shards(folder, set.base, planned(set.tensors, set.tensors.names()),
                folded(set.tensors, adapted, fold), limit);
}

// Everything but what write_shards writes anew.
void copy_folder(const fs::path& base, const fs::path& to, const std::set<fs::path>& left_out,
                 const std::set<fs::path>& weights, const std::set<std::string>& adapted,
                 const FoldWeight& fold) {
  for (const auto& entry : fs::recursive_directory_iterator(base)) {
    const fs::path target = to / fs::relative(entry.path(), base);
    if (left_out.count(entry.path()) > 0) continue;
    if (entry.is_directory()) {
      make_folders(target);
    } else if (weights.count(entry.path()) > 0) {
      const SafeTensors tensors = SafeTensors::open(entry.path());
      stream_safetensors(target, planned(tensors, tensors.names()), folded(tensors, adapted, fold),
                         tensors.metadata());
    } else {
      std::error_code failed;
      fs::copy_file(entry.path(), target, failed);
      CHECK(!failed, target.string(), ": cannot be copied: ", failed.message());
    }
  }
}

// The files of a set of weights: those with tensors and every index.
std::set<fs::path> files_of(const WeightSet& set, const fs::path& component) {
  std::set<fs::path> out(set.tensors.files().begin(), set.tensors.files().end());
  for (const auto& entry : fs::directory_iterator(component)) {
    const std::string name = entry.path().filename().string();
    const bool index = name.ends_with(".json") && name.find(".index.") != std::string::npos;
    if (index && name.starts_with(set.base + ".")) out.insert(entry.path());
  }
  return out;
}

}  // namespace

void fold_checkpoint(const fs::path& base, std::span<const AdapterFile> adapters,
                     const FoldWeight& fold, const fs::path& out, size_t shard_bytes) {
  const bool pipeline = fs::is_directory(base / "transformer");
  const fs::path component = pipeline ? base / "transformer" : base;
  const std::vector<fs::path> weights = weight_files(component);
  const std::map<std::string, Shape> shapes = matrices(weights);
  std::set<std::string> adapted;
  for (const AdapterFile& a : adapters) {
    check_adapter_fits(a, shapes);
    for (const auto& [module, pair] : a.modules) adapted.insert(module);
  }
  std::optional<WeightSet> set;
  if (shard_bytes > 0) set = weight_set(component);
  ScratchFolder scratch(out);
  copy_folder(base, scratch.place(), set ? files_of(*set, component) : std::set<fs::path>(),
              {weights.begin(), weights.end()}, adapted, fold);
  if (set) {
    const fs::path to = scratch.place() / fs::relative(component, base);
    write_shards(to, *set, adapted, fold, shard_bytes);
  }
  scratch.move_to_final();
}

}  // namespace parlo
