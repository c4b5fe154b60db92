// What training and sampling need of a text-conditioned flow model, whatever its architecture.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "models/layers.h"

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
  // Velocity noise - x0 of x [B, latent_shape], conditional branch only, at the noise levels that
  // `noise` was made from. Work of the device alone, so that it can be recorded (Replayed).
  virtual Var velocity(const Var& x, const Tensor& noise, const Condition& condition) const = 0;
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
  // Where velocities are computed; latents and conditions live there.
  virtual Device device() const { return {}; }
};

// Classifier-free guidance: v = vu + g (vc - vu), both branches in one batch [uncond, cond]; g == 1
// evaluates the conditional branch alone. uncond is needed when g != 1. detach_uncond cuts the
// gradient of the unconditional branch. noise: of B samples, or of the 2 B of both branches.
Var guided_velocity(const FlowModel& model, const Var& x, const Tensor& noise,
                    const Condition& condition, const Condition* uncond, double guidance,
                    bool detach_uncond = false);
Var guided_velocity(const FlowModel& model, const Var& x, double sigma, const Condition& condition,
                    const Condition* uncond, double guidance, bool detach_uncond = false);

}  // namespace parlo
