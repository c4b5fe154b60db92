// TIES, DARE and pruning: by hand, as identities, and against PEFT's own merges
// (tests/golden/make_merges.py).
#include "lora/merge_rules.h"

#include <nlohmann/json.hpp>

#include "lora/formats.h"
#include "tensor/file.h"
#include "tensor/parallel.h"
#include "tensor/safetensors.h"
#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;
using json = nlohmann::json;
using Values = std::vector<double>;

namespace {

constexpr double kDareDensity = 0.6;  // of the fixtures

const MergeRule kRules[] = {MergeRule::sum, MergeRule::magnitude_prune, MergeRule::dare_linear,
                            MergeRule::ties, MergeRule::dare_ties};

AdapterModules one_module(int64_t out, int64_t in, int64_t rank, uint32_t seed) {
  return {{"m", {random_tensor({rank, in}, seed), random_tensor({out, rank}, seed + 1), 1.5}}};
}

Tensor product(const AdapterPair& pair) {
  const AdapterModules modules{{"m", pair}};
  const WeightedAdapter one{&modules, 1};
  return merged_delta({&one, 1}, "m", DType::f64);
}

// PEFT's case by its name: what was merged, and how.
struct PeftCase {
  std::vector<AdapterModules> adapters;
  std::vector<WeightedAdapter> weighted;
  MergeRuleConfig config;
  bool on_deltas = false;
  int64_t rank = 0;
  SafeTensors expected;
  explicit PeftCase(const std::string& name)
      : expected(SafeTensors::open(golden("merges/" + name + ".safetensors"))) {
    const json c = json::parse(read_file(golden("merges/cases.json")))[name];
    std::string type = c["combination_type"];
    on_deltas = type.ends_with("svd");
    if (type.ends_with("_svd")) type.resize(type.size() - 4);
    const std::map<std::string, MergeRule> rules{{"svd", MergeRule::sum},
                                                 {"cat", MergeRule::sum},
                                                 {"linear", MergeRule::sum},
                                                 {"ties", MergeRule::ties},
                                                 {"magnitude_prune", MergeRule::magnitude_prune},
                                                 {"dare_linear", MergeRule::sum},
                                                 {"dare_ties", MergeRule::ties}};
    config.rule = rules.at(type);
    // Draws are PEFT's own: its masks stand in the fixture.
    config.density = type.starts_with("dare") ? 1 : c.value("density", 1.0);
    config.like_peft = true;
    config.sign_by_count = c.value("majority_sign_method", "total") == "frequency";
    rank = c.value("svd_rank", 0);
    for (int i : c["adapters"]) {
      adapters.push_back(read_adapter(golden("merges/adapter_" + std::to_string(i))).modules);
    }
    for (size_t i = 0; i < adapters.size(); ++i) {
      weighted.push_back({&adapters[i], c["weights"][i].get<double>()});
    }
  }
  // Zeroes what PEFT dropped and divides the rest by the density of the fixtures.
  void apply_masks(const std::string& part) {
    for (size_t i = 0; i < adapters.size(); ++i) {
      for (auto& [module, pair] : adapters[i]) {
        Tensor& t = part == "A" ? pair.a : pair.b;
        const auto mask = expected.get(concat("mask.", module, ".", part, ".", i)).to_vector();
        for (size_t k = 0; k < mask.size(); ++k) {
          t.data<float>()[k] *= static_cast<float>(mask[k] / kDareDensity);
        }
      }
    }
  }
};

}  // namespace

TEST_CASE("rules by hand") {
  const std::vector<Values> x{{4, -1, 2, 0.5}, {-3, -2, 1, 8}};
  const Values w{1, 1};
  const auto run = [&](MergeRule rule, double density, bool peft = false, Values weights = {1, 1}) {
    MergeRuleConfig c;
    c.rule = rule;
    c.density = density;
    c.like_peft = peft;
    return apply_rule(x, weights, c, "m");
  };
  CHECK((run(MergeRule::sum, 0.5) == Values{1, -3, 3, 8.5}));
  CHECK((run(MergeRule::magnitude_prune, 0.5) == Values{1, 0, 2, 8}));
  CHECK((run(MergeRule::magnitude_prune, 0.49) == Values{4, 0, 0, 8}));
  // Elected: +, -, +, +. Entry 0 keeps 4 alone, the others are means.
  CHECK((run(MergeRule::ties, 1) == Values{4, -1.5, 1.5, 4.25}));
  CHECK((run(MergeRule::ties, 0.5) == Values{4, 0, 2, 8}));
  // Weights 1 and 3: entry 0 elects -; means by weight, or PEFT's: unweighted vote, by count.
  CHECK((run(MergeRule::ties, 1, false, {1, 3}) == Values{-3, -1.75, 1.25, 6.125}));
  CHECK((run(MergeRule::ties, 1, true, {1, 3}) == Values{4, -3.5, 2.5, 12.25}));
  CHECK((run(MergeRule::ties, 1, false, {-1, -1}) == Values{-4, 1.5, -1.5, -4.25}));
  CHECK_THROWS_AS(run(MergeRule::ties, 0), Error);
  CHECK_THROWS_AS(run(MergeRule::ties, 1.1), Error);
}

