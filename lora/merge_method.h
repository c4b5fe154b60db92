// A merge by its method, module by module: neither the inputs (views of mapped files, see
// open_adapter) nor the result are in memory as a whole.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lora/merge_rules.h"

namespace parlo {

enum class MergeMethod {
  exact,            // concatenated factors, ranks add
  svd,              // the sum, cut to a rank
  factor_mean,      // A and B averaged apart, as the published code of MapReduce LoRA
  linear,           // sum_i w_i D_i
  task_arithmetic,  // lambda sum_i w_i D_i, the weights being 1
  ties,             // and the others: see MergeRule
  dare_linear,
  dare_ties,
  magnitude_prune,
};
inline constexpr MergeMethod kMergeMethods[] = {
    MergeMethod::exact,       MergeMethod::svd,       MergeMethod::factor_mean,
    MergeMethod::linear,      MergeMethod::ties,      MergeMethod::task_arithmetic,
    MergeMethod::dare_linear, MergeMethod::dare_ties, MergeMethod::magnitude_prune};
std::string_view method_name(MergeMethod method);

// Whether the method is a weighted sum, whose rank is that of all adapters together.
bool is_sum(MergeMethod method);

struct MergeConfig {
  MergeMethod method = MergeMethod::exact;
  int64_t rank = 0;  // to cut the result to; 0: not cut
  double density = 1, lambda = 1;
  bool sign_by_count = false;
  // As PEFT's add_weighted_adapter: its vote and mean in TIES; without a rank on A and B apart.
  bool like_peft = false;
  uint64_t seed = 1;

  // Whether the result is a pair of factors; else it can only be folded.
  bool gives_pairs() const { return is_sum(method) || rank > 0 || like_peft; }
};

// Energies summed over the modules: |D|^2 of what was merged, and of what the cut took away. Both
// zero where nothing was cut.
struct MergeLoss {
  double energy = 0, discarded_energy = 0;
};

// Writes the merge as a PEFT folder; `like` gives what is not about ranks and scales.
MergeLoss merge_to_folder(const std::filesystem::path& folder,
                          std::span<const WeightedAdapter> adapters, const MergeConfig& config,
                          const AdapterConfig& like);

// weight + D of a method that gives no pairs, or of an exact sum; added in f64, in the weight's
// dtype.
Tensor fold_merge(const Tensor& weight, std::span<const WeightedAdapter> adapters,
                  const std::string& module, const MergeConfig& config);

}  // namespace parlo
