#include "models/clip.h"

#include <algorithm>
#include <cmath>

#include "tensor/file.h"
#include "tensor/safetensors.h"

namespace parlo {
namespace {

// Buffers of older checkpoints.
const std::vector<std::string> kIgnored{"position_ids"};
constexpr double kEmbeddingStd = 0.02;

// Index [B] of the token whose state is pooled: the largest id under the legacy setting, else the
// first end-of-text token (the first position when there is none, as the reference's argmax).
std::vector<int64_t> pooled_positions(const Tensor& ids, int64_t eos) {
  const int64_t batch = ids.dim(0), tokens = ids.dim(1);
  const auto values = ids.contiguous();
  std::vector<int64_t> out;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t* row = values.data<int64_t>() + b * tokens;
    const int64_t* at =
        eos == 2 ? std::max_element(row, row + tokens) : std::find(row, row + tokens, eos);
    out.push_back(at == row + tokens ? 0 : at - row);
  }
  return out;
}

// x [B, T, C] -> [B, C]: row positions[b] of sample b.
Var select_tokens(const Var& x, const std::vector<int64_t>& positions) {
  std::vector<int64_t> rows;
  for (size_t b = 0; b < positions.size(); ++b) {
    rows.push_back(static_cast<int64_t>(b) * x.dim(1) + positions[b]);
  }
  const Shape shape{static_cast<int64_t>(rows.size())};
  return gather_rows(reshape(x, {x.dim(0) * x.dim(1), x.dim(2)}), Tensor::from(rows, shape));
}

AttentionArgs attention_args(const ClipTowerConfig& c, bool causal) {
  const double head = static_cast<double>(c.hidden_size / c.num_attention_heads);
  return {1.0 / std::sqrt(head), causal, {}, {}};
}

std::vector<ClipBlock> make_blocks(const Scope& scope, const ClipTowerConfig& c) {
  CHECK(c.hidden_size > 0 && c.intermediate_size > 0, "CLIP: expected positive sizes");
  CHECK(c.num_attention_heads > 0 && c.hidden_size % c.num_attention_heads == 0,
        "CLIP: ", c.num_attention_heads, " heads do not divide hidden_size ", c.hidden_size);
  check_layers("CLIP", c.num_hidden_layers);
  std::vector<ClipBlock> blocks;
  blocks.reserve(static_cast<size_t>(c.num_hidden_layers));
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    blocks.emplace_back(scope / "encoder" / "layers" / static_cast<int>(i), c);
  }
  return blocks;
}

}  // namespace

ClipBlock::ClipBlock(const Scope& scope, const ClipTowerConfig& c)
    : layer_norm1(scope / "layer_norm1", c.hidden_size, c.layer_norm_eps),
      layer_norm2(scope / "layer_norm2", c.hidden_size, c.layer_norm_eps),
      q(scope / "self_attn" / "q_proj", c.hidden_size, c.hidden_size),
      k(scope / "self_attn" / "k_proj", c.hidden_size, c.hidden_size),
      v(scope / "self_attn" / "v_proj", c.hidden_size, c.hidden_size),
      out(scope / "self_attn" / "out_proj", c.hidden_size, c.hidden_size),
      fc1(scope / "mlp" / "fc1", c.hidden_size, c.intermediate_size),
      fc2(scope / "mlp" / "fc2", c.intermediate_size, c.hidden_size),
      heads(c.num_attention_heads),
      activation(c.activation) {}

Var ClipBlock::operator()(const Var& x, const AttentionArgs& args) const {
  const Var n = layer_norm1(x);
  const Var o =
      attention(split_heads(q(n), heads), split_heads(k(n), heads), split_heads(v(n), heads), args);
  const Var h = out(join_heads(o), Activation::none, x);
  return fc2(fc1(layer_norm2(h), activation), Activation::none, h);
}

ClipText::ClipText(const Scope& root, const ClipTowerConfig& c, bool with_projection) : config_(c) {
  CHECK(c.vocab_size > 0 && c.max_position_embeddings > 0,
        "ClipText: expected positive vocab_size and max_position_embeddings");
  const Scope scope = root / "text_model", embed = scope / "embeddings";
  token_embedding_ =
      (embed / "token_embedding")
          .param("weight", {c.vocab_size, c.hidden_size}, Init::normal(kEmbeddingStd));
  position_embedding_ =
      (embed / "position_embedding")
          .param("weight", {c.max_position_embeddings, c.hidden_size}, Init::normal(kEmbeddingStd));
  blocks_ = make_blocks(scope, c);
  final_layer_norm_ = LayerNorm(scope / "final_layer_norm", c.hidden_size, c.layer_norm_eps);
  if (with_projection) {
    CHECK(c.projection_dim > 0, "CLIP: projection_dim is 0 in a tower with a projection");
    projection_ = Linear(root / "text_projection", c.hidden_size, c.projection_dim, false);
  }
}

