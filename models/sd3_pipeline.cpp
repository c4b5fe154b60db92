#include "models/sd3_pipeline.h"

#include "models/flow_schedule.h"

namespace parlo {

Sd3Pipeline::Sd3Pipeline(std::unique_ptr<Sd3Transformer> transformer,
                         std::shared_ptr<ClipTextModel> encoder,
                         std::shared_ptr<ClipTokenizer> tokenizer, double shift,
                         std::shared_ptr<AutoencoderKl> vae, const PipelineSettings& settings)
    : Sd3Pipeline(std::move(transformer),
                  std::make_unique<TextConditioning>(std::move(encoder), std::move(tokenizer)),
                  shift, std::move(vae), settings) {}

Sd3Pipeline::Sd3Pipeline(std::unique_ptr<Sd3Transformer> transformer,
                         std::unique_ptr<TextConditioning> text, double shift,
                         std::shared_ptr<AutoencoderKl> vae, const PipelineSettings& settings)
    : transformer_(std::move(transformer)),
      text_(std::move(text)),
      vae_(std::move(vae)),
      shift_(shift) {
  const Sd3Config& c = transformer_->config();
  const int64_t its = vae_ ? vae_->config().latent_channels : c.in_channels;
  CHECK(c.in_channels == its, "Sd3Pipeline: the transformer has in_channels = ", c.in_channels,
        ", the autoencoder latent_channels = ", its, "; expected parts of one model");
  const int64_t scale = vae_ ? vae_->config().downscale() : 1;
  latent_shape_ =
      picture_latents(settings, vae_.get(),
                      {c.in_channels, c.patch_size, c.sample_size * scale, c.pos_embed_max_size});
}

std::unique_ptr<Sd3Pipeline> Sd3Pipeline::load(const ModelFiles& files, Device device, DType dtype,
                                               TextSettings text,
                                               const PipelineSettings& settings) {
  files.check();
  const std::shared_ptr<AutoencoderKl> vae = files.load_vae(sd3_vae(), {device});
  const JsonConfig scheduler(files.parts / "scheduler" / "scheduler_config.json");
  auto transformer = Sd3Transformer::load(files.open_transformer(), {device, dtype});
  const Sd3Config& c = transformer->config();
  text.bf16 |= dtype == DType::bf16;
  auto encoders = TextConditioning::load(TextRule::sd3, files.parts, c.joint_attention_dim,
                                         c.pooled_projection_dim, text);
  auto pipeline = std::make_unique<Sd3Pipeline>(std::move(transformer), std::move(encoders),
                                                scheduler.number("shift", 1.0), vae, settings);
  pipeline->to(device);
  apply_settings(settings, vae.get(), device);
  if (dtype == DType::bf16) pipeline->transformer().narrow();
  return pipeline;
}

void Sd3Pipeline::to(Device device) {
  transformer_->params().to(device);
  text_->to(device);
  if (vae_) vae_->params().to(device);
}

Var Sd3Pipeline::velocity(const Var& x, const Tensor& noise, const Condition& condition) const {
  return velocity_without({}, x, noise, condition);
}

Var Sd3Pipeline::velocity_without(std::span<const int64_t> blocks, const Var& x,
                                  const Tensor& noise, const Condition& condition) const {
  return transformer_->forward_features(x, Var(noise), Var(condition.context),
                                        Var(condition.pooled), blocks);
}

std::vector<double> Sd3Pipeline::sigmas(int64_t steps) const {
  return shift_ == 1.0 ? linear_sigmas(steps) : shifted_sigmas(steps, shift_);
}

std::string flow_scheduler_json(double shift) {
  return concat("{\n  \"_class_name\": \"FlowMatchEulerDiscreteScheduler\",\n",
                "  \"num_train_timesteps\": 1000,\n  \"shift\": ", shift, "\n}\n");
}

}  // namespace parlo
