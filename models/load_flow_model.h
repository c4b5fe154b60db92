// A text-conditioned flow model of whatever architecture, from a diffusers folder.
#pragma once

#include <filesystem>
#include <memory>

#include "models/flow_model.h"
#include "models/text_conditioning.h"

namespace parlo {

// The pipeline that belongs to the class named in transformer/config.json: SD3 or FLUX. Error for
// another one. dtype bf16 narrows the transformer, and T5.
std::unique_ptr<FlowModel> load_flow_model(const std::filesystem::path& folder, Device device = {},
                                           DType dtype = DType::f32, const TextSettings& text = {});

}  // namespace parlo