Var ClipText::embed(const Tensor& ids) const {
  CHECK(ids.rank() == 2 && ids.dtype() == DType::i64,
        "ClipText: input_ids must be [B, T] i64, got ", ids.shape(), " ", dtype_name(ids.dtype()));
  return gather_rows(token_embedding_, ids);
}

ClipTextOutput ClipText::forward(const Var& embeds, const Tensor& ids,
                                 const Tensor& attention_mask) const {
  const int64_t tokens = ids.dim(1);
  check_shape("ClipText", "embeddings", embeds.value(), {ids.dim(0), tokens, config_.hidden_size});
  CHECK(tokens <= config_.max_position_embeddings, "ClipText: ", tokens,
        " tokens, expected at most ", config_.max_position_embeddings);
  AttentionArgs args = attention_args(config_, true);
  if (attention_mask) {
    check_shape("ClipText", "attention_mask", attention_mask, ids.shape());
    args.key_mask = attention_mask.to(DType::u8).contiguous();
  }
  ClipTextOutput r;
  Var x = add(embeds, slice(position_embedding_, 0, 0, tokens));
  r.hidden_states.push_back(x);
  for (const ClipBlock& block : blocks_) r.hidden_states.push_back(x = block(x, args));
  r.last_hidden_state = final_layer_norm_(x);
  r.pooler_output = select_tokens(r.last_hidden_state, pooled_positions(ids, config_.eos_token_id));
  if (projection_.weight) r.text_embeds = projection_(r.pooler_output);
  return r;
}

namespace {

void collect_blocks(std::vector<ClipBlock>& blocks, Linear& projection, Linears& out) {
  for (ClipBlock& b : blocks) {
    for (Linear* l : {&b.q, &b.k, &b.v, &b.out, &b.fc1, &b.fc2}) out.push_back(l);
  }
  if (projection.weight) out.push_back(&projection);
}

}  // namespace

void ClipText::collect(Linears& out) {
  collect_blocks(blocks_, projection_, out);
}
void ClipVision::collect(Linears& out) {
  collect_blocks(blocks_, projection_, out);
}

ClipVision::ClipVision(const Scope& root, const ClipTowerConfig& c, bool with_projection)
    : config_(c) {
  CHECK(c.patch_size > 0 && c.image_size > 0 && c.image_size % c.patch_size == 0,
        "ClipVision: image_size ", c.image_size, " is not a multiple of patch_size ", c.patch_size);
  CHECK(c.num_channels > 0, "ClipVision: num_channels is 0");
  check_patch("ClipVision", c.patch_size);
  const Scope scope = root / "vision_model", embed = scope / "embeddings";
  const int64_t side = c.image_size / c.patch_size;
  class_embedding_ = embed.param("class_embedding", {c.hidden_size}, Init::normal(kEmbeddingStd));
  patch_embedding_ =
      PatchEmbed(embed / "patch_embedding", c.num_channels, c.hidden_size, c.patch_size, false);
  position_embedding_ =
      (embed / "position_embedding")
          .param("weight", {side * side + 1, c.hidden_size}, Init::normal(kEmbeddingStd));
  pre_layer_norm_ = LayerNorm(scope / "pre_layrnorm", c.hidden_size, c.layer_norm_eps);
  blocks_ = make_blocks(scope, c);
  post_layer_norm_ = LayerNorm(scope / "post_layernorm", c.hidden_size, c.layer_norm_eps);
  if (with_projection) {
    CHECK(c.projection_dim > 0, "CLIP: projection_dim is 0 in a tower with a projection");
    projection_ = Linear(root / "visual_projection", c.hidden_size, c.projection_dim, false);
  }
}

ClipVisionOutput ClipVision::forward(const Var& pixels) const {
  const ClipTowerConfig& c = config_;
  check_shape("ClipVision", "pixel_values", pixels.value(),
              {pixels.rank() == 4 ? pixels.dim(0) : 1, c.num_channels, c.image_size, c.image_size});
  const int64_t batch = pixels.dim(0);
  // The class token as [B, 1, C], through the graph of its one row.
  const Var rows = gather_rows(reshape(class_embedding_, {1, c.hidden_size}),
                               Tensor::zeros({batch, 1}, DType::i64));
  Var x = cat(std::vector<Var>{rows, patch_embedding_(pixels)}, 1);
  x = pre_layer_norm_(add(x, position_embedding_));
  ClipVisionOutput r;
  r.hidden_states.push_back(x);
  const AttentionArgs args = attention_args(c, false);
  for (const ClipBlock& block : blocks_) r.hidden_states.push_back(x = block(x, args));
  r.last_hidden_state = x;
  r.pooler_output =
      post_layer_norm_(select_tokens(x, std::vector<int64_t>(static_cast<size_t>(batch), 0)));
  if (projection_.weight) r.image_embeds = projection_(r.pooler_output);
  return r;
}

ClipModel::ClipModel(const ClipConfig& config)
    : config_(config),
      logit_scale_(params_.declare("logit_scale", {}, {0.0, config.logit_scale_init})),
      text_(Scope(params_), config_.text, true),
      vision_(Scope(params_), config_.vision, true) {}