TEST_CASE("one adapter at 1 and n copies at 1/n are identities") {
  const AdapterModules adapter = one_module(9, 7, 3, 1);
  const Tensor expected = product(adapter.at("m"));
  for (MergeRule rule : kRules) {
    MergeRuleConfig config;
    config.rule = rule;
    const std::vector<WeightedAdapter> one{{&adapter, 1}};
    const std::vector<WeightedAdapter> three(3, {&adapter, 1 / 3.0});
    CHECK(max_relative_error(merge_deltas(one, "m", config), expected) < 1e-12);
    CHECK(max_relative_error(merge_deltas(three, "m", config), expected) < 1e-12);
    const CutDelta cut = cut_delta(merge_deltas(three, "m", config), 3);
    CHECK(max_relative_error(product(cut.pair), expected) < 1e-6);
    CHECK(cut.discarded_energy < 1e-12 * cut.energy);
    config.lambda = -2;
    const Tensor scaled = merge_deltas(one, "m", config);
    CHECK(scaled.to_vector()[5] == doctest::Approx(-2 * expected.to_vector()[5]));
  }
}

TEST_CASE("dare keeps the asked share, the mean, and its draws") {
  const Values ones(20000, 1.0);
  MergeRuleConfig config;
  config.rule = MergeRule::dare_linear;
  config.density = 0.3;
  const Values x = apply_rule({ones, ones}, Values{0.5, 0.5}, config, "m");
  double mean = 0;
  std::map<double, int> counts;
  for (double v : x) {
    mean += v / 20000;
    ++counts[std::round(v * 0.3 * 1e9) / 1e9];
  }
  CHECK(mean == doctest::Approx(1).epsilon(0.03));
  // Two independent masks: none, one or both of the two entries stay.
  CHECK(counts.size() == 3);
  CHECK(counts[0.5] == doctest::Approx(20000 * 2 * 0.3 * 0.7).epsilon(0.05));
  set_num_threads(1);
  CHECK(apply_rule({ones, ones}, Values{0.5, 0.5}, config, "m") == x);
  set_num_threads(2);
  CHECK(apply_rule({ones, ones}, Values{0.5, 0.5}, config, "other") != x);
  config.seed = 2;
  CHECK(apply_rule({ones, ones}, Values{0.5, 0.5}, config, "m") != x);
}

TEST_CASE("a wide update is cut as well as a full SVD does it") {
  // Wider than a full SVD is made for: 20 directions of falling strength, and noise.
  const int64_t out = 640, in = 520;
  AdapterModules adapter = one_module(out, in, 20, 5);
  const auto a = adapter["m"].a.span<float>();
  for (int64_t k = 0; k < 20; ++k) {
    for (int64_t j = 0; j < in; ++j) a[size_t(k * in + j)] *= float(std::pow(0.8, double(k)));
  }
  const std::vector<WeightedAdapter> one{{&adapter, 1}};
  const LowRankMerge exact = merge_svd(one, 6);
  const CutDelta cut = cut_delta(merge_deltas(one, "m", {}), 6);
  CHECK(cut.discarded_energy / cut.energy == doctest::Approx(exact.discarded_energy).epsilon(1e-4));
  CHECK(max_relative_error(product(cut.pair), product(exact.modules.at("m"))) < 1e-3);
  CHECK(cut_delta(merge_deltas(one, "m", {}), 20).discarded_energy < 1e-10 * cut.energy);
}

TEST_CASE("PEFT's merges of the factors") {
  for (const char* name :
       {"linear", "ties", "ties_frequency", "magnitude_prune", "dare_linear", "dare_ties"}) {
    PeftCase c(name);
    if (std::string(name).starts_with("dare")) {
      c.apply_masks("A");
      c.apply_masks("B");
    }
    for (const std::string& module : merged_modules(c.weighted)) {
      INFO(name, " ", module);
      check_close(product(merge_factors(c.weighted, module, c.config)),
                  c.expected.get("delta." + module), 2e-6);
    }
  }
  PeftCase mixed("cat_mixed");
  CHECK_THROWS_AS(merge_factors(mixed.weighted, "transformer_blocks.0.attn.to_q", {}), Error);
}

TEST_CASE("PEFT's merges of the updates, cut to a rank") {
  for (const char* name :
       {"svd", "svd_2", "svd_mixed_5", "ties_svd", "ties_svd_mixed", "magnitude_prune_svd"}) {
    PeftCase c(name);
    for (const std::string& module : merged_modules(c.weighted)) {
      INFO(name, " ", module);
      const int64_t rank = c.rank > 0 ? c.rank : 4;
      const CutDelta cut = cut_delta(merge_deltas(c.weighted, module, c.config), rank);
      check_close(product(cut.pair), c.expected.get("delta." + module), 2e-5);
    }
  }
  // DARE's own masks of the dense updates, then the rest of the method.
  for (const char* name : {"dare_linear_svd", "dare_ties_svd"}) {
    const PeftCase c(name);
    for (const std::string& module : merged_modules(c.weighted)) {
      std::vector<Values> updates;
      Values weights;
      for (size_t i = 0; i < c.adapters.size(); ++i) {
        updates.push_back(product(c.adapters[i].at(module)).to_vector());
        weights.push_back(c.weighted[i].weight);
        const Values mask = c.expected.get(concat("mask.", module, ".delta.", i)).to_vector();
        for (size_t k = 0; k < mask.size(); ++k) updates[i][k] *= mask[k] / kDareDensity;
      }
      const Tensor expected = c.expected.get("delta." + module);
      const Tensor merged =
          Tensor::from(apply_rule(updates, weights, c.config, module), expected.shape());
      INFO(name, " ", module);
      check_close(product(cut_delta(merged, c.rank).pair), expected, 2e-5);
    }
  }
  // The exact sum is PEFT's "cat".
  for (const char* name : {"cat", "cat_mixed"}) {
    PeftCase c(name);
    for (const std::string& module : merged_modules(c.weighted)) {
      check_close(merged_delta(c.weighted, module, DType::f64), c.expected.get("delta." + module),
                  2e-6);
    }
  }
}
