// A live adapter on a model's linears: create or read, switch on and off, save, fold. One frozen
// base can hold several; at most one is enabled on it at a time.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "lora/merge.h"
#include "lora/peft.h"
#include "models/layers.h"
#include "tensor/philox.h"

namespace parlo {

class LoraAdapter {
 public:
  // A ~ N(0, 1/r) ("gaussian": standard deviation 1/r, as PEFT), B = 0. UsageError when no linear
  // matches the targets.
  static LoraAdapter create(const Linears& linears, const AdapterConfig& config, RandomKey key);
  // A PEFT folder; every module must exist on the model with fitting shapes (all offenders listed).
  static LoraAdapter load(const Linears& linears, const std::filesystem::path& folder);
  static LoraAdapter from_file(const Linears& linears, AdapterFile file);

  // Writes a PEFT folder.
  void save(const std::filesystem::path& folder) const;
  AdapterFile to_file() const;

  void enable(const Linears& linears) const;
  // "MODULE.lora_A.weight", "MODULE.lora_B.weight", sorted by module.
  std::vector<NamedVar> params() const;
  void set_requires_grad(bool on);
  const AdapterConfig& config() const { return config_; }

 private:
  AdapterConfig config_;
  std::map<std::string, std::shared_ptr<LowRankVar>> modules_;
};

// Leaves the frozen base alone.
void disable_adapters(const Linears& linears);

// While alive no adapter is active on the linears; the one before comes back after.
class AdapterDisabled {
 public:
  explicit AdapterDisabled(const Linears& linears);
  ~AdapterDisabled();
  AdapterDisabled(const AdapterDisabled&) = delete;
  AdapterDisabled& operator=(const AdapterDisabled&) = delete;

 private:
  Linears linears_;
  std::vector<std::shared_ptr<LowRankVar>> before_;
};

// weight += sum_i w_i s_i B_i A_i on every linear an adapter names: the weight is replaced by a new
// tensor, so that models which share the old one keep it.
void fold_adapters(const Linears& linears, std::span<const WeightedAdapter> adapters);

// "attention": the eight projections of flow_grpo's SD3.5 run; "attention+mlp": those and both
// linears of both MLPs, as its FLUX run; "all-linear"; "re:PATTERN", a regular expression for the
// whole name; otherwise a comma-separated list of names, matched at a dot.
TargetModules parse_targets(const std::string& text);

}  // namespace parlo
