#include "models/layers.h"

#include <cmath>

namespace parlo {
namespace {

// Variance-preserving start of a matrix with `in` inputs.
Init fan_in(int64_t in) {
  return Init::normal(1.0 / std::sqrt(static_cast<double>(in)));
}

}  // namespace

void check_layers(const char* who, int64_t layers) {
  constexpr int64_t kMostLayers = 1024;
  CHECK(layers > 0 && layers <= kMostLayers, who, ": ", layers, " layers, expected 1 to ",
        kMostLayers);
}

void check_patch(const char* who, int64_t patch) {
  constexpr int64_t kMostPatch = 1024;
  CHECK(patch > 0 && patch <= kMostPatch, who, ": patch_size is ", patch, ", expected 1 to ",
        kMostPatch);
}

Linear::Linear(const Scope& scope, int64_t in, int64_t out, bool with_bias)
    : name(scope.prefix()), weight(scope.param("weight", {out, in}, fan_in(in))) {
  if (with_bias) bias = scope.param("bias", {out}, Init::zeros());
}

Var Linear::operator()(const Var& x, Activation activation, const Var& residual,
                       const Var& gate) const {
  return linear(x, weight, bias, {activation, residual, adapter.get(), {}, gate});
}

LayerNorm::LayerNorm(const Scope& scope, int64_t channels, double eps_)
    : weight(scope.param("weight", {channels}, Init::ones())),
      bias(scope.param("bias", {channels}, Init::zeros())),
      eps(eps_) {}

PatchEmbed::PatchEmbed(const Scope& scope, int64_t in, int64_t out, int64_t patch_, bool with_bias)
    : weight(scope.param("weight", {out, in, patch_, patch_}, fan_in(in * patch_ * patch_))),
      patch(patch_) {
  if (with_bias) bias = scope.param("bias", {out}, Init::zeros());
}

Var PatchEmbed::operator()(const Var& image) const {
  const Var rows = reshape(weight, {weight.dim(0), -1});
  return linear(patchify(image, patch, false), rows, bias);
}

EmbeddingMlp::EmbeddingMlp(const Scope& scope, int64_t in, int64_t out)
    : linear_1(scope / "linear_1", in, out), linear_2(scope / "linear_2", out, out) {}

}  // namespace parlo
