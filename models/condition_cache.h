// Conditions of prompts on disk: one safetensors file a prompt in a folder that models may share.
// A file holds the prompt and the model that it belongs to, so that no other is ever taken for it.
#pragma once

#include <filesystem>
#include <string>

#include "models/flow_model.h"

namespace parlo {

class ConditionCache {
 public:
  // model: whatever decides about the numbers, as text. The folder is created.
  ConditionCache(std::filesystem::path folder, std::string model);

  // Undefined tensors when there is none, or a damaged one. On the CPU; may map the file.
  Condition find(const std::string& prompt) const;
  // Atomic; two processes may write the same prompt.
  void store(const std::string& prompt, const Condition& condition) const;

 private:
  std::filesystem::path file_of(const std::string& prompt) const;

  std::filesystem::path folder_;
  std::string model_;
};

}  // namespace parlo
