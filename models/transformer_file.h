// A diffusion transformer's weights on disk, in one of two layouts: that of diffusers (its names,
// config.json beside them) or that of the original repository (its names, perhaps under a prefix in
// one file with the other parts of a pipeline; what a config.json would say is told by the shapes).
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "models/json_config.h"
#include "models/original_names.h"
#include "models/params.h"

namespace parlo {

struct TransformerFile {
  std::filesystem::path place;
  SafeTensors tensors;
  // Whose original names it has; none: those of diffusers.
  std::optional<ModelFamily> original;
  std::string prefix;            // of the original names, e.g. "model.diffusion_model."
  std::filesystem::path config;  // config.json; empty where there is none

  // A .safetensors file, an index, or a folder with diffusion_pytorch_model.safetensors (sharded or
  // not, any variant) or with a single other .safetensors file. `elsewhere` is the config.json
  // where none lies beside. Error for what has neither a config.json nor original names.
  static TransformerFile open(const std::filesystem::path& place,
                              const std::filesystem::path& elsewhere = {});

  // Sets `original` and `prefix` by the names of the tensors.
  void find_original_layout();

  // SD3Transformer2DModel or FluxTransformer2DModel, or whatever else its config.json names.
  std::string class_name() const;
  // Error unless class_name() is what is `expected`.
  void check_class(const std::string& expected) const;

  // The config.json, if it is of the class.
  std::optional<JsonConfig> beside(const std::string& class_name) const;

  // --- of the original layout; names without the prefix
  bool has(const std::string& name) const { return tensors.contains(prefix + name); }
  // Error when there is no such tensor or its rank is another one.
  const Shape& shape(const std::string& name, int rank) const;
  // Blocks STEM0., STEM1. and so on.
  int64_t count(const std::string& stem) const;

  // Every tensor of the transformer under the names of `params`, fused ones in their parts.
  std::vector<StoredTensor> stored(const Params& params) const;
};

}  // namespace parlo