Var ClipModel::text_features(const Tensor& ids, const Tensor& attention_mask) const {
  return l2_normalize(text_.forward(text_.embed(ids), ids, attention_mask).text_embeds);
}

Var ClipModel::image_features(const Var& pixel_values) const {
  return l2_normalize(vision_.forward(pixel_values).image_embeds);
}

ClipOutput ClipModel::forward(const Var& token_embeds, const Tensor& ids, const Var& pixel_values,
                              const Tensor& attention_mask) const {
  ClipOutput r;
  r.text_embeds = l2_normalize(text_.forward(token_embeds, ids, attention_mask).text_embeds);
  r.image_embeds = image_features(pixel_values);
  const Var scale = reshape(exp(logit_scale_), {1, 1});
  r.logits_per_text = mul(matmul(r.text_embeds, r.image_embeds, false, true), scale);
  r.logits_per_image = permute(r.logits_per_text, {1, 0});
  return r;
}

Linears ClipModel::linears() {
  Linears out;
  text_.collect(out);
  vision_.collect(out);
  return out;
}

Linears ClipTextModel::linears() {
  Linears out;
  tower_.collect(out);
  return out;
}

Linears ClipVisionModel::linears() {
  Linears out;
  tower_.collect(out);
  return out;
}

namespace {

// transformers 5 saves a tower alone without the prefix that published checkpoints have.
std::string omitted_prefix(const SafeTensors& file, const std::string& prefix) {
  for (const std::string& name : file.names()) {
    if (name.starts_with(prefix)) return "";
  }
  return prefix;
}

// A file's tensors under the names of the parameters, which have a prefix that the file leaves out.
std::vector<StoredTensor> stored_behind(const SafeTensors& file, const std::string& omitted,
                                        const Params& params) {
  std::vector<StoredTensor> out = stored_by_name(file);
  for (StoredTensor& s : out) {
    if (params.contains(omitted + s.name)) s.name = omitted + s.name;
  }
  return out;
}

// An adapter for such a checkpoint names its modules without the prefix as well.
void drop_prefix(const Linears& linears, const std::string& prefix) {
  for (Linear* l : linears) {
    if (l->name.starts_with(prefix)) l->name.erase(0, prefix.size());
  }
}

}  // namespace

std::unique_ptr<ClipModel> ClipModel::load(const std::filesystem::path& folder,
                                           const Placement& to) {
  auto model = std::make_unique<ClipModel>(ClipConfig::from_json(folder / "config.json"));
  model->params_.load(folder, "model", to, kIgnored);
  return model;
}

void ClipModel::save(const std::filesystem::path& folder) const {
  make_folders(folder);
  save_safetensors(folder / "model.safetensors", params_.tensors(), {{"format", "pt"}});
  write_file(folder / "config.json", config_.to_json());
}

ClipTextModel::ClipTextModel(const ClipTowerConfig& config, bool with_projection)
    : tower_(Scope(params_), config, with_projection) {}

std::unique_ptr<ClipTextModel> ClipTextModel::load(const std::filesystem::path& folder,
                                                   const Placement& to) {
  const auto config = ClipTowerConfig::from_json(JsonConfig(folder / "config.json"));
  const SafeTensors file = SafeTensors::open_sharded(folder, "model");
  const std::string omitted = omitted_prefix(file, "text_model.");
  auto model = std::make_unique<ClipTextModel>(config, file.contains("text_projection.weight"));
  model->params_.load(file, folder.string(), stored_behind(file, omitted, model->params_), to,
                      kIgnored);
  drop_prefix(model->linears(), omitted);
  return model;
}

std::unique_ptr<ClipTextModel> ClipTextModel::of(ClipModel& clip) {
  auto model = std::make_unique<ClipTextModel>(clip.config().text, true);
  for (const NamedVar& p : model->params_.vars()) {
    p.var.state()->value = clip.params().at(p.name).value();
  }
  return model;
}

void ClipTextModel::save(const std::filesystem::path& folder) const {
  make_folders(folder);
  save_safetensors(folder / "model.safetensors", params_.tensors(), {{"format", "pt"}});
  write_file(folder / "config.json", tower_.config().text_json());
}

ClipVisionModel::ClipVisionModel(const ClipTowerConfig& config, bool with_projection)
    : tower_(Scope(params_), config, with_projection) {}

std::unique_ptr<ClipVisionModel> ClipVisionModel::load(const std::filesystem::path& folder,
                                                       const Placement& to) {
  const auto config = ClipTowerConfig::from_json(JsonConfig(folder / "config.json"));
  const SafeTensors file = SafeTensors::open_sharded(folder, "model");
  const std::string omitted = omitted_prefix(file, "vision_model.");
  auto model = std::make_unique<ClipVisionModel>(config, file.contains("visual_projection.weight"));
  model->params_.load(file, folder.string(), stored_behind(file, omitted, model->params_), to,
                      kIgnored);
  drop_prefix(model->linears(), omitted);
  return model;
}

}  // namespace parlo
