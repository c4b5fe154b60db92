#include "models/flux_pipeline.h"

namespace parlo {
namespace {

// Of a published pipeline without a given size, and of pixels as latents.
constexpr int64_t kDefaultPixels = 1024, kDefaultPixelsWithoutVae = 32;

float rounded(float x, bool bf16) {
  return bf16 ? to_float(to_bf16(x)) : x;
}

// The scheduler gives t = 1000 sigma, the pipeline divides it by 1000 and the transformer
// multiplies it again, each rounded.
float reference_timestep(double sigma, bool bf16) {
  const float t = rounded(static_cast<float>(sigma) * 1000.0f, bf16);
  return rounded(rounded(t / 1000.0f, bf16) * 1000.0f, bf16);
}

float reference_guidance(double guidance, bool bf16) {
  return rounded(rounded(static_cast<float>(guidance), bf16) * 1000.0f, bf16);
}

// (0, row, column) of every token.
Tensor image_ids(int64_t rows, int64_t columns) {
  Tensor ids = Tensor::zeros({rows * columns, 3});
  for (int64_t i = 0; i < rows * columns; ++i) {
    ids.data<float>()[3 * i + 1] = static_cast<float>(i / columns);
    ids.data<float>()[3 * i + 2] = static_cast<float>(i % columns);
  }
  return ids;
}

// Side of the patches in which `channels` are packed into the transformer's.
int64_t packing(int64_t in_channels, int64_t channels) {
  int64_t patch = 1;
  while (patch * patch * channels < in_channels) ++patch;
  CHECK(patch * patch * channels == in_channels, "FluxPipeline: the transformer has ", in_channels,
        " channels, which are not square patches of the latents' ", channels);
  return patch;
}

}  // namespace

FluxPipeline::FluxPipeline(FluxParts parts, const PipelineSettings& settings)
    : parts_(std::move(parts)), settings_(settings) {
  const FluxConfig& c = parts_.transformer->config();
  const AutoencoderKl* vae = parts_.vae.get();
  const int64_t channels = vae ? vae->config().latent_channels : 3;
  patch_ = packing(c.in_channels, channels);
  const int64_t side = vae ? kDefaultPixels : kDefaultPixelsWithoutVae;
  latent_shape_ = picture_latents(settings, vae, {channels, patch_, side});
  CHECK(c.out_channels == c.in_channels && c.axes_dims_rope.size() == 3,
        "FluxPipeline: expected a transformer with as many output as input channels and three "
        "axes, got ",
        c.out_channels, ", ", c.in_channels, " and ", c.axes_dims_rope.size());
  place_tokens();
}

void FluxPipeline::place_tokens() {
  const Tensor image = image_ids(latent_shape_[1] / patch_, latent_shape_[2] / patch_);
  at_ = parts_.transformer->rotation(Var(Tensor::zeros({parts_.text->tokens(), 3})), Var(image));
}

int64_t FluxPipeline::image_tokens() const {
  return latent_shape_[1] * latent_shape_[2] / (patch_ * patch_);
}

void FluxPipeline::to(Device device) {
  parts_.transformer->params().to(device);
  parts_.text->to(device);
  if (parts_.vae) parts_.vae->params().to(device);
  place_tokens();
}

Tensor FluxPipeline::noise_features(std::span<const double> sigmas) const {
  const NoGrad guard;
  const bool bf16 = settings_.reference_bf16;
  std::vector<float> times;
  for (double s : sigmas) times.push_back(reference_timestep(s, bf16));
  const Tensor time = time_features(times);
  if (!parts_.transformer->config().guidance_embeds) return time.to(device());
  const std::vector<float> levels(sigmas.size(), reference_guidance(settings_.guidance, bf16));
  return cat(std::vector<Var>{Var(time), Var(time_features(levels))}, 1).value().to(device());
}

Var FluxPipeline::velocity(const Var& x, const Tensor& noise, const Condition& condition) const {
  const Var tokens = patchify(x, patch_, false);
  const Var v = parts_.transformer->forward_features(tokens, Var(noise), Var(condition.context),
                                                     Var(condition.pooled), at_);
  return unpatchify(v, patch_, false, x.shape());
}

std::vector<double> FluxPipeline::sigmas(int64_t steps) const {
  return parts_.schedule.sigmas(steps, image_tokens());
}

std::unique_ptr<FluxPipeline> FluxPipeline::load(const ModelFiles& files, Device device,
                                                 DType dtype, TextSettings text,
                                                 const PipelineSettings& settings) {
  files.check();
  FluxParts parts;
  parts.schedule = FluxSchedule::from_json(files.parts / "scheduler" / "scheduler_config.json");
  parts.vae = files.load_vae(flux_vae(), {device});
  parts.transformer = FluxTransformer::load(files.open_transformer(), {device, dtype});
  text.bf16 |= dtype == DType::bf16;
  const FluxConfig& c = parts.transformer->config();
  parts.text = TextConditioning::load(TextRule::flux, files.parts, c.joint_attention_dim,
                                      c.pooled_projection_dim, text);
  auto pipeline = std::make_unique<FluxPipeline>(std::move(parts), settings);
  pipeline->to(device);
  apply_settings(settings, pipeline->parts_.vae.get(), device);
  if (dtype == DType::bf16) pipeline->transformer().narrow();
  return pipeline;
}

}  // namespace parlo
