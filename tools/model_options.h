// Flags of the commands that draw with a model: which one, with what adapter, on which prompts.
#pragma once

#include <CLI/CLI.hpp>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "lora/merge.h"
#include "models/flow_model.h"
#include "models/pictures.h"
#include "models/text_conditioning.h"
#include "rl/evaluate.h"

namespace parlo {

// What a base model's weights and activations are computed in.
void add_dtype_flag(CLI::App& app, std::string& dtype);
// What the text encoders of a model folder read, and where their states are kept: that folder's
// option is returned.
CLI::Option* add_text_flags(CLI::App& app, TextSettings& settings);
// A model folder, a transformer (a file, or a folder of its own) with `parts` as the folder of all
// others, or the built-in world's where `base` is empty; UsageError where there is none.
// Prompts that are not read to their end are named on stderr.
std::unique_ptr<FlowModel> open_model(const std::string& base, const std::string& parts,
                                      Device device, const std::string& dtype,
                                      const TextSettings& text,
                                      const PipelineSettings& pictures = {});
// Says on stderr what a base in the original layout is used for; nothing of other bases.
void tell_what_is_used(const std::string& base, const std::string& parts);
// --base and --components
std::array<CLI::Option*, 2> add_base_flags(CLI::App& app, std::string& base, std::string& parts);

// Guidance as it is asked for; what it means depends on the model.
struct GuidanceFlags {
  double guidance = 0;  // embedded where the model takes it, else classifier-free; 0: the default
  double true_cfg = 1;  // classifier-free beside the embedded one
};
// Size of pictures, the autoencoder, guidance. The embedded guidance goes into the settings.
void add_picture_flags(CLI::App& app, PipelineSettings& pictures, GuidanceFlags& guidance);
// Sets the embedded guidance; UsageError for what no model can do.
void check_pictures(PipelineSettings& pictures, const GuidanceFlags& guidance);
// The factor of classifier-free guidance, 1 for none; UsageError for what this model has not.
double classifier_free(const FlowModel& model, const GuidanceFlags& guidance);

struct ModelOptions {
  std::string base;   // empty: the built-in world's
  std::string parts;  // folder of all but the transformer, where base is one alone
  std::string dtype = "f32";
  TextSettings text;
  PipelineSettings pictures;
  GuidanceFlags guidance;
  EvalConfig draw;  // steps, batch; the seed comes from --seed, the guidance from the flags
};

void add_model_flags(CLI::App& app, ModelOptions& options);
// Sets options.draw.guidance. UsageError for a missing folder or settings out of range.
std::unique_ptr<FlowModel> load_model(ModelOptions& options, Device device);
// Reads an adapter and puts it on; all that does not fit is listed.
void put_on(FlowModel& model, const std::string& adapter);
// --prompt texts and the lines of a --prompts file; UsageError when both are empty.
std::vector<Prompt> gather_prompts(const std::vector<std::string>& texts, const std::string& file);

}  // namespace parlo
