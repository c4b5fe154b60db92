#include "rl/velocity.h"

#include <bit>
#include <optional>

namespace parlo {
namespace {

// What a recording reads besides its inputs: weights are replaced when adapters are folded,
// adapters when they are switched.
void add_weights(const Linears& linears, Replayed::Key& key) {
  for (const Linear* l : linears) {
    key.push_back(Replayed::address(l->weight.value()));
    if (!l->adapter) continue;
    key.push_back(Replayed::address(l->adapter->a.value()));
    key.push_back(Replayed::address(l->adapter->b.value()));
    key.push_back(std::bit_cast<uint64_t>(l->adapter->scale));
  }
}

}  // namespace

Velocity::Call Velocity::call(const At& at) const {
  const int64_t batch = at.x.dim(0);
  const auto rows = static_cast<size_t>(batch * (at.guidance == 1.0 ? 1 : 2));
  Call c;
  c.inputs = {at.x, model_.noise_features(std::vector<double>(rows, at.sigma)),
              at.condition.context, at.condition.pooled};
  if (at.uncond != nullptr) {
    c.inputs.push_back(at.uncond->context);
    c.inputs.push_back(at.uncond->pooled);
  }
  c.key = {std::bit_cast<uint64_t>(at.guidance), at.detach_uncond, at.uncond != nullptr};
  std::optional<SkipLayers> skip;
  if (at.skip != nullptr) {
    skip = *at.skip;
    c.key.push_back(std::bit_cast<uint64_t>(skip->scale));
    c.key.insert(c.key.end(), skip->layers.begin(), skip->layers.end());
  }
  c.key.push_back(skip ? skip->layers.size() : 0);
  add_weights(model_.linears(), c.key);
  Shape shape = model_.latent_shape();
  shape.insert(0, batch);
  c.fn = [this, shape, guidance = at.guidance, detach = at.detach_uncond,
          guided = at.uncond != nullptr, skip](const std::vector<Tensor>& in) {
    const Condition condition{in[2], in[3]};
    Condition uncond;
    if (guided) uncond = {in[4], in[5]};
    return guided_velocity(model_, Var(in[0].view(shape)), in[1], condition,
                           guided ? &uncond : nullptr, guidance, detach, skip ? &*skip : nullptr);
  };
  return c;
}

Tensor Velocity::value(const At& at) {
  const Call c = call(at);
  return replayed_.value(c.fn, c.key, c.inputs).view(at.x.shape());
}

Tensor Velocity::forward(const At& at, const std::vector<NamedVar>& leaves) {
  const Call c = call(at);
  const Tensor v = replayed_.forward(c.fn, c.key, c.inputs, leaves);
  shape_ = v.shape();
  return v.view(at.x.shape());
}

void Velocity::backward(const Tensor& dv) {
  replayed_.backward(dv.view(shape_));
}

}  // namespace parlo
