#include "models/flow_model.h"

namespace parlo {
namespace {

Tensor stacked(const Tensor& a, const Tensor& b) {
  const NoGrad guard;
  return cat(std::vector<Var>{Var(a), Var(b)}, 0).value();
}

}  // namespace

Var guided_velocity(const FlowModel& model, const Var& x, double sigma, const Condition& condition,
                    const Condition* uncond, double guidance, bool detach_uncond) {
  const auto rows = static_cast<size_t>(x.dim(0) * (guidance == 1.0 ? 1 : 2));
  const Tensor noise = model.noise_features(std::vector<double>(rows, sigma));
  return guided_velocity(model, x, noise, condition, uncond, guidance, detach_uncond);
}

Var guided_velocity(const FlowModel& model, const Var& x, const Tensor& noise,
                    const Condition& condition, const Condition* uncond, double guidance,
                    bool detach_uncond) {
  const int64_t batch = x.dim(0);
  if (guidance == 1.0) return model.velocity(x, noise, condition);
  CHECK(uncond != nullptr, "guided_velocity: guidance ", guidance,
        " needs the unconditional encoding");
  const Condition both{stacked(uncond->context, condition.context),
                       stacked(uncond->pooled, condition.pooled)};
  const Var v = model.velocity(cat(std::vector<Var>{x, x}, 0), noise, both);
  Var vu = slice(v, 0, 0, batch);
  if (detach_uncond) vu = vu.detach();
  return add(affine(vu, 1.0 - guidance), affine(slice(v, 0, batch, 2 * batch), guidance));
}

}  // namespace parlo
