// What training and sampling need of a text-conditioned flow model, whatever its architecture, and
// its guidance.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "models/mmdit.h"

namespace parlo {

// Text as the transformer takes it.
struct Condition {
  Tensor context;  // [B, T, J]
  Tensor pooled;   // [B, P]
  // Rows begin..end of the batch.
  Condition rows(int64_t begin, int64_t end) const {
    return {context.slice(0, begin, end), pooled.slice(0, begin, end)};
  }
};

class FlowModel {
 public:
  virtual ~FlowModel() = default;

  // Of one sample, e.g. (16, 64, 64).
  virtual Shape latent_shape() const = 0;
  // Encodes prompts; equal prompts give equal bits in any batch. Cached.
  virtual Condition encode(std::span<const std::string> prompts) = 0;
  // Of prompts that encode() will be asked for: a model that loads its text encoders on demand does
  // it once for all of them. No effect on results.
  virtual void prepare(std::span<const std::string> prompts) { static_cast<void>(prompts); }
  // Frees what encode() and prepare() keep in memory.
  virtual void forget() {}
  // Velocity noise - x0 of x [B, latent_shape], conditional branch only, at the noise levels that
  // `noise` was made from. Work of the device alone, so that it can be recorded (Replayed).
  virtual Var velocity(const Var& x, const Tensor& noise, const Condition& condition) const = 0;
  // The same without some of its blocks, their indices below skippable_blocks().
  virtual Var velocity_without(std::span<const int64_t> blocks, const Var& x, const Tensor& noise,
                               const Condition& condition) const;
  virtual int64_t skippable_blocks() const { return 0; }
  // What velocity() takes of noise levels sigma, one a sample; computed on the CPU.
  virtual Tensor noise_features(std::span<const double> sigmas) const = 0;
  Var velocity(const Var& x, std::span<const double> sigmas, const Condition& condition) const {
    return velocity(x, noise_features(sigmas), condition);
  }
  // Latents [B, ...] -> pictures [B, 3, H, W] in [0, 1] (not clipped).
  virtual Tensor decode(const Tensor& latents) const = 0;
  virtual std::vector<double> sigmas(int64_t steps) const = 0;
  virtual Linears linears() = 0;
  virtual Params& params() = 0;
  // Whose velocity it is: what its blocks keep and compute in is set there.
  virtual MmditBase& transformer() = 0;
  // Where velocities are computed; latents and conditions live there.
  virtual Device device() const { return {}; }
  // Guidance is an input of the model itself (PipelineSettings::guidance), which was trained to
  // answer in one pass; classifier-free guidance is then something beside it.
  virtual bool embeds_guidance() const { return false; }
};

// Skip-layer guidance of SD3.5 as diffusers' StableDiffusion3Pipeline has it: in steps i of n with
// n start < i < n stop the difference to a worse model, which lacks some blocks, is added on top of
// classifier-free guidance: v += scale (vc - v of the condition without the blocks).
struct SkipLayers {
  std::vector<int64_t> layers = {};  // empty: none of this
  double scale = 2.8;
  double start = 0.01, stop = 0.2;

  bool active(int64_t step, int64_t steps) const {
    const auto i = static_cast<double>(step), n = static_cast<double>(steps);
    return !layers.empty() && i > n * start && i < n * stop;
  }
};
// UsageError for blocks that the model does not have, or without classifier-free guidance.
void validate(const SkipLayers& skip, const FlowModel& model, double guidance);

// Classifier-free guidance: v = vu + g (vc - vu), both branches in one batch [uncond, cond]; g == 1
// evaluates the conditional branch alone. uncond is needed when g != 1. detach_uncond cuts the
// gradient of the unconditional branch. noise: of B samples, or of the 2 B of both branches. skip:
// null, or added in this step where g != 1.
Var guided_velocity(const FlowModel& model, const Var& x, const Tensor& noise,
                    const Condition& condition, const Condition* uncond, double guidance,
                    bool detach_uncond = false, const SkipLayers* skip = nullptr);
Var guided_velocity(const FlowModel& model, const Var& x, double sigma, const Condition& condition,
                    const Condition* uncond, double guidance, bool detach_uncond = false,
                    const SkipLayers* skip = nullptr);

}  // namespace parlo
