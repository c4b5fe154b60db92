#include "models/load_flow_model.h"

#include "models/flux_pipeline.h"
#include "models/json_config.h"
#include "models/sd3_pipeline.h"

namespace parlo {

std::unique_ptr<FlowModel> load_flow_model(const std::filesystem::path& folder, Device device,
                                           DType dtype, const TextSettings& text) {
  CHECK(std::filesystem::is_directory(folder), folder.string(),
        ": no such folder; expected a model folder with transformer/, text_encoder/, tokenizer/");
  const std::filesystem::path config = folder / "transformer" / "config.json";
  const std::string name = JsonConfig(config).text("_class_name", "");
  if (name == "SD3Transformer2DModel") return Sd3Pipeline::load(folder, device, dtype, text);
  CHECK(name == "FluxTransformer2DModel", config.string(), ": _class_name is \"", name,
        "\", expected SD3Transformer2DModel or FluxTransformer2DModel");
  return FluxPipeline::load(folder, device, dtype, text);
}

}  // namespace parlo
