// Names of the autoencoder's tensors outside of diffusers: those of the original repositories
// (encoder.down.0.block.1.conv1, decoder.up.3 being the first that runs) and of old diffusers
// versions (query, key, value, proj_attn).
#include <array>
#include <string_view>

#include "models/autoencoder_kl.h"

namespace parlo {
namespace {

struct Rule {
  std::string_view from, to;
};

constexpr Rule kRules[] = {
    {"encoder.down.", "encoder.down_blocks."},
    {".block.", ".resnets."},
    {".downsample.conv.", ".downsamplers.0.conv."},
    {".upsample.conv.", ".upsamplers.0.conv."},
    {".nin_shortcut.", ".conv_shortcut."},
    {"coder.norm_out.", "coder.conv_norm_out."},
    {".mid.block_1.", ".mid_block.resnets.0."},
    {".mid.block_2.", ".mid_block.resnets.1."},
    {".mid.attn_1.norm.", ".mid_block.attentions.0.group_norm."},
    {".mid.attn_1.q.", ".mid_block.attentions.0.to_q."},
    {".mid.attn_1.k.", ".mid_block.attentions.0.to_k."},
    {".mid.attn_1.v.", ".mid_block.attentions.0.to_v."},
    {".mid.attn_1.proj_out.", ".mid_block.attentions.0.to_out.0."},
    {".attentions.0.query.", ".attentions.0.to_q."},
    {".attentions.0.key.", ".attentions.0.to_k."},
    {".attentions.0.value.", ".attentions.0.to_v."},
    {".attentions.0.proj_attn.", ".attentions.0.to_out.0."},
};

constexpr std::string_view kUp = "decoder.up.";
constexpr std::array<std::string_view, 2> kPrefixes = {"first_stage_model.", "vae."};

// Attention's projections, which the original repositories store as 1x1 convolutions.
bool is_linear(const std::string& name) {
  return name.find(".attentions.0.to_") != std::string::npos && name.ends_with(".weight");
}

}  // namespace

std::string autoencoder_kl_name(const std::string& given, int64_t levels) {
  std::string name = given;
  const size_t dot = name.find('.', kUp.size());
  if (name.starts_with(kUp) && dot == kUp.size() + 1) {  // one digit: there are a few levels
    const int64_t index = name[kUp.size()] - '0';
    if (index < 0 || index >= levels) return given;
    name = "decoder.up_blocks." + std::to_string(levels - 1 - index) + name.substr(dot);
  }
  for (const Rule& rule : kRules) {
    const size_t at = name.find(rule.from);
    if (at != std::string::npos) name.replace(at, rule.from.size(), rule.to);
  }
  return name;
}

std::string_view autoencoder_kl_prefix(const SafeTensors& file) {
  for (const std::string_view prefix : kPrefixes) {
    for (const std::string& name : file.names()) {
      if (name.starts_with(prefix)) return prefix;
    }
  }
  return {};
}

std::vector<StoredTensor> autoencoder_kl_tensors(const SafeTensors& file, int64_t levels) {
  const std::string_view prefix = autoencoder_kl_prefix(file);
  std::vector<StoredTensor> out;
  for (const std::string& full : file.names()) {
    if (!full.starts_with(prefix)) continue;  // another part of the whole model
    const std::string name = autoencoder_kl_name(full.substr(prefix.size()), levels);
    Shape shape = file.info(full).shape;
    if (is_linear(name) && shape.rank() == 4 && shape[2] == 1 && shape[3] == 1) {
      shape = {shape[0], shape[1]};
    }
    out.push_back({name, full, shape});
  }
  return out;
}

}  // namespace parlo
