// Flags of the commands that draw with a model: which one, with what adapter, on which prompts.
#pragma once

#include <CLI/CLI.hpp>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "lora/merge.h"
#include "models/flow_model.h"
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
                                      const TextSettings& text);
// Says on stderr what a base in the original layout is used for; nothing of other bases.
void tell_what_is_used(const std::string& base, const std::string& parts);
// --base and --components
std::array<CLI::Option*, 2> add_base_flags(CLI::App& app, std::string& base, std::string& parts);

struct ModelOptions {
  std::string base;   // empty: the built-in world's
  std::string parts;  // folder of all but the transformer, where base is one alone
  std::string dtype = "f32";
  TextSettings text;
  EvalConfig draw;  // steps, guidance, batch; the seed comes from --seed
};

void add_model_flags(CLI::App& app, ModelOptions& options);
// UsageError for a missing folder or settings out of range.
std::unique_ptr<FlowModel> load_model(const ModelOptions& options, Device device);
// Reads an adapter and puts it on; all that does not fit is listed.
void put_on(FlowModel& model, const std::string& adapter);
// --prompt texts and the lines of a --prompts file; UsageError when both are empty.
std::vector<Prompt> gather_prompts(const std::vector<std::string>& texts, const std::string& file);

}  // namespace parlo
