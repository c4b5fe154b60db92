#include "distill/pretrain.h"

#include <cmath>
#include <numeric>

#include "autograd/functions.h"

namespace parlo {
namespace {

std::vector<NamedVar> filtered(const std::vector<NamedVar>& params, bool wanted,
                               bool (*hidden)(const NamedVar&), bool muon) {
  std::vector<NamedVar> out;
  for (const NamedVar& p : params) {
    if ((muon && hidden(p)) == wanted) out.push_back(p);
  }
  return out;
}

}  // namespace

PretrainOptimizer::PretrainOptimizer(const std::vector<NamedVar>& params,
                                     const PretrainConfig& config,
                                     bool (*is_hidden_matrix)(const NamedVar&))
    : config_(config),
      all_(params),
      hidden_(filtered(params, true, is_hidden_matrix, config.muon_lr > 0)),
      rest_(filtered(params, false, is_hidden_matrix, config.muon_lr > 0)),
      muon_(hidden_, {0.95, 5, 0.0}),
      adam_(rest_, {0.9, config.adam_beta2, 1e-8, config.weight_decay}),
      ema_(params, config.ema_decay) {}

double PretrainOptimizer::factor(int64_t step) const {
  const auto decay = static_cast<int64_t>(config_.decay_share * static_cast<double>(config_.steps));
  return trapezoid_schedule(step, config_.warmup, config_.steps, decay);
}

double PretrainOptimizer::step(int64_t step) {
  const double norm = grad_norm(all_);
  if (std::isfinite(norm)) {
    muon_.step(config_.muon_lr * factor(step));
    adam_.step(config_.adam_lr * factor(step), clip_factor(grad_norm(rest_), config_.clip_norm));
    ema_.update();
  }
  zero_grads(all_);
  return norm;
}

NamedTensors PretrainOptimizer::state() const {
  NamedTensors out = muon_.state();
  for (const NamedTensors& more : {adam_.state(), ema_.state()}) {
    out.insert(out.end(), more.begin(), more.end());
  }
  return out;
}

void PretrainOptimizer::load_state(const NamedTensors& state) {
  muon_.load_state(state);
  adam_.load_state(state);
  ema_.load_state(state);
}

Var flow_matching_loss(const FlowModel& model, const Tensor& x0, const Condition& condition,
                       const PretrainConfig& config, RandomKey key) {
  const int64_t batch = x0.dim(0);
  const Tensor noise = random_normal(key.fold("noise"), x0.shape());
  const Tensor draws = random_normal(key.fold("sigma"), {batch});
  std::vector<double> sigmas;
  std::vector<float> values;
  for (float z : draws.span<float>()) {
    const double logit = config.sigma_mean + config.sigma_std * static_cast<double>(z);
    sigmas.push_back(1.0 / (1.0 + std::exp(-logit)));
    values.push_back(static_cast<float>(sigmas.back()));
  }
  const Var s(Tensor::from(values, {batch, 1, 1, 1}));
  const Var target = sub(Var(noise), Var(x0));
  const Var x = add(Var(x0), mul(s, target));  // (1 - s) x0 + s noise
  const Var v = model.velocity(x, sigmas, condition);
  return mean(square(sub(v, target)));
}

Var contrastive_loss(const ClipModel& model, const Tensor& ids, const Tensor& pixel_values) {
  const ClipOutput out = model.forward(model.text().embed(ids), ids, Var(pixel_values));
  std::vector<int64_t> diagonal(static_cast<size_t>(ids.dim(0)));
  std::iota(diagonal.begin(), diagonal.end(), 0);
  const Tensor targets = Tensor::from(diagonal, {ids.dim(0)});
  const Var both = add(cross_entropy(out.logits_per_image, targets),
                       cross_entropy(out.logits_per_text, targets));
  return affine(mean(both), 0.5);
}

}  // namespace parlo
