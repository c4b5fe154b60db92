#include "models/meta_model.h"

#include <algorithm>

#include "models/flux_pipeline.h"
#include "models/sd3_pipeline.h"
#include "tensor/meta.h"

namespace parlo {
namespace {

namespace fs = std::filesystem;

// Bytes that something needs at most beside those in use.
template <class Fn>
int64_t peak_of(const Fn& fn) {
  const int64_t before = meta_memory::stats().current_bytes;
  meta_memory::reset_peak();
  fn();
  return meta_memory::stats().peak_bytes - before;
}

int64_t bytes_of(const Params& params) {
  int64_t bytes = 0;
  for (const auto& [name, t] : params.tensors()) bytes += static_cast<int64_t>(t.nbytes());
  return bytes;
}

std::unique_ptr<ClipTextModel> clip_on_meta(const fs::path& folder) {
  const JsonConfig json(folder / "config.json");
  const std::vector<std::string> classes = json.texts("architectures");
  const ClipTowerConfig config = ClipTowerConfig::from_json(json);
  const bool projection =
      config.projection_dim > 0 && (classes.empty() || classes.front() != "CLIPTextModel");
  auto model = std::make_unique<ClipTextModel>(config, projection);
  model->params().allocate({kMeta});
  return model;
}

void measure_clip(const fs::path& folder, bool projected, EncodingBytes& e) {
  if (!fs::exists(folder)) return;
  int64_t states = 0;
  const int64_t peak = peak_of([&] {
    const auto model = clip_on_meta(folder);
    const Tensor ids =
        Tensor::zeros({1, model->tower().config().max_position_embeddings}, DType::i64);
    const ClipTextOutput o = model->tower().forward(model->tower().embed(ids), ids);
    const Var pooled = projected && o.text_embeds ? o.text_embeds : o.pooler_output;
    states = static_cast<int64_t>(o.last_hidden_state.value().nbytes() + pooled.value().nbytes());
  });
  e.clip = std::max(e.clip, peak);
  e.states += states;
}

void measure_t5(const fs::path& folder, int64_t tokens, bool bf16, EncodingBytes& e) {
  if (!fs::exists(folder)) return;
  e.t5 = peak_of([&] {
    T5EncoderModel model(T5Config::from_json(JsonConfig(folder / "config.json")));
    model.params().allocate({kMeta, bf16 ? DType::bf16 : DType::f32});
    model.forward(model.embed(Tensor::zeros({1, tokens}, DType::i64)));
  });
}

EncodingBytes measure_encoding(TextRule rule, const fs::path& folder, int64_t t5_tokens,
                               bool bf16) {
  const NoGrad guard;
  EncodingBytes e;
  const bool sd3 = rule == TextRule::sd3;
  measure_clip(folder / "text_encoder", sd3, e);
  if (sd3) measure_clip(folder / "text_encoder_2", true, e);
  measure_t5(folder / (sd3 ? "text_encoder_3" : "text_encoder_2"), t5_tokens, bf16, e);
  return e;
}

// The part of a MetaModel that is about text.
std::unique_ptr<TextConditioning> meta_text(TextRule rule, const fs::path& folder,
                                            int64_t context_width, int64_t pooled_width,
                                            TextSettings settings, MetaModel& out) {
  settings.cache.clear();
  std::unique_ptr<TextConditioning> text;
  if (TextConditioning::is_one_tower(folder, context_width)) {
    std::shared_ptr<ClipTextModel> encoder = clip_on_meta(folder / "text_encoder");
    out.text_bytes = bytes_of(encoder->params());
    text = std::make_unique<TextConditioning>(
        encoder, std::make_shared<ClipTokenizer>(ClipTokenizer::load(folder / "tokenizer")));
  } else {
    text = std::make_unique<TextConditioning>(rule, folder, context_width, pooled_width, settings);
    out.encoding = measure_encoding(rule, folder, text->t5_tokens(), settings.bf16);
  }
  out.condition = {Tensor::empty({1, text->tokens(), context_width}, DType::f32, kMeta),
                   Tensor::empty({1, pooled_width}, DType::f32, kMeta)};
  return text;
}

template <class Transformer, class Config>
std::unique_ptr<Transformer> transformer_on_meta(const fs::path& folder, Device like, DType dtype,
                                                 MetaModel& out) {
  auto model =
      std::make_unique<Transformer>(Config::from_json(folder / "transformer" / "config.json"));
  model->params().allocate({kMeta, dtype});
  model->compute = like.is_cpu() ? DType::f32 : dtype;
  out.transformer_bytes = bytes_of(model->params());
  return model;
}

std::shared_ptr<AutoencoderKl> autoencoder_on_meta(const fs::path& folder, Device like,
                                                   const PipelineSettings& settings,
                                                   MetaModel& out) {
  if (!fs::exists(folder / "vae")) return nullptr;
  auto vae =
      std::make_shared<AutoencoderKl>(AutoencoderKlConfig::from_json(folder / "vae/config.json"));
  vae->params().allocate({kMeta});
  apply_settings(settings, vae.get(), like);
  out.autoencoder_bytes = bytes_of(vae->params());
  return vae;
}

void make_sd3(const fs::path& folder, Device like, DType dtype, const TextSettings& text,
              const PipelineSettings& settings, MetaModel& out) {
  auto transformer = transformer_on_meta<Sd3Transformer, Sd3Config>(folder, like, dtype, out);
  const Sd3Config& c = transformer->config();
  auto encoders =
      meta_text(TextRule::sd3, folder, c.joint_attention_dim, c.pooled_projection_dim, text, out);
  out.pipeline =
      std::make_unique<Sd3Pipeline>(std::move(transformer), std::move(encoders), 1.0,
                                    autoencoder_on_meta(folder, like, settings, out), settings);
}

void make_flux(const fs::path& folder, Device like, DType dtype, const TextSettings& text,
               const PipelineSettings& settings, MetaModel& out) {
  FluxParts parts;
  parts.transformer = transformer_on_meta<FluxTransformer, FluxConfig>(folder, like, dtype, out);
  const FluxConfig& c = parts.transformer->config();
  parts.text =
      meta_text(TextRule::flux, folder, c.joint_attention_dim, c.pooled_projection_dim, text, out);
  parts.vae = autoencoder_on_meta(folder, like, settings, out);
  out.pipeline = std::make_unique<FluxPipeline>(std::move(parts), settings);
}

}  // namespace

MetaModel make_meta_model(const fs::path& folder, Device like, DType dtype,
                          const TextSettings& given, const PipelineSettings& settings) {
  TextSettings text = given;
  text.bf16 |= dtype == DType::bf16;
  MetaModel out;
  const fs::path config = folder / "transformer" / "config.json";
  const std::string name = JsonConfig(config).text("_class_name", "");
  if (name == "SD3Transformer2DModel") {
    make_sd3(folder, like, dtype, text, settings, out);
  } else {
    CHECK(name == "FluxTransformer2DModel", config.string(), ": _class_name is \"", name,
          "\", expected SD3Transformer2DModel or FluxTransformer2DModel");
    make_flux(folder, like, dtype, text, settings, out);
  }
  return out;
}

}  // namespace parlo
