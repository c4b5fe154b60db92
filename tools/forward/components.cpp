#include "tools/forward/components.h"

#include "lora/adapter.h"

namespace parlo {
namespace {

constexpr Component kComponents[] = {
    {"sd3", forward_sd3},
    {"flux", forward_flux},
    {"clip_text", forward_clip_text},
    {"clip_text_with_projection", forward_clip_text_with_projection},
    {"clip_vision", forward_clip_vision},
    {"clip", forward_clip},
    {"vae_encode", forward_vae_encode},
    {"vae_decode", forward_vae_decode},
    {"t5_encoder", forward_t5_encoder},
};

// PEFT's prefix of a module's name in adapter_model.safetensors.
constexpr const char* kAdapterPrefix = "base_model.model.";

}  // namespace

const Component& find_component(const std::string& name) {
  for (const Component& c : kComponents) {
    if (name == c.name) return c;
  }
  std::string known;
  for (const std::string& n : component_names()) known += (known.empty() ? "" : ", ") + n;
  throw UsageError("forward: unknown component '" + name + "'; known: " + known);
}

std::vector<std::string> component_names() {
  std::vector<std::string> names;
  for (const Component& c : kComponents) names.emplace_back(c.name);
  return names;
}

void prepare_model(const ForwardRequest& request, Params& params, const Linears& linears,
                   ForwardResult& result) {
  params.to(request.device);
  for (Linear* l : linears) {
    if (request.bf16) l->weight.state()->value = l->weight.value().to(DType::bf16);
  }
  if (request.adapter.empty()) return;
  LoraAdapter adapter = LoraAdapter::load(linears, request.adapter);
  adapter.enable(linears);
  adapter.set_requires_grad(request.grads);
  for (const NamedVar& p : adapter.params()) {
    result.leaves.push_back({kAdapterPrefix + p.name, p.var});
  }
}

Var leaf(const ForwardRequest& request, const Inputs& inputs, const std::string& name,
         ForwardResult& result) {
  const bool grad = request.grads && inputs.is_float(name);
  const Var var(inputs.at(name).to(request.device), grad);
  if (grad) result.leaves.push_back({name, var});
  return var;
}

void finish(const ForwardRequest& request, const Inputs& inputs, ForwardResult& result) {
  if (!request.grads) return;
  const auto& [name, value] = result.outputs.front();
  result.grad_output = inputs.grad_output(name, value.shape()).to(request.device);
}

}  // namespace parlo
