// Adapters in every spelling: the written keys and numbers spelt out, round trips, refusals.
#include "lora/formats.h"

#include <nlohmann/json.hpp>

#include "lora/merge.h"
#include "tensor/file.h"
#include "tensor/safetensors.h"
#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;
using json = nlohmann::json;

namespace {

constexpr int64_t kWidth = 4;

AdapterPair random_pair(int64_t out, int64_t in, int64_t rank, uint32_t seed, double scale = 2) {
  return {random_tensor({rank, in}, seed), random_tensor({out, rank}, seed + 1000), scale};
}

AdapterFile described(AdapterModules modules) {
  AdapterConfig like;
  like.init_lora_weights = "true";
  return describe_adapter(std::move(modules), like);
}

AdapterFile flux_adapter() {
  uint32_t seed = 1;
  AdapterModules m;
  for (const char* part : {"to_q", "to_k", "to_v"}) {
    m[concat("transformer_blocks.3.attn.", part)] = random_pair(kWidth, kWidth, 2, seed++);
    m[concat("single_transformer_blocks.12.attn.", part)] = random_pair(kWidth, kWidth, 3, seed++);
  }
  m["transformer_blocks.3.attn.to_out.0"] = random_pair(kWidth, kWidth, 2, seed++, 0.5);
  m["transformer_blocks.3.attn.add_q_proj"] = random_pair(kWidth, kWidth, 1, seed++);
  m["transformer_blocks.3.attn.add_v_proj"] = random_pair(kWidth, kWidth, 3, seed++, 1);
  m["transformer_blocks.3.norm1.linear"] = random_pair(6 * kWidth, kWidth, 2, seed++);
  m["single_transformer_blocks.12.proj_mlp"] = random_pair(4 * kWidth, kWidth, 2, seed++);
  m["single_transformer_blocks.12.proj_out"] = random_pair(kWidth, 5 * kWidth, 2, seed++);
  m["norm_out.linear"] = random_pair(2 * kWidth, kWidth, 2, seed++);
  m["proj_out"] = random_pair(6, kWidth, 2, seed++);
  m["time_text_embed.guidance_embedder.linear_1"] = random_pair(kWidth, 6, 2, seed++);
  return described(std::move(m));
}

AdapterFile sd3_adapter() {
  uint32_t seed = 100;
  AdapterModules m;
  for (const char* part : {"attn.to_q", "attn.to_k", "attn.to_v", "attn2.to_q", "attn2.to_k",
                           "attn2.to_v", "attn2.to_out.0", "attn.to_add_out"}) {
    m[concat("transformer_blocks.0.", part)] = random_pair(kWidth, kWidth, 2, seed++);
  }
  m["transformer_blocks.0.norm1_context.linear"] = random_pair(6 * kWidth, kWidth, 2, seed++);
  m["transformer_blocks.1.norm1_context.linear"] = random_pair(2 * kWidth, kWidth, 2, seed++);
  m["transformer_blocks.1.ff_context.net.0.proj"] = random_pair(4 * kWidth, kWidth, 2, seed++);
  m["norm_out.linear"] = random_pair(2 * kWidth, kWidth, 2, seed++);
  m["context_embedder"] = random_pair(kWidth, 7, 2, seed++);
  return described(std::move(m));
}

void check_same(const AdapterFile& x, const AdapterFile& y, double limit = 0) {
  REQUIRE(x.modules.size() == y.modules.size());
  for (const auto& [module, pair] : x.modules) {
    INFO(module);
    REQUIRE(y.modules.count(module) == 1);
    const AdapterPair& other = y.modules.at(module);
    check_close(other.a, pair.a, limit);
    CHECK(other.scale == doctest::Approx(pair.scale).epsilon(1e-12));
    check_close(other.b, pair.b, limit);
  }
}

NamedTensors tensors_of(const std::string& path) {
  const SafeTensors file = SafeTensors::open(path);
  NamedTensors out;
  for (const std::string& name : file.names()) out.emplace_back(name, file.get(name).clone());
  return out;
}

}  // namespace

