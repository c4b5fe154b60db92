#include "models/original_names.h"

#include <algorithm>
#include <cctype>
#include <span>

namespace parlo {
namespace {

// '*' is a block's number; {a,b,c} are the parts of one original linear, in the order of its rows.
struct Row {
  std::string_view original, diffusers;
  bool swaps_halves = false;
};

// diffusers: convert_sd3_to_diffusers.py
constexpr Row kSd3[] = {
    {"x_embedder.proj", "pos_embed.proj"},
    {"t_embedder.mlp.0", "time_text_embed.timestep_embedder.linear_1"},
    {"t_embedder.mlp.2", "time_text_embed.timestep_embedder.linear_2"},
    {"y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"},
    {"y_embedder.mlp.2", "time_text_embed.text_embedder.linear_2"},
    {"context_embedder", "context_embedder"},
    {"joint_blocks.*.x_block.adaLN_modulation.1", "transformer_blocks.*.norm1.linear"},
    // Swapped in the last block only, which alone has no more than two chunks.
    {"joint_blocks.*.context_block.adaLN_modulation.1", "transformer_blocks.*.norm1_context.linear",
     true},
    {"joint_blocks.*.x_block.attn.qkv", "transformer_blocks.*.attn.{to_q,to_k,to_v}"},
    {"joint_blocks.*.context_block.attn.qkv",
     "transformer_blocks.*.attn.{add_q_proj,add_k_proj,add_v_proj}"},
    {"joint_blocks.*.x_block.attn.ln_q", "transformer_blocks.*.attn.norm_q"},
    {"joint_blocks.*.x_block.attn.ln_k", "transformer_blocks.*.attn.norm_k"},
    {"joint_blocks.*.context_block.attn.ln_q", "transformer_blocks.*.attn.norm_added_q"},
    {"joint_blocks.*.context_block.attn.ln_k", "transformer_blocks.*.attn.norm_added_k"},
    {"joint_blocks.*.x_block.attn2.ln_q", "transformer_blocks.*.attn2.norm_q"},
    {"joint_blocks.*.x_block.attn2.ln_k", "transformer_blocks.*.attn2.norm_k"},
    {"joint_blocks.*.x_block.attn.proj", "transformer_blocks.*.attn.to_out.0"},
    {"joint_blocks.*.context_block.attn.proj", "transformer_blocks.*.attn.to_add_out"},
    {"joint_blocks.*.x_block.attn2.qkv", "transformer_blocks.*.attn2.{to_q,to_k,to_v}"},
    {"joint_blocks.*.x_block.attn2.proj", "transformer_blocks.*.attn2.to_out.0"},
    {"joint_blocks.*.x_block.mlp.fc1", "transformer_blocks.*.ff.net.0.proj"},
    {"joint_blocks.*.x_block.mlp.fc2", "transformer_blocks.*.ff.net.2"},
    {"joint_blocks.*.context_block.mlp.fc1", "transformer_blocks.*.ff_context.net.0.proj"},
    {"joint_blocks.*.context_block.mlp.fc2", "transformer_blocks.*.ff_context.net.2"},
    {"final_layer.adaLN_modulation.1", "norm_out.linear", true},
    {"final_layer.linear", "proj_out"},
};

// diffusers: convert_flux_to_diffusers.py
constexpr Row kFlux[] = {
    {"img_in", "x_embedder"},
    {"txt_in", "context_embedder"},
    {"time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"},
    {"time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"},
    {"guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"},
    {"guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"},
    {"vector_in.in_layer", "time_text_embed.text_embedder.linear_1"},
    {"vector_in.out_layer", "time_text_embed.text_embedder.linear_2"},
    {"double_blocks.*.img_mod.lin", "transformer_blocks.*.norm1.linear"},
    {"double_blocks.*.txt_mod.lin", "transformer_blocks.*.norm1_context.linear"},
    {"double_blocks.*.img_attn.qkv", "transformer_blocks.*.attn.{to_q,to_k,to_v}"},
    {"double_blocks.*.txt_attn.qkv",
     "transformer_blocks.*.attn.{add_q_proj,add_k_proj,add_v_proj}"},
    {"double_blocks.*.img_attn.norm.query_norm", "transformer_blocks.*.attn.norm_q"},
    {"double_blocks.*.img_attn.norm.key_norm", "transformer_blocks.*.attn.norm_k"},
    {"double_blocks.*.txt_attn.norm.query_norm", "transformer_blocks.*.attn.norm_added_q"},
    {"double_blocks.*.txt_attn.norm.key_norm", "transformer_blocks.*.attn.norm_added_k"},
    {"double_blocks.*.img_attn.proj", "transformer_blocks.*.attn.to_out.0"},
    {"double_blocks.*.txt_attn.proj", "transformer_blocks.*.attn.to_add_out"},
    {"double_blocks.*.img_mlp.0", "transformer_blocks.*.ff.net.0.proj"},
    {"double_blocks.*.img_mlp.2", "transformer_blocks.*.ff.net.2"},
    {"double_blocks.*.txt_mlp.0", "transformer_blocks.*.ff_context.net.0.proj"},
    {"double_blocks.*.txt_mlp.2", "transformer_blocks.*.ff_context.net.2"},
    {"single_blocks.*.modulation.lin", "single_transformer_blocks.*.norm.linear"},
    {"single_blocks.*.linear1",
     "single_transformer_blocks.*.{attn.to_q,attn.to_k,attn.to_v,proj_mlp}"},
    {"single_blocks.*.linear2", "single_transformer_blocks.*.proj_out"},
    {"single_blocks.*.norm.query_norm", "single_transformer_blocks.*.attn.norm_q"},
    {"single_blocks.*.norm.key_norm", "single_transformer_blocks.*.attn.norm_k"},
    {"final_layer.adaLN_modulation.1", "norm_out.linear", true},
    {"final_layer.linear", "proj_out"},
};

// diffusers: convert_hunyuan_video_to_diffusers.py
constexpr Row kHunyuanVideo[] = {
    {"img_in.proj", "x_embedder.proj"},
    {"txt_in.input_embedder", "context_embedder.proj_in"},
    {"txt_in.t_embedder.mlp.0", "context_embedder.time_text_embed.timestep_embedder.linear_1"},
    {"txt_in.t_embedder.mlp.2", "context_embedder.time_text_embed.timestep_embedder.linear_2"},
    {"txt_in.c_embedder.linear_1", "context_embedder.time_text_embed.text_embedder.linear_1"},
    {"txt_in.c_embedder.linear_2", "context_embedder.time_text_embed.text_embedder.linear_2"},
    {"txt_in.individual_token_refiner.blocks.*.self_attn_qkv",
     "context_embedder.token_refiner.refiner_blocks.*.attn.{to_q,to_k,to_v}"},
    {"txt_in.individual_token_refiner.blocks.*.self_attn_proj",
     "context_embedder.token_refiner.refiner_blocks.*.attn.to_out.0"},
    {"txt_in.individual_token_refiner.blocks.*.mlp.fc1",
     "context_embedder.token_refiner.refiner_blocks.*.ff.net.0.proj"},
    {"txt_in.individual_token_refiner.blocks.*.mlp.fc2",
     "context_embedder.token_refiner.refiner_blocks.*.ff.net.2"},
    {"txt_in.individual_token_refiner.blocks.*.adaLN_modulation.1",
     "context_embedder.token_refiner.refiner_blocks.*.norm_out.linear"},
    {"time_in.mlp.0", "time_text_embed.timestep_embedder.linear_1"},
    {"time_in.mlp.2", "time_text_embed.timestep_embedder.linear_2"},
    {"guidance_in.mlp.0", "time_text_embed.guidance_embedder.linear_1"},
    {"guidance_in.mlp.2", "time_text_embed.guidance_embedder.linear_2"},
    {"vector_in.in_layer", "time_text_embed.text_embedder.linear_1"},
    {"vector_in.out_layer", "time_text_embed.text_embedder.linear_2"},
    {"double_blocks.*.img_mod.linear", "transformer_blocks.*.norm1.linear"},
    {"double_blocks.*.txt_mod.linear", "transformer_blocks.*.norm1_context.linear"},
    {"double_blocks.*.img_attn_qkv", "transformer_blocks.*.attn.{to_q,to_k,to_v}"},
    {"double_blocks.*.txt_attn_qkv",
     "transformer_blocks.*.attn.{add_q_proj,add_k_proj,add_v_proj}"},
    {"double_blocks.*.img_attn_proj", "transformer_blocks.*.attn.to_out.0"},
    {"double_blocks.*.txt_attn_proj", "transformer_blocks.*.attn.to_add_out"},
    {"double_blocks.*.img_mlp.fc1", "transformer_blocks.*.ff.net.0.proj"},
    {"double_blocks.*.img_mlp.fc2", "transformer_blocks.*.ff.net.2"},
    {"double_blocks.*.txt_mlp.fc1", "transformer_blocks.*.ff_context.net.0.proj"},
    {"double_blocks.*.txt_mlp.fc2", "transformer_blocks.*.ff_context.net.2"},
    {"single_blocks.*.modulation.linear", "single_transformer_blocks.*.norm.linear"},
    {"single_blocks.*.linear1",
     "single_transformer_blocks.*.{attn.to_q,attn.to_k,attn.to_v,proj_mlp}"},
    {"single_blocks.*.linear2", "single_transformer_blocks.*.proj_out"},
    {"final_layer.adaLN_modulation.1", "norm_out.linear", true},
    {"final_layer.linear", "proj_out"},
};

std::span<const Row> rows_of(ModelFamily family) {
  switch (family) {
    case ModelFamily::sd3:
      return kSd3;
    case ModelFamily::flux:
      return kFlux;
    case ModelFamily::hunyuan_video:
      return kHunyuanVideo;
  }
  return {};
}

// The block's number in `name` when it has the form of `pattern`; "" where the form has none.
std::optional<std::string> match(std::string pattern, std::string_view name, Spelling spelling) {
  if (spelling == Spelling::flat) std::replace(pattern.begin(), pattern.end(), '.', '_');
  const size_t star = pattern.find('*');
  if (star == std::string::npos) return pattern == name ? std::optional("") : std::nullopt;
  const std::string_view before = std::string_view(pattern).substr(0, star);
  const std::string_view after = std::string_view(pattern).substr(star + 1);
  if (name.size() <= before.size() + after.size()) return std::nullopt;
  if (!name.starts_with(before) || !name.ends_with(after)) return std::nullopt;
  const std::string_view number =
      name.substr(before.size(), name.size() - before.size() - after.size());
  const auto digit = [](unsigned char c) { return std::isdigit(c) != 0; };
  if (!std::all_of(number.begin(), number.end(), digit)) return std::nullopt;
  if (number.size() > 2 || std::stoi(std::string(number)) >= kMaxBlocks) return std::nullopt;
  return std::string(number);
}

std::string with_number(std::string_view pattern, const std::string& number) {
  std::string out(pattern);
  if (const size_t star = out.find('*'); star != std::string::npos) out.replace(star, 1, number);
  return out;
}

// "a.{b,c}" -> a.b, a.c
std::vector<std::string> expand(std::string_view diffusers) {
  const size_t open = diffusers.find('{');
  if (open == std::string_view::npos) return {std::string(diffusers)};
  std::vector<std::string> out;
  for (size_t at = open + 1; at < diffusers.size();) {
    const size_t end = diffusers.find_first_of(",}", at);
    out.push_back(std::string(diffusers.substr(0, open)) +
                  std::string(diffusers.substr(at, end - at)));
    at = end + 1;
  }
  return out;
}

OriginalLinear linear_of(const Row& row, const std::string& number) {
  OriginalLinear out{with_number(row.original, number), {}, row.swaps_halves};
  for (const std::string& part : expand(row.diffusers)) {
    out.modules.push_back(with_number(part, number));
  }
  return out;
}

}  // namespace

std::string_view family_name(ModelFamily family) {
  switch (family) {
    case ModelFamily::sd3:
      return "sd3";
    case ModelFamily::flux:
      return "flux";
    case ModelFamily::hunyuan_video:
      return "hunyuan-video";
  }
  return "";
}

std::optional<OriginalLinear> find_original(std::string_view name, Spelling spelling) {
  for (ModelFamily family : kModelFamilies) {
    for (const Row& row : rows_of(family)) {
      const auto number = match(std::string(row.original), name, spelling);
      if (number) return linear_of(row, *number);
    }
  }
  return std::nullopt;
}

std::optional<std::string> find_diffusers(std::string_view name, Spelling spelling) {
  for (ModelFamily family : kModelFamilies) {
    for (const Row& row : rows_of(family)) {
      for (const std::string& part : expand(row.diffusers)) {
        const auto number = match(part, name, spelling);
        if (number) return with_number(part, *number);
      }
    }
  }
  return std::nullopt;
}

std::optional<OriginalLinear> original_of(ModelFamily family, const std::string& module) {
  for (const Row& row : rows_of(family)) {
    for (const std::string& part : expand(row.diffusers)) {
      const auto number = match(part, module, Spelling::dotted);
      if (number) return linear_of(row, *number);
    }
  }
  return std::nullopt;
}

}  // namespace parlo
