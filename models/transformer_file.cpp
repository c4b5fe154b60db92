#include "models/transformer_file.h"

#include <algorithm>
#include <charconv>
#include <numeric>

namespace parlo {
namespace fs = std::filesystem;

namespace {

constexpr const char* kBase = "diffusion_pytorch_model";

// A tensor that only this layout has; its name is the prefix's end.
struct Mark {
  ModelFamily family;
  std::string_view tensor;
  const char* class_name;
};
constexpr Mark kMarks[] = {
    {ModelFamily::sd3, "joint_blocks.0.x_block.attn.qkv.weight", "SD3Transformer2DModel"},
    {ModelFamily::flux, "double_blocks.0.img_attn.qkv.weight", "FluxTransformer2DModel"}};

// The weights of a folder: diffusers' base name, or the only file there is.
SafeTensors open_weights(const fs::path& place) {
  if (!fs::is_directory(place)) return SafeTensors::open_sharded(place, kBase);
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(place)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  }
  const bool other = files.size() == 1 && !files[0].filename().string().starts_with(kBase);
  return other ? SafeTensors::open(files[0]) : SafeTensors::open_sharded(place, kBase);
}

// Without parts: the whole name, "weight" or "bias" apart. FLUX's norms have a "scale".
std::pair<std::string, std::string> split_field(const std::string& name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string::npos) return {name, ""};
  const std::string field = name.substr(dot);
  return {name.substr(0, dot), field == ".scale" ? ".weight" : field};
}

// The parts of a tensor: as many rows as each parameter has, one after the other. What the model
// does not have, or not in these sizes, is left for the loader to list.
void add_parts(const OriginalLinear& module, const std::string& source, const std::string& field,
               const Shape& whole, bool swaps, const Params& params,
               std::vector<StoredTensor>& out) {
  int64_t begin = 0;
  for (const std::string& m : module.modules) {
    StoredTensor part{m + field, source, whole, 0, swaps};
    if (params.contains(part.name) && module.modules.size() > 1) {
      const int64_t rows = params.shape(part.name)[0];
      if (whole.rank() > 0 && begin + rows <= whole[0]) part.begin = begin, part.shape[0] = rows;
      begin += rows;
    }
    out.push_back(std::move(part));
  }
  if (module.modules.size() == 1 || (whole.rank() > 0 && begin == whole[0])) return;
  for (size_t i = out.size() - module.modules.size(); i < out.size(); ++i) out[i].shape = whole;
}

}  // namespace

void TransformerFile::find_original_layout() {
  for (const Mark& mark : kMarks) {
    for (const std::string& name : tensors.names()) {
      if (!name.ends_with(mark.tensor)) continue;
      const std::string before = name.substr(0, name.size() - mark.tensor.size());
      if (!before.empty() && before.back() != '.') continue;
      CHECK(!original, place.string(), ": holds two transformers, under \"", prefix, "\" and \"",
            before, "\"; expected one");
      original = mark.family, prefix = before;
    }
  }
}

TransformerFile TransformerFile::open(const fs::path& place, const fs::path& elsewhere) {
  TransformerFile out{place, open_weights(place), {}, "", elsewhere};
  out.find_original_layout();
  const fs::path folder = fs::is_directory(place) ? place : place.parent_path();
  if (fs::exists(folder / "config.json")) out.config = folder / "config.json";
  CHECK(out.original || !out.config.empty(), place.string(),
        ": no config.json beside it, and no tensor with the original names of SD3 (",
        kMarks[0].tensor, ") or FLUX (", kMarks[1].tensor, "); expected a transformer's weights");
  return out;
}

std::string TransformerFile::class_name() const {
  for (const Mark& mark : kMarks) {
    if (original == mark.family) return mark.class_name;
  }
  return JsonConfig(config).text("_class_name", "");
}

void TransformerFile::check_class(const std::string& expected) const {
  // Some folders' config.json names no class.
  const std::string is = class_name();
  CHECK(is == expected || (is.empty() && !original), (original ? place : config).string(),
        original ? ": has the original names of " : ": _class_name is ", is, ", expected ",
        expected);
}

std::optional<JsonConfig> TransformerFile::beside(const std::string& class_name) const {
  if (config.empty()) return std::nullopt;
  JsonConfig json(config);
  return json.text("_class_name", "") == class_name ? std::optional(json) : std::nullopt;
}

const Shape& TransformerFile::shape(const std::string& name, int rank) const {
  CHECK(has(name), place.string(), ": no tensor ", prefix, name,
        ", which tells the sizes of the model; the file is incomplete or another model's");
  const Shape& s = tensors.info(prefix + name).shape;
  CHECK(s.rank() == rank, place.string(), ": ", prefix, name, " has shape ", s, ", expected ", rank,
        " dimensions");
  for (int i = 0; i < rank; ++i) {
    CHECK(s[i] > 0, place.string(), ": ", prefix, name, " has shape ", s, ", expected no 0");
  }
  return s;
}

int64_t TransformerFile::count(const std::string& stem) const {
  int64_t blocks = 0;
  for (const std::string& name : tensors.names()) {
    if (!name.starts_with(prefix + stem)) continue;
    const char* begin = name.data() + prefix.size() + stem.size();
    int64_t index = -1;
    const auto [end, error] = std::from_chars(begin, name.data() + name.size(), index);
    if (error == std::errc() && *end == '.' && index >= 0 && index < kMaxBlocks) {
      blocks = std::max(blocks, index + 1);
    }
  }
  return blocks;
}

std::vector<StoredTensor> TransformerFile::stored(const Params& params) const {
  if (!original) return stored_by_name(tensors);
  std::vector<StoredTensor> out;
  for (const std::string& source : tensors.names()) {
    if (!source.starts_with(prefix)) continue;  // another part of the pipeline
    const std::string name = source.substr(prefix.size());
    const Shape& whole = tensors.info(source).shape;
    const auto [module_name, field] = split_field(name);
    const auto module = find_original(module_name, Spelling::dotted);
    if (name == "pos_embed") {
      out.push_back({"pos_embed.pos_embed", source, whole});
    } else if (!module || field.empty()) {
      out.push_back({name, source, whole});
    } else {
      // Two chunks a row swap, six do not.
      const std::string matrix = module_name + ".weight";
      const bool swaps =
          module->swaps_halves && has(matrix) && shape(matrix, 2)[0] == 2 * shape(matrix, 2)[1];
      add_parts(*module, source, field, whole, swaps, params, out);
    }
  }
  return out;
}

}  // namespace parlo
