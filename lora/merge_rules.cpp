#include "lora/merge_rules.h"

#include <algorithm>
#include <cmath>

#include "autograd/functions.h"
#include "lora/merge_parts.h"
#include "tensor/error.h"

namespace parlo {
namespace {

using Values = std::vector<double>;
constexpr int64_t kGrain = 1 << 14;

bool draws(MergeRule rule) {
  return rule == MergeRule::dare_linear || rule == MergeRule::dare_ties;
}
bool elects(MergeRule rule) {
  return rule == MergeRule::ties || rule == MergeRule::dare_ties;
}

// Zeroes all but the floor(density n) entries of largest magnitude; of equal ones the first stay.
void keep_largest(Values& x, double density) {
  const auto kept = static_cast<size_t>(density * static_cast<double>(x.size()));
  if (kept >= x.size()) return;
  Values magnitudes(x.size());
  for (size_t i = 0; i < x.size(); ++i) magnitudes[i] = std::abs(x[i]);
  const auto nth = magnitudes.begin() + static_cast<std::ptrdiff_t>(kept);
  std::nth_element(magnitudes.begin(), nth, magnitudes.end(), std::greater<>());
  const double largest_out = *nth;
  size_t above = 0;
  for (double v : x) above += std::abs(v) > largest_out;
  size_t equal = kept - above;
  for (double& v : x) {
    if (std::abs(v) > largest_out) continue;
    const bool stays = std::abs(v) == largest_out && equal > 0;
    if (stays) --equal;
    if (!stays) v = 0;
  }
}

// Each entry stays with probability `density`, divided by it.
void drop_at_random(Values& x, double density, RandomKey key) {
  const Tensor u = random_uniform(key, {static_cast<int64_t>(x.size())});
  const auto draws = u.span<float>();
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<double>(draws[i]) < density ? x[i] / density : 0;
  }
}

double sign(double x) {
  return x > 0 ? 1 : x < 0 ? -1 : 0;
}

// One entry of a merge that elects a sign; `x` are the adapters' entries.
double elected_mean(std::span<const double> x, std::span<const double> w,
                    const MergeRuleConfig& config) {
  double vote = 0, sum = 0, share = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double voice = config.like_peft ? x[i] : w[i] * x[i];
    vote += config.sign_by_count ? sign(voice) : voice;
  }
  const double elected = vote >= 0 ? 1 : -1;
  for (size_t i = 0; i < x.size(); ++i) {
    if (sign(config.like_peft ? x[i] : w[i] * x[i]) != elected) continue;
    sum += w[i] * x[i];
    share += config.like_peft ? 1 : std::abs(w[i]);
  }
  return share > 0 ? sum / share : 0;
}

// Of the parts that have the module: dense updates, f64.
std::vector<Values> dense_updates(const std::vector<MergePart>& parts) {
  std::vector<Values> out;
  for (const MergePart& part : parts) {
    const Matrix b = to_matrix(part.pair->b), a = to_matrix(part.pair->a);
    Values& values = out.emplace_back(static_cast<size_t>(b.rows() * a.cols()));
    Eigen::Map<Matrix> d(values.data(), b.rows(), a.cols());
    const int64_t rows = std::max<int64_t>(1, kGrain / a.cols());
    parallel_for(b.rows(), rows, [&](int64_t begin, int64_t end) {
      d.middleRows(begin, end - begin).noalias() =
          part.pair->scale * b.middleRows(begin, end - begin) * a;
    });
  }
  return out;
}

Tensor as_tensor(const Values& values, const Shape& shape) {
  return Tensor::from(values, shape);
}

}  // namespace

Values apply_rule(std::vector<Values> x, std::span<const double> weights,
                  const MergeRuleConfig& config, const std::string& name) {
  CHECK(!x.empty() && x.size() == weights.size(), "apply_rule: ", x.size(), " updates and ",
        weights.size(), " weights");
  CHECK(config.density > 0 && config.density <= 1, "merge: density is ", config.density,
        ", expected a number in (0, 1]");
  for (size_t i = 0; i < x.size(); ++i) {
    if (config.density == 1 || config.rule == MergeRule::sum) break;
    if (draws(config.rule)) {
      drop_at_random(x[i], config.density, RandomKey(config.seed).fold(name).fold(i));
    } else {
      keep_largest(x[i], config.density);
    }
  }
  Values out(x.front().size());
  parallel_for(static_cast<int64_t>(out.size()), kGrain, [&](int64_t begin, int64_t end) {
    Values entry(x.size());
    for (auto at = static_cast<size_t>(begin); at < static_cast<size_t>(end); ++at) {
      double sum = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        entry[i] = x[i][at];
        sum += weights[i] * entry[i];
      }
      out[at] = config.lambda * (elects(config.rule) ? elected_mean(entry, weights, config) : sum);
    }
  });
  return out;
}

Tensor merge_deltas(std::span<const WeightedAdapter> adapters, const std::string& module,
                    const MergeRuleConfig& config) {
  const std::vector<MergePart> parts = parts_of(adapters, module);
  CHECK(!parts.empty(), "merge_deltas: no adapter has the module ", module);
  Values weights;
  for (const MergePart& part : parts) weights.push_back(part.weight);
  return as_tensor(apply_rule(dense_updates(parts), weights, config, module),
                   {parts.front().pair->b.dim(0), parts.front().pair->a.dim(1)});
}

AdapterPair merge_factors(std::span<const WeightedAdapter> adapters, const std::string& module,
                          const MergeRuleConfig& config) {
  const std::vector<MergePart> parts = parts_of(adapters, module);
  CHECK(!parts.empty(), "merge_factors: no adapter has the module ", module);
  const AdapterPair& first = *parts.front().pair;
  std::vector<Values> a, b;
  Values weights_a, weights_b;
  for (const MergePart& part : parts) {
    CHECK(part.pair->a.dim(0) == first.a.dim(0), "merge: ", module, " has ranks ", first.a.dim(0),
          " and ", part.pair->a.dim(0), "; factors of different ranks have no common entries");
    const double weight = part.weight * part.pair->scale;
    weights_b.push_back(std::sqrt(std::abs(weight)));
    weights_a.push_back(weight >= 0 ? weights_b.back() : -weights_b.back());
    a.push_back(part.pair->a.to_vector());
    b.push_back(part.pair->b.to_vector());
  }
  MergeRuleConfig half = config;
  half.lambda = std::sqrt(std::abs(config.lambda));
  const Tensor merged_a =
      as_tensor(apply_rule(a, weights_a, half, module + ".lora_A"), first.a.shape());
  half.lambda = config.lambda < 0 ? -half.lambda : half.lambda;
  const Tensor merged_b =
      as_tensor(apply_rule(b, weights_b, half, module + ".lora_B"), first.b.shape());
  return {merged_a.to(DType::f32), merged_b.to(DType::f32), 1};
}

}  // namespace parlo
