// Merges that are no weighted sum: TIES (arXiv 2306.01708), DARE (2311.03099) and magnitude
// pruning, on the updates D_i = s_i B_i A_i themselves. What they give is not of low rank: it is
// folded, or cut to a rank.
//
// PEFT's methods of these names work on A and B apart, with weights sqrt(|w_i s_i|), and give
// something else: the result depends on how each adapter's factors happen to be turned. Its *_svd
// forms work on D as here, up to what `like_peft` says. The tests compare with both.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lora/merge.h"

namespace parlo {

enum class MergeRule {
  sum,              // sum_i w_i x_i
  magnitude_prune,  // the same after keeping the `density` largest entries of each x_i
  dare_linear,      // the same after dropping entries at random and dividing by the density
  ties,             // pruned; then an entry is the mean of those that have the elected sign
  dare_ties,        // the same after dropping at random instead
};

struct MergeRuleConfig {
  MergeRule rule = MergeRule::sum;
  double density = 1;  // in (0, 1]
  double lambda = 1;   // of the result
  // The elected sign is that of sum_i w_i x_i, or by_count: of the number of signs.
  bool sign_by_count = false;
  // TIES as PEFT has it: x_i elect without weights, and the mean divides by the number of entries.
  // Otherwise it divides by the sum of their |w_i|, so that n equal adapters at 1/n come back.
  bool like_peft = false;
  uint64_t seed = 1;  // of DARE: the same draws for any number of threads
};

// Element by element; all x of one size. `name` and the place in `x` are part of DARE's key.
std::vector<double> apply_rule(std::vector<std::vector<double>> x, std::span<const double> weights,
                               const MergeRuleConfig& config, const std::string& name);

// D of one module by a rule, (out, in) f64; zero where no adapter has the module.
Tensor merge_deltas(std::span<const WeightedAdapter> adapters, const std::string& module,
                    const MergeRuleConfig& config);

// A and B by a rule apart, as PEFT does it; scale 1. Adapters without the module do not count.
// Throws Error when the ranks differ.
AdapterPair merge_factors(std::span<const WeightedAdapter> adapters, const std::string& module,
                          const MergeRuleConfig& config);

struct CutDelta {
  AdapterPair pair;                         // scale 1
  double energy = 0, discarded_energy = 0;  // |D|^2, |D - pair|^2
};

// The best rank-r approximation of a dense (out, in) update, split evenly between A and B. Up to
// 512 wide by a full SVD; above by subspace iteration from keyed random directions, until the
// energy that is kept grows by less than a millionth.
CutDelta cut_delta(const Tensor& delta, int64_t rank);

}  // namespace parlo
