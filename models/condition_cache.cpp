#include "models/condition_cache.h"

#include <iomanip>
#include <sstream>

#include "tensor/file.h"
#include "tensor/philox.h"
#include "tensor/safetensors.h"

namespace parlo {

ConditionCache::ConditionCache(std::filesystem::path folder, std::string model)
    : folder_(std::move(folder)), model_(std::move(model)) {
  make_folders(folder_);
}

std::filesystem::path ConditionCache::file_of(const std::string& prompt) const {
  std::ostringstream name;
  name << std::hex << std::setfill('0') << std::setw(16)
       << RandomKey(0).fold(model_).fold(prompt).bits() << ".safetensors";
  return folder_ / name.str();
}

Condition ConditionCache::find(const std::string& prompt) const {
  const auto path = file_of(prompt);
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return {};
  try {
    const SafeTensors file = SafeTensors::open(path);
    const auto& of = file.metadata();
    const auto is = [&](const char* name, const std::string& text) {
      const auto found = of.find(name);
      return found != of.end() && found->second == text;
    };
    // Two keys of 64 bits may collide.
    if (!is("prompt", prompt) || !is("model", model_)) return {};
    return {file.get("context"), file.get("pooled")};
  } catch (const Error&) {
    return {};  // it is encoded and written again
  }
}

void ConditionCache::store(const std::string& prompt, const Condition& condition) const {
  save_safetensors(file_of(prompt),
                   {{"context", condition.context.to(Device{}).contiguous()},
                    {"pooled", condition.pooled.to(Device{}).contiguous()}},
                   {{"model", model_}, {"prompt", prompt}});
}

}  // namespace parlo
