// config.json of the autoencoder, and its presets.
#include <nlohmann/json.hpp>

#include "models/autoencoder_kl.h"
#include "models/json_config.h"

namespace parlo {
namespace {

// What another value of these fields would change is not done here.
void refuse_others(const JsonConfig& json, const std::string& where) {
  const auto all_are = [&](const char* key, const std::string& expected) {
    for (const std::string& type : json.texts(key)) {
      CHECK(type == expected, where, ": ", key, " holds \"", type, "\", expected \"", expected,
            "\" at every level");
    }
  };
  all_are("down_block_types", "DownEncoderBlock2D");
  all_are("up_block_types", "UpDecoderBlock2D");
  const std::string act = json.text("act_fn", "silu");
  CHECK(act == "silu", where, ": act_fn is \"", act, "\", expected \"silu\"");
  for (const char* key : {"latents_mean", "latents_std"}) {
    CHECK(!json.contains(key), where, ": has ", key,
          ", expected null: latents are scaled by scaling_factor and shift_factor alone");
  }
}

}  // namespace

AutoencoderKlConfig AutoencoderKlConfig::from_json(const std::filesystem::path& path) {
  const JsonConfig json(path);
  const std::string where = path.string();
  refuse_others(json, where);
  AutoencoderKlConfig c;
  // The defaults are those of diffusers, which older files rely on.
  c.in_channels = json.integer("in_channels", 3);
  c.out_channels = json.integer("out_channels", 3);
  c.latent_channels = json.integer("latent_channels", 4);
  c.block_out_channels = json.integers("block_out_channels");
  if (c.block_out_channels.empty()) c.block_out_channels = {64};
  c.layers_per_block = json.integer("layers_per_block", 1);
  c.norm_num_groups = json.integer("norm_num_groups", 32);
  c.sample_size = json.integer("sample_size", 32);
  c.scaling_factor = json.number("scaling_factor", 0.18215);
  c.shift_factor = json.number("shift_factor", 0.0);
  c.use_quant_conv = json.boolean("use_quant_conv", true);
  c.use_post_quant_conv = json.boolean("use_post_quant_conv", true);
  c.mid_block_add_attention = json.boolean("mid_block_add_attention", true);
  CHECK(c.scaling_factor != 0, where, ": scaling_factor is 0, expected another number");
  for (const char* key : {"down_block_types", "up_block_types"}) {
    const size_t n = json.texts(key).size();
    CHECK(n == 0 || n == c.block_out_channels.size(), where, ": ", key, " has ", n,
          " entries, block_out_channels has ", c.block_out_channels.size(),
          ": expected one for each level");
  }
  return c;
}

std::string AutoencoderKlConfig::to_json() const {
  using Names = std::vector<std::string>;
  nlohmann::ordered_json j;
  j["_class_name"] = "AutoencoderKL";
  j["act_fn"] = "silu";
  j["block_out_channels"] = block_out_channels;
  j["down_block_types"] = Names(block_out_channels.size(), "DownEncoderBlock2D");
  j["in_channels"] = in_channels;
  j["latent_channels"] = latent_channels;
  j["layers_per_block"] = layers_per_block;
  j["mid_block_add_attention"] = mid_block_add_attention;
  j["norm_num_groups"] = norm_num_groups;
  j["out_channels"] = out_channels;
  j["sample_size"] = sample_size;
  j["scaling_factor"] = scaling_factor;
  j["shift_factor"] = shift_factor;
  j["up_block_types"] = Names(block_out_channels.size(), "UpDecoderBlock2D");
  j["use_post_quant_conv"] = use_post_quant_conv;
  j["use_quant_conv"] = use_quant_conv;
  return j.dump(2) + "\n";
}

AutoencoderKlConfig sd3_vae() {
  AutoencoderKlConfig c;
  c.scaling_factor = 1.5305;
  c.shift_factor = 0.0609;
  return c;
}

AutoencoderKlConfig flux_vae() {
  AutoencoderKlConfig c;
  c.scaling_factor = 0.3611;
  c.shift_factor = 0.1159;
  return c;
}

AutoencoderKlConfig tiny_vae() {
  AutoencoderKlConfig c;
  c.latent_channels = 4;
  c.block_out_channels = {8, 16, 16};
  c.layers_per_block = 1;
  c.norm_num_groups = 4;
  c.sample_size = 32;
  c.scaling_factor = 1.5;
  c.shift_factor = 0.1;
  return c;
}

}  // namespace parlo
