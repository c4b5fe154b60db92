// The components that `parlo forward` can run, one function each. Inputs have the names of the
// reference's forward arguments, outputs those of its result's fields.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "autograd/optim.h"
#include "models/layers.h"
#include "tools/forward/inputs.h"

namespace parlo {

struct ForwardRequest {
  std::filesystem::path checkpoint, inputs, adapter;  // adapter may be empty
  bool grads = false;
  bool bf16 = false;  // weights of linears rounded to bf16
  Device device;

  Placement placement() const { return {device, bf16 ? DType::bf16 : DType::f32}; }
};

struct ForwardResult {
  // The first one is what grad_output belongs to.
  std::vector<std::pair<std::string, Var>> outputs;
  // Where gradients are wanted, by the name behind "grad.".
  std::vector<NamedVar> leaves;
  Tensor grad_output;           // with grads
  std::shared_ptr<void> model;  // the graph may point into it
};

struct Component {
  const char* name;
  ForwardResult (*run)(const ForwardRequest& request);
};

// UsageError listing the known names.
const Component& find_component(const std::string& name);
std::vector<std::string> component_names();

// --- for the components' own files

// Moves the model to the device, rounds weights and puts the adapter on, as the request says.
void prepare_model(const ForwardRequest& request, Params& params, const Linears& linears,
                   ForwardResult& result);
// An input as a leaf of the graph.
Var leaf(const ForwardRequest& request, const Inputs& inputs, const std::string& name,
         ForwardResult& result);
// Reads grad_output once the first output is known.
void finish(const ForwardRequest& request, const Inputs& inputs, ForwardResult& result);

ForwardResult forward_sd3(const ForwardRequest& request);
ForwardResult forward_flux(const ForwardRequest& request);
ForwardResult forward_clip_text(const ForwardRequest& request);
ForwardResult forward_clip_text_with_projection(const ForwardRequest& request);
ForwardResult forward_clip_vision(const ForwardRequest& request);
ForwardResult forward_t5_encoder(const ForwardRequest& request);
ForwardResult forward_clip(const ForwardRequest& request);
ForwardResult forward_vae_encode(const ForwardRequest& request);
ForwardResult forward_vae_decode(const ForwardRequest& request);

}  // namespace parlo