TEST_CASE("every format and family comes back as it was, and in the same bytes") {
  TemporaryFolder folder;
  const AdapterFile flux = flux_adapter(), sd3 = sd3_adapter();
  for (AdapterFormat format : kAdapterFormats) {
    for (const bool is_flux : {true, false}) {
      const AdapterFile& adapter = is_flux ? flux : sd3;
      const ModelFamily family = is_flux ? ModelFamily::flux : ModelFamily::sd3;
      INFO(format_name(format), " ", family_name(family));
      const std::string name = concat(format_name(format), is_flux);
      const std::string ending = format == AdapterFormat::peft ? "" : ".safetensors";
      write_adapter_as(format, folder / (name + ending), adapter, family);
      const OpenedAdapter back = open_adapter(folder / (name + ending));
      CHECK(back.format == format);
      // One scale of a fused linear is not the others': its B is rescaled, here by a power of two.
      const bool fuses = format == AdapterFormat::kohya || format == AdapterFormat::original;
      AdapterFile expected = adapter;
      if (is_flux && fuses) {
        AdapterPair& odd = expected.modules.at("transformer_blocks.3.attn.add_v_proj");
        odd.b = Tensor::from(odd.b.to_vector(), odd.b.shape());
        for (double& x : odd.b.span<double>()) x /= 2;
        odd = {odd.a, odd.b.to(DType::f32), 2};
      }
      check_same(expected, back.file);
      const std::string again = "again_" + name + ending;
      write_adapter_as(format, folder / again, back.file, family);
      const std::string inside = ending.empty() ? "/adapter_model.safetensors" : "";
      CHECK(read_file((folder / (name + ending)) + inside) == read_file((folder / again) + inside));
    }
  }
}

TEST_CASE("the targets that are written name these modules and no others") {
  const TargetModules flux = flux_adapter().config.target_modules;
  for (const auto& [module, pair] : flux_adapter().modules) CHECK(flux.matches(module));
  CHECK(!flux.matches("single_transformer_blocks.0.proj_out"));
  CHECK(!flux.matches("x.norm_out.linear"));
  CHECK(!flux.matches("transformer_blocks.3.attn.to_outx0"));
  const TargetModules block =
      described({{"transformer_blocks.0.attn.to_q", random_pair(4, 4, 2, 1)}})
          .config.target_modules;
  CHECK((block.names == std::vector<std::string>{"transformer_blocks.0.attn.to_q"}));
}

TEST_CASE("original names: fused rows, swapped halves, alpha of the stacked rank") {
  TemporaryFolder folder;
  const AdapterFile adapter = flux_adapter();
  write_adapter_as(AdapterFormat::kohya, folder / "k.safetensors", adapter);
  const SafeTensors file = SafeTensors::open(folder / "k.safetensors");
  CHECK(file.size() == 3 * 9);
  CHECK(file.contains("lora_unet_single_blocks_12_linear2.lora_down.weight"));
  CHECK(file.contains("lora_unet_guidance_in_in_layer.alpha"));
  CHECK(file.contains("lora_unet_double_blocks_3_img_mod_lin.lora_up.weight"));
  const std::string linear1 = "lora_unet_single_blocks_12_linear1";
  CHECK((file.get(linear1 + ".lora_up.weight").shape() == Shape{7 * kWidth, 3 * 3 + 2}));
  CHECK(file.get(linear1 + ".alpha").item() == 2 * 11);
  // The absent add_k_proj is zero rows between the other two.
  const Tensor text = file.get("lora_unet_double_blocks_3_txt_attn_qkv.lora_up.weight");
  CHECK((text.shape() == Shape{3 * kWidth, 4}));
  for (double x : text.slice(0, kWidth, 2 * kWidth).to_vector()) CHECK(x == 0);
  const Tensor q = adapter.modules.at("transformer_blocks.3.attn.add_q_proj").b;
  CHECK(same_values(text.slice(0, 0, kWidth).slice(1, 0, 1), q));
  const Tensor ours = adapter.modules.at("norm_out.linear").b;
  const Tensor theirs = file.get("lora_unet_final_layer_adaLN_modulation_1.lora_up.weight");
  CHECK(same_values(theirs.slice(0, 0, kWidth), ours.slice(0, kWidth, 2 * kWidth)));
  CHECK(same_values(theirs.slice(0, kWidth, 2 * kWidth), ours.slice(0, 0, kWidth)));

  const AdapterFile sd3 = sd3_adapter();
  write_adapter_as(AdapterFormat::original, folder / "o.safetensors", sd3, ModelFamily::sd3);
  const SafeTensors comfy = SafeTensors::open(folder / "o.safetensors");
  const std::string context = "diffusion_model.joint_blocks.";
  CHECK(comfy.contains(context + "0.x_block.attn2.qkv.lora_A.weight"));
  CHECK(comfy.contains(context + "0.context_block.attn.proj.alpha"));
  // Only the last block's text modulation has two chunks, which change places.
  const std::string modulation = ".context_block.adaLN_modulation.1.lora_B.weight";
  CHECK(same_values(comfy.get(context + "0" + modulation),
                    sd3.modules.at("transformer_blocks.0.norm1_context.linear").b));
  CHECK(same_values(
      comfy.get(context + "1" + modulation).slice(0, 0, kWidth),
      sd3.modules.at("transformer_blocks.1.norm1_context.linear").b.slice(0, kWidth, 2 * kWidth)));
}

