// The peak memory of a training run before it starts: a GRPO step and an evaluation on the meta
// device, with the trainer's own code. Nothing is estimated by formula but what follows the number
// of prompts; what kernels take for themselves while they run is not counted.
#pragma once

#include "lora/peft.h"
#include "models/meta_model.h"
#include "rl/evaluate.h"
#include "rl/trainer.h"

namespace parlo {

struct PlannedRun {
  AdapterConfig lora;
  GrpoConfig grpo;
  EvalConfig eval;
  int64_t train_prompts = 1;     // different ones of an expert
  int64_t held_out_prompts = 1;  // of an evaluation
  int64_t side_by_side = 1;      // experts that train at the same time, each on a model of its own
  bool second_model = false;     // the KL reference is a model of its own
  bool conditions_on_disk = false;
};

// Bytes. What stays, and peaks of everything together while a part of the run is at work.
struct MemoryPlan {
  int64_t transformer = 0, autoencoder = 0, text = 0;  // weights
  int64_t adapter = 0, optimizer = 0;                  // optimizer: moments and EMA
  int64_t conditions = 0;  // encoded prompts that are kept; host memory when the device is a GPU
                           // and the encoders do not stay
  int64_t encoding = 0, evaluation = 0, rollout = 0, decoding = 0, update = 0;

  int64_t peak() const { return std::max({encoding, evaluation, rollout, decoding, update}); }
};

// `like`: the device that the run will be on.
MemoryPlan plan_memory(MetaModel& model, const PlannedRun& run, Device like);

}  // namespace parlo
