#include "models/autoencoder_kl.h"

#include <algorithm>

#include "autograd/functions.h"
#include "models/tiling.h"
#include "tensor/file.h"
#include "tensor/trace.h"

namespace parlo {
namespace {

constexpr double kMinLogvar = -30, kMaxLogvar = 20;
constexpr int64_t kOverlapDivisor = 4;  // tiles share a quarter

// Halves height and width; what is missing at the right and at the bottom is zero.
Convolution downsampler(const Scope& scope, int64_t channels) {
  Convolution c(scope / "downsamplers" / 0 / "conv", channels, channels, 3);
  c.args.stride = {1, 2, 2};
  c.args.before = {0, 0, 0}, c.args.after = {0, 1, 1};
  return c;
}

Var doubled(const Var& x) {
  return resize(x, {x.dim(2), 2 * x.dim(3), 2 * x.dim(4)}, {Interpolation::nearest, false});
}

// max(lo, min(hi, x)), with the gradient of torch.clamp.
Var clamped(const Var& x, double lo, double hi) {
  const Var above = affine(relu(affine(x, 1, -lo)), 1, lo);
  return affine(relu(affine(above, -1, hi)), -1, hi);
}

Var as_volume(const Var& x, DType dtype) {
  return reshape(cast(x, dtype), {x.dim(0), x.dim(1), 1, x.dim(2), x.dim(3)});
}

Var as_image(const Var& x, DType dtype) {
  return reshape(cast(x, dtype), {x.dim(0), x.dim(1), x.dim(3), x.dim(4)});
}

template <class Block>
Var run_block(const Block& block, const Var& x, bool recompute) {
  if (!recompute) return block(x);
  return checkpoint([&block](std::span<const Var> in) { return block(in[0]); }, {x});
}

}  // namespace

VaeStack::VaeStack(const Scope& scope, const AutoencoderKlConfig& c, bool decodes_)
    : decodes(decodes_) {
  std::vector<int64_t> widths = c.block_out_channels;
  if (decodes) std::reverse(widths.begin(), widths.end());
  const int64_t groups = c.norm_num_groups, last = c.levels() - 1;
  conv_in =
      Convolution(scope / "conv_in", decodes ? c.latent_channels : c.in_channels, widths[0], 3);
  int64_t width = widths[0];
  for (int64_t i = 0; i <= last; ++i) {
    const Scope level = scope / (decodes ? "up_blocks" : "down_blocks") / static_cast<int>(i);
    VaeLevel& l = levels.emplace_back();
    for (int64_t j = 0; j < c.layers_per_block + (decodes ? 1 : 0); ++j) {
      const int64_t out = widths[static_cast<size_t>(i)];
      l.resnets.emplace_back(level / "resnets" / static_cast<int>(j), width, out, groups);
      width = out;
    }
    if (i == last) continue;
    l.resample = decodes ? Convolution(level / "upsamplers" / 0 / "conv", width, width, 3)
                         : downsampler(level, width);
  }
  mid.emplace(scope / "mid_block", c.block_out_channels.back(), groups, c.mid_block_add_attention);
  conv_norm_out = GroupNorm(scope / "conv_norm_out", width, groups);
  conv_out =
      Convolution(scope / "conv_out", width, decodes ? c.out_channels : 2 * c.latent_channels, 3);
}

Var VaeStack::operator()(const Var& input, bool recompute) const {
  Var x = conv_in(input);
  const auto middle = [&] {
    const TraceRange range("vae.mid_block");
    x = run_block(mid->first, x, recompute);
    if (mid->attention) x = run_block(*mid->attention, x, recompute);
    x = run_block(mid->second, x, recompute);
  };
  if (decodes) middle();
  for (const VaeLevel& level : levels) {
    const TraceRange range(decodes ? "vae.up_block" : "vae.down_block");
    for (const ResnetBlock& block : level.resnets) x = run_block(block, x, recompute);
    if (!level.resample) continue;
    if (decodes) x = doubled(x);
    x = (*level.resample)(x);
  }
  if (!decodes) middle();
  x = conv_norm_out(x);
  return conv_out(x);
}

AutoencoderKl::AutoencoderKl(const AutoencoderKlConfig& config) : config_(config) {
  const Scope root(params_);
  const int64_t z = config_.latent_channels;
  CHECK(config_.levels() > 0 && config_.levels() < 16 && z > 0 && config_.in_channels > 0 &&
            config_.out_channels > 0,
        "AutoencoderKl: expected 1 to 15 block_out_channels and positive channels, got ",
        config_.levels(), " and latent_channels ", z);
  check_layers("AutoencoderKl", config_.layers_per_block);
  CHECK(config_.sample_size >= config_.downscale(), "AutoencoderKl: sample_size is ",
        config_.sample_size, ", expected at least a latent's ", config_.downscale(), " pixels");
  encoder_ = VaeStack(root / "encoder", config_, false);
  decoder_ = VaeStack(root / "decoder", config_, true);
  if (config_.use_quant_conv) quant_conv_.emplace(root / "quant_conv", 2 * z, 2 * z, 1);
  if (config_.use_post_quant_conv) post_quant_conv_.emplace(root / "post_quant_conv", z, z, 1);
}

// Moments of one tile.
Var AutoencoderKl::encoded(const Var& images) const {
  const Var h = encoder_(images, checkpoint_blocks);
  return quant_conv_ ? (*quant_conv_)(h) : h;
}

Var AutoencoderKl::decoded(const Var& z) const {
  return decoder_(post_quant_conv_ ? (*post_quant_conv_)(z) : z, checkpoint_blocks);
}

ZDistribution AutoencoderKl::encode(const Var& images) const {
  const int64_t scale = config_.downscale(), tile = config_.sample_size, small = tile / scale;
  CHECK(images.rank() == 4 && images.dim(1) == config_.in_channels && images.dim(2) >= scale &&
            images.dim(3) >= scale,
        "AutoencoderKl::encode: images have shape ", images.shape(), ", expected [B, ",
        config_.in_channels, ", H, W] with H and W at least ", scale);
  const DType given = images.dtype(), dtype = given == DType::f32 ? compute : given;
  const auto one = [&](const Var& x) { return as_image(encoded(as_volume(x, dtype)), given); };
  const bool large = images.dim(2) > tile || images.dim(3) > tile;
  const int64_t blend = small / kOverlapDivisor;
  const Tiling tiles{tile, tile - tile / kOverlapDivisor, blend, small - blend};
  const Var moments = tiling && large ? map_tiles(images, tiles, one) : one(images);
  const std::vector<Var> halves = chunk(moments, 1, 2);
  return {halves[0], clamped(halves[1], kMinLogvar, kMaxLogvar)};
}

Var AutoencoderKl::decode(const Var& z) const {
  CHECK(z.rank() == 4 && z.dim(1) == config_.latent_channels && z.dim(2) > 0 && z.dim(3) > 0,
        "AutoencoderKl::decode: z has shape ", z.shape(), ", expected [B, ",
        config_.latent_channels, ", h, w]");
  const int64_t tile = config_.sample_size, small = tile / config_.downscale();
  const DType given = z.dtype(), dtype = given == DType::f32 ? compute : given;
  const auto one = [&](const Var& x) { return as_image(decoded(as_volume(x, dtype)), given); };
  if (!tiling || (z.dim(2) <= small && z.dim(3) <= small)) return one(z);
  const int64_t blend = tile / kOverlapDivisor;
  return map_tiles(z, {small, small - small / kOverlapDivisor, blend, tile - blend}, one);
}

Var AutoencoderKl::scaled(const Var& z) const {
  return affine(z, config_.scaling_factor, -config_.shift_factor * config_.scaling_factor);
}

Var AutoencoderKl::unscaled(const Var& latents) const {
  return affine(latents, 1.0 / config_.scaling_factor, config_.shift_factor);
}

Var AutoencoderKl::draw(const ZDistribution& z, RandomKey key) {
  const Tensor noise = random_normal(key, z.mean.shape(), 1.0, z.mean.value().device());
  return add(z.mean, mul(exp(affine(z.logvar, 0.5)), Var(noise.to(z.mean.dtype()))));
}

Linears AutoencoderKl::linears() {
  Linears out;
  for (VaeStack* s : {&encoder_, &decoder_}) {
    if (!s->mid->attention) continue;
    SpatialAttention& a = *s->mid->attention;
    for (Linear* l : {&a.to_q, &a.to_k, &a.to_v, &a.to_out}) out.push_back(l);
  }
  return out;
}

std::unique_ptr<AutoencoderKl> AutoencoderKl::load(const std::filesystem::path& folder,
                                                   const Placement& to) {
  auto model =
      std::make_unique<AutoencoderKl>(AutoencoderKlConfig::from_json(folder / "config.json"));
  const SafeTensors file = SafeTensors::open_sharded(folder, "diffusion_pytorch_model");
  model->params_.load(file, folder.string(), autoencoder_kl_tensors(file, model->config().levels()),
                      to);
  return model;
}

std::unique_ptr<AutoencoderKl> AutoencoderKl::load_file(const std::filesystem::path& file,
                                                        const AutoencoderKlConfig& config,
                                                        const Placement& to) {
  auto model = std::make_unique<AutoencoderKl>(config);
  const SafeTensors tensors = SafeTensors::open(file);
  model->params_.load(tensors, file.string(), autoencoder_kl_tensors(tensors, config.levels()), to);
  return model;
}

void AutoencoderKl::save(const std::filesystem::path& folder) const {
  make_folders(folder);
  save_safetensors(folder / "diffusion_pytorch_model.safetensors", params_.tensors(), {});
  write_file(folder / "config.json", config_.to_json());
}

}  // namespace parlo
