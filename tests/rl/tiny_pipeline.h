// A whole text-to-image pipeline of a few thousand random weights, and rewards that are a formula
// of the pixels: training then takes milliseconds and what should happen can be worked out.
#pragma once

#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "autograd/functions.h"
#include "lora/adapter.h"
#include "models/sd3_pipeline.h"
#include "rl/rewards/reward.h"
#include "tests/support.h"

namespace parlo::test {

struct TinyParts {
  std::unique_ptr<Sd3Transformer> transformer;
  std::shared_ptr<ClipTextModel> encoder;
  std::shared_ptr<ClipTokenizer> tokenizer;
  ClipVocab vocab;
};

// size: height and width in pixels, a multiple of 4.
inline TinyParts tiny_parts(int64_t size = 8, uint64_t seed = 7) {
  TinyParts t;
  t.vocab = build_clip_vocab({"red", "green", "blue", "circle", "square"});
  t.tokenizer = std::make_shared<ClipTokenizer>(t.vocab);
  ClipTowerConfig text;
  text.hidden_size = 16;
  text.intermediate_size = 32;
  text.num_hidden_layers = 2;
  text.num_attention_heads = 2;
  text.max_position_embeddings = 8;
  text.vocab_size = t.tokenizer->size();
  text.eos_token_id = t.tokenizer->eos_id();
  text.projection_dim = 16;
  t.encoder = std::make_shared<ClipTextModel>(text, true);
  t.encoder->params().initialise(RandomKey(seed).fold("text"));
  Sd3Config c;
  c.sample_size = size;
  c.patch_size = size / 4;
  c.in_channels = c.out_channels = 3;
  c.num_layers = 2;
  c.attention_head_dim = 8;
  c.num_attention_heads = 2;
  c.joint_attention_dim = 16;
  c.caption_projection_dim = 16;
  c.pooled_projection_dim = 16;
  c.pos_embed_max_size = 6;
  c.dual_attention_layers = {0};
  t.transformer = std::make_unique<Sd3Transformer>(c);
  t.transformer->params().initialise(RandomKey(seed).fold("image"));
  return t;
}

inline std::unique_ptr<Sd3Pipeline> tiny_pipeline(int64_t size = 8, uint64_t seed = 7) {
  TinyParts t = tiny_parts(size, seed);
  return std::make_unique<Sd3Pipeline>(std::move(t.transformer), t.encoder, t.tokenizer, 1.0);
}

// The same as a model folder.
inline void write_tiny_pipeline(const std::filesystem::path& folder, int64_t size,
                                uint64_t seed = 7) {
  const TinyParts t = tiny_parts(size, seed);
  t.transformer->save(folder / "transformer");
  t.encoder->save(folder / "text_encoder");
  make_folders(folder / "tokenizer");
  make_folders(folder / "scheduler");
  write_file(folder / "tokenizer" / "vocab.json", t.vocab.vocab_json);
  write_file(folder / "tokenizer" / "merges.txt", t.vocab.merges_txt);
  write_file(folder / "scheduler" / "scheduler_config.json", flow_scheduler_json(1.0));
}

inline std::vector<Prompt> tiny_prompts(int64_t count, int64_t first_id = 0) {
  const char* words[] = {"red circle", "green square", "blue circle", "red square", "blue square"};
  std::vector<Prompt> prompts;
  for (int64_t i = 0; i < count; ++i) {
    Prompt p;
    p.id = first_id + i;
    p.text = words[p.id % 5];
    prompts.push_back(p);
  }
  return prompts;
}

// Mean of one colour less the mean of the others, in -1 .. 1.
inline double dominance(const Image& image, int channel) {
  double sum = 0;
  for (size_t i = 0; i < image.rgb.size(); ++i) {
    sum += image.rgb[i] * (static_cast<int>(i % 3) == channel ? 1.0 : -0.5);
  }
  return sum / 255.0 / static_cast<double>(image.rgb.size() / 3);
}

inline Reward colour_reward(int channel) {
  const char* names[] = {"redness", "greenness", "blueness"};
  return reward_of_judge(names[channel],
                         [=](const Image& i, const Prompt&) { return dominance(i, channel); });
}

inline AdapterConfig tiny_lora() {
  AdapterConfig c;
  c.r = 2;
  c.lora_alpha = 4;
  c.target_modules.names = {"attn.to_q",     "attn.to_k",       "attn.to_v",
                            "attn.to_out.0", "attn.add_v_proj", "ff.net.2"};
  return c;
}

// An adapter whose B is not zero, as after some training.
inline LoraAdapter trained_adapter(const Linears& linears, uint64_t seed, double size = 0.2) {
  const LoraAdapter adapter = LoraAdapter::create(linears, tiny_lora(), RandomKey(seed));
  for (const NamedVar& p : adapter.params()) {
    if (!p.name.ends_with("lora_B.weight")) continue;
    p.var.value().copy_from(
        random_normal(RandomKey(seed).fold(p.name).fold("b"), p.var.shape(), size));
  }
  return adapter;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (!(a.shape() == b.shape()) || a.dtype() != b.dtype()) return false;
  const Tensor x = a.contiguous(), y = b.contiguous();
  return std::memcmp(x.raw(), y.raw(), x.nbytes()) == 0;
}

inline bool same_bits(const std::vector<std::pair<std::string, Tensor>>& a,
                      const std::vector<std::pair<std::string, Tensor>>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].first != b[i].first || !same_bits(a[i].second, b[i].second)) return false;
  }
  return true;
}

