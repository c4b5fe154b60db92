// A FLUX text-to-image pipeline from a diffusers folder: transformer/, scheduler/, vae/, the text
// encoders text_encoder/ (CLIP: the pooled vector) and text_encoder_2/ (T5: the context) with
// tokenizer/ and tokenizer_2/. Without a vae/ folder the latents are the pixels themselves, in
// [-1, 1]. A folder with text_encoder/ alone, as wide as the transformer's joint_attention_dim, was
// trained on that tower alone.
#pragma once

#include <filesystem>
#include <memory>

#include "models/autoencoder_kl.h"
#include "models/flow_model.h"
#include "models/flow_schedule.h"
#include "models/flux_transformer.h"
#include "models/model_files.h"
#include "models/pictures.h"
#include "models/text_conditioning.h"

namespace parlo {

struct FluxParts {
  std::unique_ptr<FluxTransformer> transformer;
  std::unique_ptr<TextConditioning> text;
  std::shared_ptr<AutoencoderKl> vae;  // null for pixels
  FluxSchedule schedule = {};
};

class FluxPipeline : public FlowModel {
 public:
  FluxPipeline(FluxParts parts, const PipelineSettings& settings);
  // Pictures are of 1024 pixels, or 32 without a vae/, where the settings do not say. dtype bf16
  // narrows the transformer, and T5.
  static std::unique_ptr<FluxPipeline> load(const ModelFiles& files, Device device = {},
                                            DType dtype = DType::f32, TextSettings text = {},
                                            const PipelineSettings& settings = {});

  // Not packed: [16, height / 8, width / 8].
  Shape latent_shape() const override { return latent_shape_; }
  Condition encode(std::span<const std::string> prompts) override {
    return parts_.text->encode(prompts);
  }
  void prepare(std::span<const std::string> prompts) override { parts_.text->prepare(prompts); }
  void forget() override { parts_.text->forget(); }
  using FlowModel::velocity;
  Var velocity(const Var& x, const Tensor& noise, const Condition& condition) const override;
  // Of timesteps and, behind them, of the guidance: [B, transformer().features()].
  Tensor noise_features(std::span<const double> sigmas) const override;
  // A picture at a time: memory depends on its size alone (AutoencoderKl::decode).
  Tensor decode(const Tensor& latents) const override {
    return decode_pictures(parts_.vae.get(), latents);
  }
  std::vector<double> sigmas(int64_t steps) const override;
  Linears linears() override { return parts_.transformer->linears(); }
  Params& params() override { return parts_.transformer->params(); }
  // Moves the transformer, the text encoders and the autoencoder; what was encoded is forgotten.
  void to(Device device);
  Device device() const override { return parts_.transformer->params().device(); }
  bool embeds_guidance() const override { return parts_.transformer->config().guidance_embeds; }
  FluxTransformer& transformer() override { return *parts_.transformer; }

 private:
  int64_t image_tokens() const;
  void place_tokens();

  FluxParts parts_;
  PipelineSettings settings_;
  Shape latent_shape_;
  int64_t patch_ = 2;  // latents are packed patch x patch to a token
  JointRotation at_;   // on the device: a pass that is recorded must not make it
};

}  // namespace parlo
