// Supervised objectives that make a base: flow matching for the image model, contrastive pairs for
// CLIP. Both take batches; where they come from is the caller's business.
#pragma once

#include "autograd/optim.h"
#include "models/clip.h"
#include "models/flow_model.h"

namespace parlo {

struct PretrainConfig {
  int64_t steps = 20000;
  int64_t batch = 64;
  double muon_lr = 0.02;  // hidden matrices; 0 gives them to AdamW
  double adam_lr = 3e-3;  // everything else
  double adam_beta2 = 0.99;
  double weight_decay = 0.0;
  double clip_norm = 1.0;  // of the AdamW part
  int64_t warmup = 100;
  double decay_share = 0.4;  // of the steps, linear down to 0 at the end
  double ema_decay = 0.999;
  // sigma = sigmoid(N(mean, std))
  double sigma_mean = 0.2;
  double sigma_std = 1.2;
  double caption_drop = 0.1;  // empty prompt instead, for guidance
  uint64_t seed = 1;
};

struct PretrainStats {
  int64_t step = 0;
  double loss = 0;
  double grad_norm = 0;
  double lr_factor = 0;
};

// Optimiser of both pre-trainings: Muon on `matrices`, AdamW on the rest, EMA of all.
class PretrainOptimizer {
 public:
  PretrainOptimizer(const std::vector<NamedVar>& params, const PretrainConfig& config,
                    bool (*is_hidden_matrix)(const NamedVar&));
  // Uses and clears the gradients; returns the gradient norm before clipping. A non-finite norm
  // skips the step and is returned.
  double step(int64_t step);
  double factor(int64_t step) const;
  Ema& ema() { return ema_; }
  NamedTensors state() const;
  void load_state(const NamedTensors& state);

 private:
  PretrainConfig config_;
  std::vector<NamedVar> all_, hidden_, rest_;
  Muon muon_;
  AdamW adam_;
  Ema ema_;
};

// Loss mean |v - (noise - x0)|^2 at one sigma a sample; x0 [B, latent]. Noise and sigmas are drawn
// from the key.
Var flow_matching_loss(const FlowModel& model, const Tensor& x0, const Condition& condition,
                       const PretrainConfig& config, RandomKey key);

// Mean of the two cross-entropies of logits [B, B] with the diagonal as target.
Var contrastive_loss(const ClipModel& model, const Tensor& ids, const Tensor& pixel_values);

}  // namespace parlo
