#include "tools/fold.h"

#include <unistd.h>

#include <set>

#include "tensor/file.h"
#include "tensor/safetensors.h"

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

// Names of the modules that have a matrix, with its shape.
std::map<std::string, Shape> matrices(const std::vector<fs::path>& files) {
  std::map<std::string, Shape> out;
  for (const fs::path& f : files) {
    const SafeTensors tensors = SafeTensors::open(f);
    for (const std::string& name : tensors.names()) {
      const Shape& shape = tensors.info(name).shape;
      if (!name.ends_with(kWeight) || shape.rank() != 2) continue;
      out.emplace(name.substr(0, name.size() - kWeight.size()), shape);
    }
  }
  return out;
}

void fold_file(const fs::path& from, std::span<const WeightedAdapter> adapters,
               const fs::path& to) {
  const SafeTensors tensors = SafeTensors::open(from);
  std::set<std::string> named;
  for (const WeightedAdapter& a : adapters) {
    for (const auto& [module, pair] : *a.modules) named.insert(module + std::string(kWeight));
  }
  NamedTensors out;
  for (const std::string& name : tensors.names()) {
    const Tensor value = tensors.get(name);
    const std::string module = name.substr(0, name.size() - std::min(name.size(), kWeight.size()));
    out.emplace_back(name, named.count(name) > 0 ? fold_delta(value, adapters, module) : value);
  }
  save_safetensors(to, std::move(out), tensors.metadata());
}

// A folder that disappears unless it is kept.
class Scratch {
 public:
  explicit Scratch(const fs::path& final_place)
      : place_(final_place.string() + ".partial-" + std::to_string(::getpid())) {
    make_folders(place_);
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(place_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const fs::path& place() const { return place_; }
  void move_to(const fs::path& final_place) {
    std::error_code failed;
    fs::remove(final_place, failed);  // an empty folder at most
    fs::rename(place_, final_place, failed);
    CHECK(!failed, final_place.string(), ": cannot be made: ", failed.message());
  }

 private:
  fs::path place_;
};

}  // namespace

void fold_checkpoint(const fs::path& base, std::span<const AdapterFile> files,
                     std::span<const WeightedAdapter> adapters, const fs::path& out) {
  const bool pipeline = fs::is_directory(base / "transformer");
  const fs::path component = pipeline ? base / "transformer" : base;
  const std::vector<fs::path> weights = weight_files(component);
  const std::map<std::string, Shape> shapes = matrices(weights);
  for (const AdapterFile& f : files) check_adapter_fits(f, shapes);

  fs::path name = out;
  if (!name.has_filename()) name = name.parent_path();  // "dir/"
  Scratch scratch(name);
  const std::set<fs::path> folded(weights.begin(), weights.end());
  for (const auto& entry : fs::recursive_directory_iterator(base)) {
    const fs::path copy = scratch.place() / fs::relative(entry.path(), base);
    if (folded.count(entry.path()) > 0) {
      fold_file(entry.path(), adapters, copy);
    } else if (entry.is_directory()) {
      make_folders(copy);
    } else {
      std::error_code failed;
      fs::copy_file(entry.path(), copy, failed);
      CHECK(!failed, copy.string(), ": cannot be copied: ", failed.message());
    }
  }
  scratch.move_to(name);
}

}  // namespace parlo
