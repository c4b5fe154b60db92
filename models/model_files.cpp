#include "models/model_files.h"

#include <set>

#include "tensor/file.h"

namespace parlo {
namespace fs = std::filesystem;

void ModelFiles::check() const {
  std::error_code ignored;
  CHECK(fs::is_directory(parts, ignored), parts.string(),
        ": no such folder; expected a model folder with transformer/, text_encoder/, tokenizer/");
  CHECK(is_there(transformer), (transformer / "config.json").string(),
        ": cannot be read; there is no ", transformer.string());
}

TransformerFile ModelFiles::open_transformer() const {
  const fs::path config = parts / "transformer" / "config.json";
  return TransformerFile::open(transformer, is_there(config) ? config : fs::path());
}

std::shared_ptr<AutoencoderKl> ModelFiles::load_vae(const AutoencoderKlConfig& published,
                                                    const Placement& to) const {
  const fs::path folder = parts / "vae", config = folder / "config.json";
  if (transformer.extension() == ".safetensors" && fs::is_regular_file(transformer) &&
      !autoencoder_kl_prefix(SafeTensors::open(transformer)).empty()) {
    return AutoencoderKl::load_file(
        transformer, is_there(config) ? AutoencoderKlConfig::from_json(config) : published, to);
  }
  if (is_there(folder)) return AutoencoderKl::load(folder, to);
  return nullptr;
}

std::string ModelFiles::used() const {
  check();
  const TransformerFile file = open_transformer();
  if (!file.original) return "";
  const std::string_view vae = autoencoder_kl_prefix(file.tensors);
  std::set<std::string> others;
  for (const std::string& name : file.tensors.names()) {
    const bool taken = name.starts_with(file.prefix) || (!vae.empty() && name.starts_with(vae));
    if (!taken) others.insert(name.substr(0, name.find('.')) + ".*");
  }
  std::string out = concat(transformer.string(), ": ", file.class_name(), " in the original layout",
                           file.prefix.empty() ? "" : concat(" (", file.prefix, "*)"));
  if (!vae.empty()) out += concat(" and the autoencoder (", vae, "*)");
  out += "; the other parts are those of " + parts.string();
  std::string unused;
  for (const std::string& name : others) unused += (unused.empty() ? "" : ", ") + name;
  return unused.empty() ? out : out + "; not used: " + unused;
}

}  // namespace parlo
