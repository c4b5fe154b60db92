// config.json of the SD3 transformer, what the original layout says in its place, and presets.
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/json_config.h"
#include "models/sd3_transformer.h"

namespace parlo {

Sd3Config Sd3Config::from_json(const std::filesystem::path& path) {
  const JsonConfig json(path);
  Sd3Config c;
  c.sample_size = json.integer("sample_size", c.sample_size);
  c.patch_size = json.integer("patch_size", c.patch_size);
  c.in_channels = json.integer("in_channels", c.in_channels);
  c.out_channels = json.integer("out_channels", c.in_channels);
  c.num_layers = json.integer("num_layers", c.num_layers);
  c.attention_head_dim = json.integer("attention_head_dim", c.attention_head_dim);
  c.num_attention_heads = json.integer("num_attention_heads", c.num_attention_heads);
  c.joint_attention_dim = json.integer("joint_attention_dim", c.joint_attention_dim);
  c.caption_projection_dim = json.integer("caption_projection_dim", c.width());
  c.pooled_projection_dim = json.integer("pooled_projection_dim", c.pooled_projection_dim);
  c.pos_embed_max_size = json.integer("pos_embed_max_size", c.pos_embed_max_size);
  c.dual_attention_layers = json.integers("dual_attention_layers");
  const std::string norm = json.text("qk_norm", "");
  CHECK(norm.empty() || norm == "rms_norm", path.string(), ": qk_norm is \"", norm,
        "\", expected \"rms_norm\" or null");
  c.qk_norm = !norm.empty();
  CHECK(c.caption_projection_dim == c.width(), path.string(), ": caption_projection_dim is ",
        c.caption_projection_dim, ", expected heads * head_dim = ", c.width());
  return c;
}

namespace {

constexpr const char* kClass = "SD3Transformer2DModel";

// diffusers' single_file_utils.py counts blocks and attn2 the same way, and takes the rest from the
// published model's config.json.
Sd3Config from_shapes(const TransformerFile& file) {
  Sd3Config c;
  const Shape& patches = file.shape("x_embedder.proj.weight", 4);
  const int64_t width = patches[0];
  c.in_channels = patches[1];
  c.patch_size = patches[2];
  c.out_channels = file.shape("final_layer.linear.weight", 2)[0] / (c.patch_size * c.patch_size);
  c.num_layers = file.count("joint_blocks.");
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const std::string block = "joint_blocks." + std::to_string(i);
    if (file.has(block + ".x_block.attn2.qkv.weight")) c.dual_attention_layers.push_back(i);
  }
  const std::string norm = "joint_blocks.0.x_block.attn.ln_q.weight";
  c.qk_norm = file.has(norm);
  // Published widths are 64 a layer, in as many heads as layers.
  c.attention_head_dim = c.qk_norm ? file.shape(norm, 1)[0] : width / c.num_layers;
  c.num_attention_heads = width / std::max<int64_t>(c.attention_head_dim, 1);
  c.joint_attention_dim = file.shape("context_embedder.weight", 2)[1];
  c.caption_projection_dim = width;
  c.pooled_projection_dim = file.shape("y_embedder.mlp.0.weight", 2)[1];
  const auto places = static_cast<double>(file.shape("pos_embed", 3)[1]);
  c.pos_embed_max_size = std::llround(std::sqrt(places));
  CHECK(c.width() == width, file.place.string(), ": x_embedder.proj gives a width of ", width,
        ", which does not divide into heads of ", c.attention_head_dim);
  return c;
}

}  // namespace

Sd3Config Sd3Config::of(const TransformerFile& file) {
  file.check_class(kClass);
  if (!file.original) return from_json(file.config);
  Sd3Config c = from_shapes(file);
  if (const auto beside = file.beside(kClass)) {
    c.sample_size = beside->integer("sample_size", c.sample_size);
  }
  return c;
}

std::string Sd3Config::to_json() const {
  nlohmann::ordered_json j;
  j["_class_name"] = "SD3Transformer2DModel";
  j["attention_head_dim"] = attention_head_dim;
  j["caption_projection_dim"] = caption_projection_dim;
  j["dual_attention_layers"] = dual_attention_layers;
  j["in_channels"] = in_channels;
  j["joint_attention_dim"] = joint_attention_dim;
  j["num_attention_heads"] = num_attention_heads;
  j["num_layers"] = num_layers;
  j["out_channels"] = out_channels;
  j["patch_size"] = patch_size;
  j["pooled_projection_dim"] = pooled_projection_dim;
  j["pos_embed_max_size"] = pos_embed_max_size;
  j["qk_norm"] = qk_norm ? nlohmann::ordered_json("rms_norm") : nlohmann::ordered_json();
  j["sample_size"] = sample_size;
  return j.dump(2) + "\n";
}

Sd3Config sd3_medium() {
  Sd3Config c;
  for (int64_t i = 0; i <= 12; ++i) c.dual_attention_layers.push_back(i);
  return c;
}

Sd3Config sd3_tiny() {
  Sd3Config c;
  c.sample_size = 32;
  c.patch_size = 4;
  c.in_channels = 3;
  c.out_channels = 3;
  c.num_layers = 4;
  c.attention_head_dim = 32;
  c.num_attention_heads = 3;
  c.joint_attention_dim = 64;
  c.caption_projection_dim = 96;
  c.pooled_projection_dim = 64;
  c.pos_embed_max_size = 12;
  c.dual_attention_layers = {0, 1};
  return c;
}

}  // namespace parlo
