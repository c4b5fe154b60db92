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
  const int64_t batch = x.dim(0);
  if (guidance == 1.0) {
    return model.velocity(x, std::vector<double>(static_cast<size_t>(batch), sigma), condition);
  }
  CHECK(uncond != nullptr, "guided_velocity: guidance ", guidance,
        " needs the unconditional encoding");
  const Condition both{stacked(uncond->context, condition.context),
                       stacked(uncond->pooled, condition.pooled)};
  const std::vector<double> sigmas(static_cast<size_t>(2 * batch), sigma);
  const Var v = model.velocity(cat(std::vector<Var>{x, x}, 0), sigmas, both);
  Var vu = slice(v, 0, 0, batch);
  if (detach_uncond) vu = vu.detach();
  return add(affine(vu, 1.0 - guidance), affine(slice(v, 0, batch, 2 * batch), guidance));
}

}  // namespace parlo
