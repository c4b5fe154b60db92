// A pipeline folder small enough to draw with in a test: random weights, 16x16 pictures.
#pragma once

#include <filesystem>

#include "autograd/functions.h"
#include "lora/adapter.h"
#include "models/sd3_pipeline.h"
#include "tensor/file.h"
#include "tools/world/vocabulary.h"

namespace parlo::test {

inline Sd3Config tiny_transformer() {
  Sd3Config c = sd3_tiny();
  c.sample_size = 16;
  c.num_layers = 2;
  c.attention_head_dim = 8;
  c.num_attention_heads = 2;
  c.caption_projection_dim = 16;
  c.joint_attention_dim = c.pooled_projection_dim = 16;
  c.dual_attention_layers = {0};
  return c;
}

inline void write_tiny_pipeline(const std::filesystem::path& folder) {
  const ClipVocab vocab = build_clip_vocab(world_vocabulary());
  const ClipTokenizer tokenizer(vocab);
  ClipTowerConfig text;
  text.hidden_size = text.projection_dim = 16;
  text.intermediate_size = 32;
  text.num_hidden_layers = 2;
  text.num_attention_heads = 2;
  text.max_position_embeddings = 16;
  text.vocab_size = tokenizer.size();
  text.eos_token_id = tokenizer.eos_id();
  ClipTextModel encoder(text, true);
  encoder.params().initialise(RandomKey(1));
  Sd3Transformer transformer(tiny_transformer());
  transformer.params().initialise(RandomKey(2));
  encoder.save(folder / "text_encoder");
  transformer.save(folder / "transformer");
  make_folders(folder / "tokenizer");
  make_folders(folder / "scheduler");
  write_file(folder / "tokenizer" / "vocab.json", vocab.vocab_json);
  write_file(folder / "tokenizer" / "merges.txt", vocab.merges_txt);
  write_file(folder / "scheduler" / "scheduler_config.json", flow_scheduler_json(1.0));
}

// An adapter on its attention with values that show in the pictures.
inline void write_tiny_adapter(const std::filesystem::path& folder, uint64_t seed) {
  Sd3Transformer transformer(tiny_transformer());
  transformer.params().initialise(RandomKey(2));
  AdapterConfig config;
  config.r = 2;
  config.lora_alpha = 4;
  config.target_modules = parse_targets("attention");
  LoraAdapter adapter = LoraAdapter::create(transformer.linears(), config, RandomKey(seed));
  for (const NamedVar& p : adapter.params()) {
    Var(p.var).set_value(random_normal(RandomKey(seed).fold(p.name), p.var.shape(), 0.5));
  }
  adapter.save(folder);
}

}  // namespace parlo::test
