// Parts of a FLUX pipeline folder small enough to run in a test: random weights.
#pragma once

#include <filesystem>
#include <memory>

#include "models/flux_pipeline.h"
#include "tensor/file.h"

namespace parlo::test {

// Two heads of 8, one block of each kind, for 3-channel pixels packed 2x2 and a CLIP tower alone.
inline FluxConfig small_flux() {
  FluxConfig c = flux_tiny();
  c.in_channels = c.out_channels = 12;
  c.num_layers = c.num_single_layers = 1;
  c.attention_head_dim = 8;
  c.num_attention_heads = 2;
  c.joint_attention_dim = c.pooled_projection_dim = 32;
  c.axes_dims_rope = {2, 2, 4};
  return c;
}

// CLIP and its tokenizer.
inline void write_flux_clip(const std::filesystem::path& folder, int64_t width,
                            const std::vector<std::string>& words) {
  const ClipVocab vocab = build_clip_vocab(words);
  const ClipTokenizer tokenizer(vocab);
  ClipTowerConfig text;
  text.hidden_size = width;
  text.intermediate_size = 2 * width;
  text.num_hidden_layers = 2;
  text.num_attention_heads = 2;
  text.max_position_embeddings = 8;
  text.vocab_size = tokenizer.size();
  text.eos_token_id = tokenizer.eos_id();
  ClipTextModel model(text, false);
  model.params().initialise(RandomKey(4));
  model.save(folder / "text_encoder");
  make_folders(folder / "tokenizer");
  write_file(folder / "tokenizer" / "vocab.json", vocab.vocab_json);
  write_file(folder / "tokenizer" / "merges.txt", vocab.merges_txt);
}

inline void write_pixel_flux(const std::filesystem::path& folder,
                             const std::vector<std::string>& words) {
  FluxTransformer transformer(small_flux());
  transformer.params().initialise(RandomKey(3));
  transformer.save(folder / "transformer");
  write_flux_clip(folder, transformer.config().joint_attention_dim, words);
  make_folders(folder / "scheduler");
  write_file(folder / "scheduler" / "scheduler_config.json", FluxSchedule().to_json());
}

}  // namespace parlo::test
