// config.json of the FLUX transformer, what the original layout says in its place, and presets.
#include <nlohmann/json.hpp>
#include <numeric>

#include "models/flux_transformer.h"
#include "models/json_config.h"

namespace parlo {

namespace {

constexpr const char* kClass = "FluxTransformer2DModel";

void check_axes(const FluxConfig& c, const std::string& where) {
  int64_t rotated = 0;
  bool even = true;
  for (int64_t d : c.axes_dims_rope) rotated += d, even = even && d > 0 && d % 2 == 0;
  CHECK(even && rotated == c.attention_head_dim, where,
        ": axes_dims_rope must be even sizes with the sum attention_head_dim = ",
        c.attention_head_dim, ", got a sum of ", rotated);
}

FluxConfig from_shapes(const TransformerFile& file) {
  FluxConfig c;
  const Shape& tokens = file.shape("img_in.weight", 2);
  c.in_channels = tokens[1];
  c.out_channels = file.shape("final_layer.linear.weight", 2)[0];
  c.num_layers = file.count("double_blocks.");
  c.num_single_layers = file.count("single_blocks.");
  c.attention_head_dim = file.shape("double_blocks.0.img_attn.norm.query_norm.scale", 1)[0];
  c.num_attention_heads = tokens[0] / c.attention_head_dim;
  c.joint_attention_dim = file.shape("txt_in.weight", 2)[1];
  c.pooled_projection_dim = file.shape("vector_in.in_layer.weight", 2)[1];
  c.guidance_embeds = file.has("guidance_in.in_layer.weight");
  CHECK(c.width() == tokens[0], file.place.string(), ": img_in gives a width of ", tokens[0],
        ", which does not divide into heads of ", c.attention_head_dim);
  return c;
}

}  // namespace

FluxConfig FluxConfig::of(const TransformerFile& file) {
  file.check_class(kClass);
  if (!file.original) return from_json(file.config);
  FluxConfig c = from_shapes(file);
  const auto beside = file.beside(kClass);
  if (beside && beside->contains("axes_dims_rope")) {
    c.axes_dims_rope = beside->integers("axes_dims_rope");
  }
  check_axes(c, (beside ? file.config : file.place).string());
  return c;
}

FluxConfig FluxConfig::from_json(const std::filesystem::path& path) {
  const JsonConfig json(path);
  FluxConfig c;
  const int64_t patch = json.integer("patch_size", 1);
  CHECK(patch == 1, path.string(), ": patch_size is ", patch,
        ", expected 1 (tokens are packed outside of the transformer)");
  c.in_channels = json.integer("in_channels", c.in_channels);
  c.out_channels = json.integer("out_channels", c.in_channels);
  c.num_layers = json.integer("num_layers", c.num_layers);
  c.num_single_layers = json.integer("num_single_layers", c.num_single_layers);
  c.attention_head_dim = json.integer("attention_head_dim", c.attention_head_dim);
  c.num_attention_heads = json.integer("num_attention_heads", c.num_attention_heads);
  c.joint_attention_dim = json.integer("joint_attention_dim", c.joint_attention_dim);
  c.pooled_projection_dim = json.integer("pooled_projection_dim", c.pooled_projection_dim);
  c.guidance_embeds = json.boolean("guidance_embeds", c.guidance_embeds);
  if (json.contains("axes_dims_rope")) c.axes_dims_rope = json.integers("axes_dims_rope");
  check_axes(c, path.string());
  return c;
}

std::string FluxConfig::to_json() const {
  nlohmann::ordered_json j;
  j["_class_name"] = "FluxTransformer2DModel";
  j["attention_head_dim"] = attention_head_dim;
  j["axes_dims_rope"] = axes_dims_rope;
  j["guidance_embeds"] = guidance_embeds;
  j["in_channels"] = in_channels;
  j["joint_attention_dim"] = joint_attention_dim;
  j["num_attention_heads"] = num_attention_heads;
  j["num_layers"] = num_layers;
  j["num_single_layers"] = num_single_layers;
  j["out_channels"] =
      out_channels == in_channels ? nlohmann::ordered_json() : nlohmann::ordered_json(out_channels);
  j["patch_size"] = 1;
  j["pooled_projection_dim"] = pooled_projection_dim;
  return j.dump(2) + "\n";
}

FluxConfig flux_dev() {
  FluxConfig c;
  c.guidance_embeds = true;
  return c;
}

FluxConfig flux_tiny() {
  FluxConfig c;
  c.in_channels = 48;
  c.out_channels = 48;
  c.num_layers = 2;
  c.num_single_layers = 4;
  c.attention_head_dim = 32;
  c.num_attention_heads = 3;
  c.joint_attention_dim = 64;
  c.pooled_projection_dim = 64;
  c.guidance_embeds = false;
  c.axes_dims_rope = {8, 12, 12};
  return c;
}

}  // namespace parlo
