// Published settings of GRPO on SD3.5-Medium and FLUX.1-dev: those of Flow-GRPO's configuration
// (github.com/yifan123/flow_grpo, config/grpo.py), and of MapReduce LoRA's where it differs.
// A rollout of parlo is one of its epochs: prompts_per_step groups of group_size samples and two
// optimiser steps. How many GPUs shared an epoch has no effect on it.
#pragma once

#include <string>
#include <vector>

#include "tools/train.h"

namespace parlo {

struct TrainPreset {
  std::string name, summary;
  TrainOptions options;
};

const std::vector<TrainPreset>& train_presets();
// UsageError naming all presets for a name that is none.
TrainOptions train_preset(const std::string& name);
// A line a preset.
std::string train_presets_help();

}  // namespace parlo
