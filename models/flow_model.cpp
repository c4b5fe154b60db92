#include "models/flow_model.h"

#include <cmath>

namespace parlo {
namespace {

Tensor stacked(const Tensor& a, const Tensor& b) {
  const NoGrad guard;
  return cat(std::vector<Var>{Var(a), Var(b)}, 0).value();
}

}  // namespace

Var FlowModel::velocity_without(std::span<const int64_t>, const Var&, const Tensor&,
                                const Condition&) const {
  throw Error("this model has no blocks that guidance can skip");
}

void validate(const SkipLayers& skip, const FlowModel& model, double guidance) {
  if (skip.layers.empty()) return;
  const auto fail = [](const auto&... text) {
    throw UsageError(concat("skip-layer guidance: ", text...));
  };
  const int64_t blocks = model.skippable_blocks();
  if (blocks == 0) fail("this model does not have it; it is for SD3 models");
  for (int64_t layer : skip.layers) {
    if (layer < 0 || layer >= blocks) {
      fail("layer ", layer, " to skip, expected 0 .. ", blocks - 1, ", the model's layers");
    }
  }
  if (!std::isfinite(skip.scale)) fail("scale ", skip.scale, ", expected a finite number");
  if (!(skip.start >= 0 && skip.start < skip.stop && skip.stop <= 1)) {
    fail("from ", skip.start, " to ", skip.stop, " of the steps, expected 0 <= start < stop <= 1");
  }
  if (guidance == 1.0) {
    fail("comes on top of classifier-free guidance, which is off; give a guidance other than 1");
  }
}

Var guided_velocity(const FlowModel& model, const Var& x, double sigma, const Condition& condition,
                    const Condition* uncond, double guidance, bool detach_uncond,
                    const SkipLayers* skip) {
  const auto rows = static_cast<size_t>(x.dim(0) * (guidance == 1.0 ? 1 : 2));
  const Tensor noise = model.noise_features(std::vector<double>(rows, sigma));
  return guided_velocity(model, x, noise, condition, uncond, guidance, detach_uncond, skip);
}

Var guided_velocity(const FlowModel& model, const Var& x, const Tensor& noise,
                    const Condition& condition, const Condition* uncond, double guidance,
                    bool detach_uncond, const SkipLayers* skip) {
  const int64_t batch = x.dim(0);
  if (guidance == 1.0) return model.velocity(x, noise, condition);
  CHECK(uncond != nullptr, "guided_velocity: guidance ", guidance,
        " needs the unconditional encoding");
  const Condition both{stacked(uncond->context, condition.context),
                       stacked(uncond->pooled, condition.pooled)};
  const Var v = model.velocity(cat(std::vector<Var>{x, x}, 0), noise, both);
  Var vu = slice(v, 0, 0, batch);
  if (detach_uncond) vu = vu.detach();
  const Var vc = slice(v, 0, batch, 2 * batch);
  const Var guided = add(affine(vu, 1.0 - guidance), affine(vc, guidance));
  if (skip == nullptr) return guided;
  const Var worse = model.velocity_without(skip->layers, x, noise.slice(0, 0, batch), condition);
  return add(guided, affine(sub(vc, worse), skip->scale));
}

}  // namespace parlo
