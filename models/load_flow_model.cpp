#include "models/load_flow_model.h"

#include "models/flux_pipeline.h"
#include "models/sd3_pipeline.h"

namespace parlo {

std::unique_ptr<FlowModel> load_flow_model(const ModelFiles& files, Device device, DType dtype,
                                           const TextSettings& text,
                                           const PipelineSettings& settings) {
  files.check();
  const TransformerFile file = files.open_transformer();
  const std::string name = file.class_name();
  if (name == "SD3Transformer2DModel") {
    return Sd3Pipeline::load(files, device, dtype, text, settings);
  }
  CHECK(name == "FluxTransformer2DModel", file.config.string(), ": _class_name is \"", name,
        "\", expected SD3Transformer2DModel or FluxTransformer2DModel");
  return FluxPipeline::load(files, device, dtype, text, settings);
}

}  // namespace parlo
