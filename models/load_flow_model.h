// A text-conditioned flow model of whatever architecture, from a diffusers folder or a
// transformer's file and a folder.
#pragma once

#include <memory>

#include "models/flow_model.h"
#include "models/model_files.h"
#include "models/pictures.h"
#include "models/text_conditioning.h"

namespace parlo {

// The pipeline that belongs to the transformer's class (transformer/config.json, or the original
// names): SD3 or FLUX. Error for another one. dtype bf16 narrows the transformer, and T5.
std::unique_ptr<FlowModel> load_flow_model(const ModelFiles& files, Device device = {},
                                           DType dtype = DType::f32, const TextSettings& text = {},
                                           const PipelineSettings& settings = {});

}  // namespace parlo
