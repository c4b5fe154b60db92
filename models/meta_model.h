// A pipeline without its weights: built from the configurations of a folder on the meta device
// (tensor/meta.h), where tensors only count. Full-size models then take no memory and no time.
#pragma once

#include <algorithm>
#include <filesystem>
#include <memory>

#include "models/flow_model.h"
#include "models/pictures.h"
#include "models/text_conditioning.h"

namespace parlo {

// What text encoders that are loaded for a while need beside the pipeline, in bytes.
struct EncodingBytes {
  int64_t clip = 0;    // the larger tower at work on a prompt
  int64_t states = 0;  // of a prompt, kept until T5 is done
  int64_t t5 = 0;      // T5 at work on a prompt

  // For so many prompts at once.
  int64_t peak(int64_t prompts) const { return std::max(clip, t5) + prompts * states; }
};

struct MetaModel {
  std::unique_ptr<FlowModel> pipeline;  // encode() is not for use: there are no encoders
  Condition condition;                  // of one prompt
  int64_t transformer_bytes = 0, autoencoder_bytes = 0;
  int64_t text_bytes = 0;  // of a text encoder that stays; 0: they are loaded on demand
  EncodingBytes encoding;
};

// What load_flow_model(folder, like, dtype, text, settings) would load: config.json of every
// component and the tokenizers are read, weights need not be there.
MetaModel make_meta_model(const std::filesystem::path& folder, Device like, DType dtype,
                          const TextSettings& text = {}, const PipelineSettings& settings = {});

}  // namespace parlo