TEST_CASE("a dense fused linear: all parts share A, and fuse to the same file again") {
  TemporaryFolder folder;
  const std::string path = folder / "dense.safetensors",
                    stem = "lora_unet_double_blocks_0_img_attn";
  const Tensor a = random_tensor({6, kWidth}, 1), b = random_tensor({3 * kWidth, 6}, 2);
  save_safetensors(path, {{stem + "_qkv.lora_down.weight", a}, {stem + "_qkv.lora_up.weight", b}},
                   {{"format", "pt"}});
  const OpenedAdapter opened = open_adapter(path);
  CHECK(opened.file.modules.size() == 3);
  const AdapterPair& k = opened.file.modules.at("transformer_blocks.0.attn.to_k");
  CHECK(same_values(k.a, a));
  CHECK(same_values(k.b, b.slice(0, kWidth, 2 * kWidth)));
  CHECK(k.scale == 1);  // alpha = r where it is missing
  write_adapter_as(AdapterFormat::kohya, folder / "again.safetensors", opened.file,
                   ModelFamily::flux);
  const SafeTensors again = SafeTensors::open(folder / "again.safetensors");
  CHECK(same_values(again.get(stem + "_qkv.lora_up.weight"), b));
  CHECK(again.get(stem + "_qkv.alpha").item() == 6);
}

TEST_CASE("bf16 stays bf16 between files, and is f32 in a model") {
  TemporaryFolder folder;
  const Tensor a = random_tensor({2, kWidth}, 1, DType::bf16);
  const Tensor b = random_tensor({kWidth, 2}, 2, DType::bf16);
  save_safetensors(folder / "pytorch_lora_weights.safetensors",
                   {{"transformer.transformer_blocks.0.attn.to_q.lora_A.weight", a},
                    {"transformer.transformer_blocks.0.attn.to_q.lora_B.weight", b}});
  const AdapterFile stored = open_adapter(folder.path()).file, read = read_adapter(folder.path());
  const AdapterPair& s = stored.modules.begin()->second;
  const AdapterPair& r = read.modules.begin()->second;
  CHECK(s.a.dtype() == DType::bf16);
  CHECK(s.a.read_only());
  CHECK(r.a.dtype() == DType::f32);
  CHECK(!r.a.read_only());
  CHECK(same_values(r.b, b));
  write_adapter_as(AdapterFormat::kohya, folder / "k.safetensors", stored, ModelFamily::sd3);
  const SafeTensors file = SafeTensors::open(folder / "k.safetensors");
  CHECK(file.get("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_up.weight").dtype() ==
        DType::bf16);
}

TEST_CASE("diffusers: scales from alpha keys, from the header, or one; other spellings") {
  TemporaryFolder folder;
  const std::string path = folder / "d.safetensors";
  const std::string q = "transformer_blocks.0.attn.to_q", k = "transformer_blocks.0.attn.to_k";
  const auto pairs = [&](const std::string& stem_q, const std::string& stem_k, const char* down,
                         const char* up) {
    return NamedTensors{{stem_q + down, Tensor::full({2, kWidth}, 1)},
                        {stem_q + up, Tensor::full({kWidth, 2}, 1)},
                        {stem_k + down, Tensor::full({4, kWidth}, 1)},
                        {stem_k + up, Tensor::full({kWidth, 4}, 1)}};
  };
  const auto scales = [&] {
    const auto m = open_adapter(path).file.modules;
    return std::vector<double>{m.at(q).scale, m.at(k).scale};
  };
  const NamedTensors plain =
      pairs("transformer." + q, "transformer." + k, ".lora_A.weight", ".lora_B.weight");
  save_safetensors(path, plain);
  CHECK((scales() == std::vector<double>{1, 1}));
  NamedTensors alphas = plain;
  alphas.emplace_back("transformer." + q + ".alpha", Tensor::full({}, 3));
  save_safetensors(path, alphas);
  CHECK((scales() == std::vector<double>{1.5, 1}));
  const json metadata{{"transformer.r", 4},
                      {"transformer.lora_alpha", 8},
                      {"transformer.target_modules", {"to_q", "to_k"}},
                      {"transformer.rank_pattern", {{"to_q", 2}}},
                      {"transformer.alpha_pattern", {{"to_q", 5}}},
                      {"transformer.use_rslora", true}};
  const std::map<std::string, std::string> header{{"lora_adapter_metadata", metadata.dump()}};
  save_safetensors(path, plain, header);
  CHECK((scales() == std::vector<double>{5 / std::sqrt(2.0), 4}));
  CHECK(open_adapter(path).file.config.use_rslora);
  save_safetensors(path, alphas, header);
  CHECK(contains(message_of([&] { open_adapter(path); }), "both alpha keys and"));
  for (const auto& [prefix, flat] : {std::pair{"", false},
                                     {"diffusion_model.", false},
                                     {"lora_transformer_", true},
                                     {"lycoris_", true},
                                     {"lora_unet_", true}}) {
    INFO(prefix);
    std::string sq = q, sk = k;
    if (flat) std::replace(sq.begin(), sq.end(), '.', '_');
    if (flat) std::replace(sk.begin(), sk.end(), '.', '_');
    save_safetensors(path, pairs(prefix + sq, prefix + sk, ".lora_down.weight", ".lora_up.weight"));
    CHECK((scales() == std::vector<double>{1, 1}));
  }
}

