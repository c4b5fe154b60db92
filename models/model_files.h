// Where the parts of a pipeline are: all in one diffusers folder, or the transformer (and perhaps
// the autoencoder) in a file of its own and the other parts in a folder.
#pragma once

#include <concepts>
#include <filesystem>
#include <memory>
#include <string>

#include "models/autoencoder_kl.h"
#include "models/transformer_file.h"

namespace parlo {

struct ModelFiles {
  std::filesystem::path transformer;  // what TransformerFile can open
  std::filesystem::path parts;        // folder of text_encoder*/, tokenizer*/, scheduler/, vae/

  ModelFiles(std::filesystem::path transformer_, std::filesystem::path parts_)
      : transformer(std::move(transformer_)), parts(std::move(parts_)) {}
  // A diffusers folder.
  template <std::convertible_to<std::filesystem::path> Path>
  ModelFiles(const Path& folder)
      : ModelFiles(std::filesystem::path(folder) / "transformer", folder) {}

  // Error unless both are there.
  void check() const;
  // The transformer's; with a config.json of the folder where the file has none beside it.
  TransformerFile open_transformer() const;
  // Of the transformer's file where that has one (the original all-in-one layout), else vae/ of the
  // folder, else null: latents are pixels. A file says nothing of scale and shift: they are those
  // of vae/config.json, or of the published model.
  std::shared_ptr<AutoencoderKl> load_vae(const AutoencoderKlConfig& published,
                                          const Placement& to) const;
  // One line on what is read from a file in the original layout; empty for a folder.
  std::string used() const;
};

}  // namespace parlo