// Copies of an adapter's tensors.
inline std::vector<std::pair<std::string, Tensor>> snapshot(const LoraAdapter& adapter) {
  std::vector<std::pair<std::string, Tensor>> out;
  for (const NamedVar& p : adapter.params()) out.emplace_back(p.name, p.var.value().clone());
  return out;
}

// A model in front of another: notes what goes through it and spoils it on demand.
class WatchedModel : public FlowModel {
 public:
  explicit WatchedModel(FlowModel& inner) : inner_(inner) {}

  Shape latent_shape() const override { return inner_.latent_shape(); }
  Condition encode(std::span<const std::string> prompts) override {
    for (const std::string& p : prompts) unprepared += !prepared.contains(p);
    return inner_.encode(prompts);
  }
  void prepare(std::span<const std::string> prompts) override {
    prepared.insert(prompts.begin(), prompts.end());
    ++prepares;
  }
  using FlowModel::velocity;
  Tensor noise_features(std::span<const double> sigmas) const override {
    last_sigma_ = sigmas[0];
    return inner_.noise_features(sigmas);
  }
  Var velocity(const Var& x, const Tensor& noise, const Condition& condition) const override {
    if (!grad_enabled() && device().is_cpu()) {  // a recording may keep nothing
      inputs.push_back(x.value().clone());
      input_sigmas.push_back(last_sigma_);
      conditions.push_back(condition);
    }
    const Var v = inner_.velocity(x, noise, condition);
    const bool spoil = grad_enabled() && spoil_training;
    return spoil ? affine(v, std::numeric_limits<double>::quiet_NaN()) : v;
  }
  Tensor decode(const Tensor& latents) const override {
    decoded.push_back(latents.clone());
    return inner_.decode(latents);
  }
  std::vector<double> sigmas(int64_t steps) const override { return inner_.sigmas(steps); }
  Linears linears() override { return inner_.linears(); }
  Params& params() override { return inner_.params(); }
  MmditBase& transformer() override { return inner_.transformer(); }
  Device device() const override { return inner_.device(); }

  // Of the calls without gradients.
  mutable std::vector<Tensor> inputs;
  mutable std::vector<double> input_sigmas;
  mutable std::vector<Condition> conditions;
  mutable std::vector<Tensor> decoded;
  std::set<std::string> prepared;
  int64_t prepares = 0, unprepared = 0;  // calls of prepare; prompts encoded without it
  bool spoil_training = false;

 private:
  FlowModel& inner_;
  mutable double last_sigma_ = 0;
};

}  // namespace parlo::test
