// An SD3 text-to-image pipeline from a diffusers folder: transformer/, scheduler/, vae/ and three
// text encoders, text_encoder/ and tokenizer/, the same with _2 and _3. Without a vae/ folder the
// latents are the pixels themselves, in [-1, 1]. A folder with text_encoder/ alone, as wide as the
// transformer's joint_attention_dim, was trained on that tower alone (the built-in world).
#pragma once

#include <filesystem>
#include <memory>

#include "models/autoencoder_kl.h"
#include "models/flow_model.h"
#include "models/model_files.h"
#include "models/pictures.h"
#include "models/sd3_transformer.h"
#include "models/text_conditioning.h"

namespace parlo {

class Sd3Pipeline : public FlowModel {
 public:
  // vae: null for pixels; else its latents have the transformer's channels.
  Sd3Pipeline(std::unique_ptr<Sd3Transformer> transformer, std::shared_ptr<ClipTextModel> encoder,
              std::shared_ptr<ClipTokenizer> tokenizer, double shift,
              std::shared_ptr<AutoencoderKl> vae = nullptr, const PipelineSettings& settings = {});
  Sd3Pipeline(std::unique_ptr<Sd3Transformer> transformer, std::unique_ptr<TextConditioning> text,
              double shift, std::shared_ptr<AutoencoderKl> vae = nullptr,
              const PipelineSettings& settings = {});
  // Pictures are of sample_size latents where the settings do not say. dtype bf16 narrows the
  // transformer, and T5.
  static std::unique_ptr<Sd3Pipeline> load(const ModelFiles& files, Device device = {},
                                           DType dtype = DType::f32, TextSettings text = {},
                                           const PipelineSettings& settings = {});

  Shape latent_shape() const override { return latent_shape_; }
  Condition encode(std::span<const std::string> prompts) override { return text_->encode(prompts); }
  void prepare(std::span<const std::string> prompts) override { text_->prepare(prompts); }
  void forget() override { text_->forget(); }
  using FlowModel::velocity;
  Var velocity(const Var& x, const Tensor& noise, const Condition& condition) const override;
  Var velocity_without(std::span<const int64_t> blocks, const Var& x, const Tensor& noise,
                       const Condition& condition) const override;
  int64_t skippable_blocks() const override { return transformer_->config().num_layers; }
  Tensor noise_features(std::span<const double> sigmas) const override {
    return sigma_features(sigmas, device());
  }
  // A picture at a time: memory depends on its size alone (AutoencoderKl::decode).
  Tensor decode(const Tensor& latents) const override {
    return decode_pictures(vae_.get(), latents);
  }
  std::vector<double> sigmas(int64_t steps) const override;
  Linears linears() override { return transformer_->linears(); }
  Params& params() override { return transformer_->params(); }
  // Moves the transformer, the text encoders and the autoencoder; what was encoded is forgotten.
  void to(Device device);
  Device device() const override { return transformer_->params().device(); }
  Sd3Transformer& transformer() override { return *transformer_; }
  TextConditioning& text() { return *text_; }
  AutoencoderKl* vae() { return vae_.get(); }  // null without one

 private:
  std::unique_ptr<Sd3Transformer> transformer_;
  std::unique_ptr<TextConditioning> text_;
  std::shared_ptr<AutoencoderKl> vae_;
  double shift_;
  Shape latent_shape_;
};

// scheduler_config.json of a flow-matching scheduler with a static shift.
std::string flow_scheduler_json(double shift);

}  // namespace parlo
