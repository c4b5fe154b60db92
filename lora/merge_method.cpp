#include "lora/merge_method.h"

#include <algorithm>
#include <cmath>

#include "lora/merge_parts.h"
#include "tensor/error.h"

namespace parlo {
namespace {

MergeRuleConfig rule_of(const MergeConfig& c) {
  MergeRuleConfig rule;
  rule.density = c.density;
  rule.lambda = c.lambda;
  rule.sign_by_count = c.sign_by_count;
  rule.like_peft = c.like_peft;
  rule.seed = c.seed;
  switch (c.method) {
    case MergeMethod::ties:
      rule.rule = MergeRule::ties;
      break;
    case MergeMethod::dare_linear:
      rule.rule = MergeRule::dare_linear;
      break;
    case MergeMethod::dare_ties:
      rule.rule = MergeRule::dare_ties;
      break;
    case MergeMethod::magnitude_prune:
      rule.rule = MergeRule::magnitude_prune;
      break;
    default:
      rule.rule = MergeRule::sum;
  }
  return rule;
}

// The adapters as they are on one module, with lambda in the weights.
struct OneModule {
  std::vector<AdapterModules> modules;
  std::vector<WeightedAdapter> adapters;
  OneModule(std::span<const WeightedAdapter> all, const std::string& module, double lambda)
      : modules(all.size()) {
    for (size_t i = 0; i < all.size(); ++i) {
      const auto found = all[i].modules->find(module);
      if (found != all[i].modules->end()) modules[i].insert(*found);
      adapters.push_back({&modules[i], lambda * all[i].weight});
    }
  }
};

struct MergedModule {
  AdapterPair pair;
  MergeLoss loss;
};

MergedModule merge_module(std::span<const WeightedAdapter> adapters, const std::string& module,
                          const MergeConfig& config) {
  const bool factors = config.like_peft && config.rank == 0;
  if (factors) return {merge_factors(adapters, module, rule_of(config)), {}};
  if (!is_sum(config.method)) {
    CutDelta cut = cut_delta(merge_deltas(adapters, module, rule_of(config)), config.rank);
    return {std::move(cut.pair), {cut.energy, cut.discarded_energy}};
  }
  const OneModule one(adapters, module, config.lambda);
  if (config.method == MergeMethod::factor_mean) {
    return {merge_factor_mean(one.adapters).at(module), {}};
  }
  if (config.rank == 0) return {merge_concat(one.adapters).at(module), {}};
  LowRankMerge cut = merge_svd(one.adapters, config.rank);
  return {cut.modules.at(module), {cut.energy, cut.discarded_energy * cut.energy}};
}

// Shape and scale of what merge_module gives.
AdapterPair plan_module(std::span<const WeightedAdapter> adapters, const std::string& module,
                        const MergeConfig& config) {
  const std::vector<MergePart> parts = parts_of(adapters, module);
  const AdapterPair& first = *parts.front().pair;
  int64_t rank = first.a.dim(0);
  double scale = 1;
  if (config.rank > 0) {
    rank = config.rank;
  } else if (config.method == MergeMethod::factor_mean) {
    scale = first.scale;
  } else if (!config.like_peft) {
    rank = 0;
    for (const MergePart& part : parts) rank += part.pair->a.dim(0);
    scale = common_scale(parts);
  }
  return planned_pair(first.b.dim(0), first.a.dim(1), rank, scale);
}

}  // namespace

std::string_view method_name(MergeMethod method) {
  switch (method) {
    case MergeMethod::exact:
      return "exact";
    case MergeMethod::svd:
      return "svd";
    case MergeMethod::factor_mean:
      return "factor-mean";
    case MergeMethod::linear:
      return "linear";
    case MergeMethod::task_arithmetic:
      return "task-arithmetic";
    case MergeMethod::ties:
      return "ties";
    case MergeMethod::dare_linear:
      return "dare-linear";
    case MergeMethod::dare_ties:
      return "dare-ties";
    case MergeMethod::magnitude_prune:
      return "magnitude-prune";
  }
  return "";
}

bool is_sum(MergeMethod method) {
  return method == MergeMethod::exact || method == MergeMethod::svd ||
         method == MergeMethod::factor_mean || method == MergeMethod::linear ||
         method == MergeMethod::task_arithmetic;
}

MergeLoss merge_to_folder(const std::filesystem::path& folder,
                          std::span<const WeightedAdapter> adapters, const MergeConfig& config,
                          const AdapterConfig& like) {
  CHECK(config.gives_pairs(), "merge: ", method_name(config.method), " needs a rank");
  const std::vector<std::string> names = merged_modules(adapters);
  AdapterModules plan;
  for (const std::string& name : names) plan[name] = plan_module(adapters, name, config);
  // Factors go in parallel over some modules ahead; dense updates take all threads for one.
  const size_t ahead = is_sum(config.method) ? static_cast<size_t>(num_threads()) : 1;
  std::vector<MergedModule> batch;
  size_t begin = 0;
  MergeLoss loss;
  const auto make = [&](const std::string& module) {
    const auto at =
        static_cast<size_t>(std::lower_bound(names.begin(), names.end(), module) - names.begin());
    if (at < begin || at >= begin + batch.size()) {
      begin = at;
      batch.assign(std::min(ahead, names.size() - at), {});
      for_modules(batch.size(),
                  [&](size_t i) { batch[i] = merge_module(adapters, names[begin + i], config); });
      for (const MergedModule& m : batch) {
        loss.energy += m.loss.energy;
        loss.discarded_energy += m.loss.discarded_energy;
      }
    }
    return batch[at - begin].pair;
  };
  stream_adapter(folder, describe_adapter(std::move(plan), like), make);
  return loss;
}

Tensor fold_merge(const Tensor& weight, std::span<const WeightedAdapter> adapters,
                  const std::string& module, const MergeConfig& config) {
  if (is_sum(config.method)) {
    const OneModule one(adapters, module, config.lambda);
    return fold_delta(weight, one.adapters, module);
  }
  const Matrix sum = to_matrix(weight) + to_matrix(merge_deltas(adapters, module, rule_of(config)));
  return to_tensor(sum, weight.dtype()).to(weight.device());
}

}  // namespace parlo