TEST_CASE("all unknown keys in one line, other methods by their names") {
  TemporaryFolder folder;
  const std::string path = folder / "x.safetensors";
  write_adapter_as(AdapterFormat::kohya, path, flux_adapter());
  NamedTensors tensors = tensors_of(path);
  for (const char* key :
       {"lora_unet_double_blocks_x_img_mlp_0.lora_down.weight", "lora_unet_no_such.lora_up.weight",
        "something", "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        "lora_unet_double_blocks_0_img_mlp_0.hada_w1_a", "a.lokr_w1", "b.lokr_w2",
        "lora_unet_double_blocks_0_img_mlp_0.dora_scale",
        "lora_unet_double_blocks_0_img_mlp_0.lora_mid.weight"}) {
    tensors.emplace_back(key, Tensor::zeros({2, 2}));
  }
  tensors.emplace_back("lora_unet_double_blocks_7_img_mlp_0.lora_down.weight",
                       Tensor::zeros({2, kWidth}));
  save_safetensors(path, tensors);
  const std::string message = message_of([&] { open_adapter(path); });
  INFO(message);
  for (const char* part :
       {"unknown key lora_unet_double_blocks_x_img_mlp_0.lora_down.weight",
        "unknown key lora_unet_no_such.lora_up.weight", "unknown key something", "LoHa", "DoRA",
        "LoCon", "a.lokr_w1 and 1 like it: LoKr (lokr_*) is not supported", "a text encoder's LoRA",
        "transformer_blocks.7.ff.net.0.proj has no lora_B"}) {
    INFO(part);
    CHECK(contains(message, part));
  }
  CHECK(!contains(message, "\n"));
}

TEST_CASE("what cannot be read or written") {
  TemporaryFolder folder;
  const auto opening = [&](const std::string& path) {
    return message_of([&] { open_adapter(path); });
  };
  CHECK(contains(opening(folder / "none"), "not a folder nor a file"));
  CHECK(contains(opening(folder.path()), "holds 0 .safetensors files"));
  save_safetensors(folder / "empty.safetensors", {});
  CHECK(contains(opening(folder / "empty.safetensors"), "no adapted module"));
  const std::string stem = "lora_unet_double_blocks_0_img_attn_qkv";
  save_safetensors(folder / "odd.safetensors",
                   {{stem + ".lora_down.weight", Tensor::zeros({2, 4})},
                    {stem + ".lora_up.weight", Tensor::zeros({11, 2})}});
  CHECK(contains(opening(folder / "odd.safetensors"), "do not divide into 3 parts"));
  AdapterModules both{{"transformer_blocks.0.attn.to_q", random_pair(4, 4, 2, 1)}};
  const std::string out = folder / "out.safetensors";
  const auto writing = [&](const AdapterModules& modules) {
    return message_of([&] { write_adapter_as(AdapterFormat::kohya, out, described(modules)); });
  };
  CHECK(writing(both).empty());
  CHECK(guess_family(both) == ModelFamily::sd3);
  both["context_embedder.token_refiner.refiner_blocks.1.attn.to_k"] = random_pair(4, 4, 2, 2);
  CHECK(guess_family(both) == ModelFamily::hunyuan_video);
  both["transformer_blocks.0.attn2.to_q"] = random_pair(4, 4, 2, 2);
  CHECK(contains(writing(both), "of several models; give --family"));
  CHECK(guess_family({{"transformer_blocks.0.attn.to_q", random_pair(3072, 3072, 1, 1)}}) ==
        ModelFamily::flux);
  both["other.x"] = both["other.y"] = random_pair(4, 4, 2, 3);
  CHECK(contains(writing(both), "original names are known for: other.x; other.y"));
}
