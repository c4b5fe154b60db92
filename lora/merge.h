// Weighted sums of adapters: D = sum_i w_i s_i B_i A_i. Three exact forms (concatenation, dense
// delta, the best rank-r approximation of the sum), and the factor mean of the published code,
// whose distance from D is the weighted covariance of the factors.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lora/peft.h"

namespace parlo {

struct WeightedAdapter {
  const AdapterModules* modules = nullptr;
  double weight = 1;
};

// All functions work in f64, module by module, and are deterministic for any number of threads. A
// module that an adapter lacks counts as zero there. They throw Error naming the module when shapes
// do not fit.

// The modules of all adapters, sorted.
std::vector<std::string> merged_modules(std::span<const WeightedAdapter> adapters);

// B = [w_1 s_1 B_1 | ... ], A = [A_1; ...]: exact, ranks add. When all scales of a module are
// equal, the scale stays; one adapter of weight 1 comes back bit for bit.
AdapterModules merge_concat(std::span<const WeightedAdapter> adapters);

// D of one module, (out, in); zero where no adapter has the module.
Tensor merged_delta(std::span<const WeightedAdapter> adapters, const std::string& module,
                    DType dtype = DType::f32);

// weight + D, added in f64, in the dtype of the weight.
Tensor fold_delta(const Tensor& weight, std::span<const WeightedAdapter> adapters,
                  const std::string& module);

struct LowRankMerge {
  AdapterModules modules;
  double energy = 0;            // |D|^2
  double discarded_energy = 0;  // |D - D_r|^2 / |D|^2 over all modules
  std::map<std::string, double> discarded_energy_of;
};

// Best rank-r approximation of every D through QR of the stacked factors and a small SVD, split
// evenly between A and B. Directions beyond the rank of D are zero in A and in B.
LowRankMerge merge_svd(std::span<const WeightedAdapter> adapters, int64_t rank, double scale = 1);

// A = sum w_i A_i and B = sum w_i B_i, as the published code does it. All adapters need the same
// modules, ranks and scales.
AdapterModules merge_factor_mean(std::span<const WeightedAdapter> adapters);

// |X - Y| / |Y| over all modules, Frobenius, without forming a dense matrix; X and Y are weighted
// sums of adapters.
double relative_distance(std::span<const WeightedAdapter> x, std::span<const WeightedAdapter> y);
double relative_distance(const AdapterModules& x, const AdapterModules& y);

// What a merge lost and how the experts agree.
struct MergeReport {
  std::vector<double> weights;
  std::optional<double> factor_mean_error;  // relative; absent when the factors do not fit
  std::map<std::string, double> factor_mean_error_of;
  std::vector<double> delta_norms;           // |s_i B_i A_i| of each adapter
  std::vector<std::vector<double>> cosines;  // between the adapters' updates
  double merged_norm = 0;                    // |D|
};
MergeReport report_merge(std::span<const WeightedAdapter> adapters);

}  // namespace parlo
