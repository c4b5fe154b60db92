#include "models/sd3_pipeline.h"

#include <cstring>

#include "models/flow_schedule.h"

namespace parlo {

Sd3Pipeline::Sd3Pipeline(std::unique_ptr<Sd3Transformer> transformer,
                         std::shared_ptr<ClipTextModel> encoder,
                         std::shared_ptr<ClipTokenizer> tokenizer, double shift,
                         std::shared_ptr<AutoencoderKl> vae)
    : transformer_(std::move(transformer)),
      encoder_(std::move(encoder)),
      tokenizer_(std::move(tokenizer)),
      vae_(std::move(vae)),
      shift_(shift) {
  if (!vae_) return;
  const int64_t ours = transformer_->config().in_channels, its = vae_->config().latent_channels;
  CHECK(ours == its, "Sd3Pipeline: the transformer has in_channels = ", ours,
        ", the autoencoder latent_channels = ", its, "; expected parts of one model");
}

std::unique_ptr<Sd3Pipeline> Sd3Pipeline::load(const std::filesystem::path& folder, Device device,
                                               DType dtype) {
  CHECK(std::filesystem::is_directory(folder), folder.string(),
        ": no such folder; expected a model folder with transformer/, text_encoder/, tokenizer/");
  for (const char* absent : {"text_encoder_2", "text_encoder_3"}) {
    CHECK(!std::filesystem::exists(folder / absent), folder.string(), ": has ", absent,
          "/, which this version cannot run yet; it runs pipelines with one CLIP text encoder");
  }
  std::shared_ptr<AutoencoderKl> vae;
  if (std::filesystem::exists(folder / "vae")) vae = AutoencoderKl::load(folder / "vae");
  const JsonConfig scheduler(folder / "scheduler" / "scheduler_config.json");
  auto pipeline = std::make_unique<Sd3Pipeline>(
      Sd3Transformer::load(folder / "transformer"),
      std::shared_ptr<ClipTextModel>(ClipTextModel::load(folder / "text_encoder")),
      std::make_shared<ClipTokenizer>(ClipTokenizer::load(folder / "tokenizer")),
      scheduler.number("shift", 1.0), vae);
  pipeline->to(device);
  if (dtype == DType::bf16) pipeline->transformer().narrow();
  return pipeline;
}

void Sd3Pipeline::to(Device device) {
  transformer_->params().to(device);
  encoder_->params().to(device);
  if (vae_) vae_->params().to(device);
  cache_.clear();
}

Shape Sd3Pipeline::latent_shape() const {
  const Sd3Config& c = transformer_->config();
  return {c.in_channels, c.sample_size, c.sample_size};
}

const Sd3Pipeline::Encoded& Sd3Pipeline::encoded(const std::string& prompt) {
  const auto found = cache_.find(prompt);
  if (found != cache_.end()) return found->second;
  const NoGrad guard;
  const ClipText& tower = encoder_->tower();
  const Tensor ids = tokenizer_->encode_batch({prompt}, tower.config().max_position_embeddings);
  const ClipTextOutput out = tower.forward(tower.embed(ids), ids);
  // SD3 conditioning: the next to last hidden state, without the final norm, and the projected
  // pooled vector.
  const Tensor context = out.hidden_states[out.hidden_states.size() - 2].value();
  const Var& pooled = out.text_embeds ? out.text_embeds : out.pooler_output;
  return cache_.emplace(prompt, Encoded{context, pooled.value()}).first->second;
}

Condition Sd3Pipeline::encode(std::span<const std::string> prompts) {
  CHECK(!prompts.empty(), "Sd3Pipeline::encode: no prompts");
  const Encoded& first = encoded(prompts[0]);
  const int64_t batch = static_cast<int64_t>(prompts.size());
  const auto empty = [&](const Shape& shape) {
    return Tensor::empty(shape, first.context.dtype(), first.context.device());
  };
  Condition c{empty({batch, first.context.dim(1), first.context.dim(2)}),
              empty({batch, first.pooled.dim(1)})};
  for (int64_t b = 0; b < batch; ++b) {
    const Encoded& e = encoded(prompts[static_cast<size_t>(b)]);
    c.context.slice(0, b, b + 1).copy_from(e.context);
    c.pooled.slice(0, b, b + 1).copy_from(e.pooled);
  }
  return c;
}

Var Sd3Pipeline::velocity(const Var& x, const Tensor& noise, const Condition& condition) const {
  return transformer_->forward_features(x, Var(noise), Var(condition.context),
                                        Var(condition.pooled));
}

Tensor Sd3Pipeline::decode(const Tensor& latents) const {
  const NoGrad guard;
  if (!vae_) return affine(Var(latents), 0.5, 0.5).value();
  std::vector<Var> pictures;
  for (int64_t b = 0; b < latents.dim(0); ++b) {
    const Var sample = vae_->decode(vae_->unscaled(Var(latents.slice(0, b, b + 1))));
    pictures.push_back(affine(sample, 0.5, 0.5));
  }
  CHECK(!pictures.empty(), "Sd3Pipeline::decode: no latents");
  return pictures.size() == 1 ? pictures[0].value() : cat(pictures, 0).value();
}

std::vector<double> Sd3Pipeline::sigmas(int64_t steps) const {
  return shift_ == 1.0 ? linear_sigmas(steps) : shifted_sigmas(steps, shift_);
}

std::string flow_scheduler_json(double shift) {
  return concat("{\n  \"_class_name\": \"FlowMatchEulerDiscreteScheduler\",\n",
                "  \"num_train_timesteps\": 1000,\n  \"shift\": ", shift, "\n}\n");
}

}  // namespace parlo
