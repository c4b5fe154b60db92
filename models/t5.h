// The encoder of T5 v1.1 with the names and config.json of transformers' T5EncoderModel: RMS norm
// before each layer, attention without scale plus a learned bias of the distance k - q (one table,
// of block 0), a gated GELU, no biases. Token states are neither scaled nor given positions.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "models/json_config.h"
#include "models/layers.h"

namespace parlo {

struct T5Config {
  int64_t vocab_size = 32128;
  int64_t d_model = 4096;
  int64_t d_kv = 64;  // of a head; heads * d_kv need not be d_model
  int64_t d_ff = 10240;
  int64_t num_layers = 24;
  int64_t num_heads = 64;
  int64_t relative_attention_num_buckets = 32;
  int64_t relative_attention_max_distance = 128;
  double layer_norm_epsilon = 1e-6;

  // Error for T5 v1.0 (no gate) and other activations.
  static T5Config from_json(const JsonConfig& json);
  std::string to_json() const;
};

// Bucket [T, T] i64 of every (query, key): its own for each of the nearest distances, then
// logarithmic ones; keys after the query have the upper half.
Tensor t5_buckets(int64_t tokens, int64_t buckets, int64_t max_distance);

struct T5Block {
  std::string name;  // in profiles
  Var attention_norm, feed_forward_norm;
  Linear q, k, v, o, wi_0, wi_1, wo;
  int64_t heads = 1;
  double eps = 1e-6;

  T5Block(const Scope& scope, const T5Config& config);
  // x [B, T, C]; bias [1 or B, H, T, T] of the scores.
  Var operator()(const Var& x, const Var& bias) const;
};

struct T5Output {
  // Embeddings, then the output of every layer but the last, then last_hidden_state.
  std::vector<Var> hidden_states;
  Var last_hidden_state;  // after the final norm
};

class T5EncoderModel {
 public:
  // The table of embeddings is called shared.weight, or as some files have it.
  explicit T5EncoderModel(const T5Config& config, const std::string& embeddings = "shared");
  T5EncoderModel(const T5EncoderModel&) = delete;
  T5EncoderModel& operator=(const T5EncoderModel&) = delete;
  // With bf16 matrices linears round their inputs, while sums and the residual stream are f32
  // (which T5 needs: fp16 overflows in it).
  static std::unique_ptr<T5EncoderModel> load(const std::filesystem::path& folder,
                                              const Placement& to = {});
  void save(const std::filesystem::path& folder) const;

  // ids [B, T] i64 -> token embeddings [B, T, C], f32.
  Var embed(const Tensor& ids) const;
  // From token embeddings. attention_mask [B, T] i64, optional: 1 for keys that may be seen
  // (diffusion pipelines give none: they use the states of padding).
  // The scores of a layer are stored, B x H x T x T: 64 MiB a sample at XXL and T = 512, three
  // times that for every layer when gradients are recorded.
  T5Output forward(const Var& embeds, const Tensor& attention_mask = {}) const;

  const T5Config& config() const { return config_; }
  Params& params() { return params_; }
  const Params& params() const { return params_; }
  Linears linears();

 private:
  Var attention_bias(const Tensor& attention_mask, const Shape& tokens) const;

  T5Config config_;
  Params params_;
  Var embedding_, relative_bias_;
  std::vector<T5Block> blocks_;
  Var final_norm_;
};

}  // namespace parlo
