#include "lora/merge.h"

#include <nlohmann/json.hpp>

#include "tensor/file.h"
#include "tensor/parallel.h"
#include "tensor/safetensors.h"
#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;
using json = nlohmann::json;

namespace {

AdapterModules random_modules(int64_t rank, uint32_t seed, double scale = 2) {
  AdapterModules out;
  for (const char* name : {"x.to_q", "x.to_k"}) {
    out[name] = {random_tensor({rank, 24}, seed), random_tensor({17, rank}, seed + 7), scale};
    seed += 100;
  }
  return out;
}

AdapterModules golden_adapter(int i) {
  return read_adapter(golden("lora_merge/adapter_" + std::to_string(i))).modules;
}

// scale * B A by plain loops.
std::vector<double> dense(const AdapterPair& pair) {
  const std::vector<double> a = pair.a.to_vector(), b = pair.b.to_vector();
  const int64_t out = pair.b.dim(0), in = pair.a.dim(1), rank = pair.a.dim(0);
  std::vector<double> d(size_t(out * in));
  for (int64_t i = 0; i < out; ++i) {
    for (int64_t j = 0; j < in; ++j) {
      for (int64_t k = 0; k < rank; ++k) {
        d[size_t(i * in + j)] += pair.scale * b[size_t(i * rank + k)] * a[size_t(k * in + j)];
      }
    }
  }
  return d;
}

Tensor dense_tensor(const AdapterPair& pair) {
  return Tensor::from(dense(pair), {pair.b.dim(0), pair.a.dim(1)});
}

double norm(const std::vector<double>& v) {
  double sum = 0;
  for (double x : v) sum += x * x;
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("exact merges equal the golden weighted sums") {
  std::vector<AdapterModules> adapters;
  for (int i = 0; i < 4; ++i) adapters.push_back(golden_adapter(i));
  const json weights = json::parse(read_file(golden("lora_merge/weights.json")));
  for (const char* name : {"expected", "expected_mixed"}) {
    std::vector<WeightedAdapter> sum;
    for (const json& w : weights[name]) sum.push_back({&adapters[sum.size()], w.get<double>()});
    const SafeTensors expected =
        SafeTensors::open(golden(std::string("lora_merge/") + name + ".safetensors"));
    const AdapterModules stacked = merge_concat(sum);
    const LowRankMerge full = merge_svd(sum, 16);
    REQUIRE(stacked.size() == 6);
    CHECK(full.discarded_energy < 1e-12);
    for (const auto& [module, pair] : stacked) {
      INFO(name, " ", module);
      const Tensor delta = expected.get("delta." + module + ".f64");
      check_close(merged_delta(sum, module, DType::f64), delta, 1e-12);
      check_close(dense_tensor(pair), delta, 1e-6);
      check_close(dense_tensor(full.modules.at(module)), delta, 1e-6);
    }
  }
}

TEST_CASE("the factor mean equals the published one") {
  std::vector<AdapterModules> adapters;
  for (int i = 0; i < 4; ++i) adapters.push_back(golden_adapter(i));
  std::vector<WeightedAdapter> sum{{&adapters[0], 0.5}, {&adapters[1], 0.3}, {&adapters[2], 0.2}};
  const SafeTensors expected = SafeTensors::open(golden("lora_merge/expected.safetensors"));
  const AdapterModules mean = merge_factor_mean(sum);
  for (const auto& [module, pair] : mean) {
    const std::string key = "mean.base_model.model." + module;
    check_close(pair.a, expected.get(key + ".lora_A.weight.f64").to(DType::f32), 1e-7);
    check_close(pair.b, expected.get(key + ".lora_B.weight.f64").to(DType::f32), 1e-7);
  }
  // Its error, by the report and by dense matrices.
  double gap = 0, total = 0;
  for (const auto& [module, pair] : mean) {
    const std::vector<double> d = dense(pair);
    const std::vector<double> e = expected.get("delta." + module + ".f64").to_vector();
    for (size_t i = 0; i < d.size(); ++i) {
      gap += (d[i] - e[i]) * (d[i] - e[i]);
      total += e[i] * e[i];
    }
  }
  const MergeReport report = report_merge(sum);
  REQUIRE(report.factor_mean_error.has_value());
  CHECK(*report.factor_mean_error > 0.1);
  CHECK(*report.factor_mean_error == doctest::Approx(std::sqrt(gap / total)).epsilon(1e-6));
  CHECK(report.merged_norm == doctest::Approx(std::sqrt(total)).epsilon(1e-6));
  CHECK(relative_distance(mean, merge_concat(sum)) ==
        doctest::Approx(*report.factor_mean_error).epsilon(1e-5));
  sum.push_back({&adapters[3], 0.1});  // another rank
  CHECK(contains(message_of([&] { merge_factor_mean(sum); }), "use an exact merge"));
  CHECK(!report_merge(sum).factor_mean_error.has_value());
}

TEST_CASE("folding a golden adapter gives the reference's merged weights") {
  for (const char* name : {"sd3_a_lora", "sd3_a_lora_pattern", "sd3_a_lora_rslora"}) {
    const AdapterModules modules = read_adapter(golden(name)).modules;
    const std::vector<WeightedAdapter> one{{&modules, 1}};
    const SafeTensors base = SafeTensors::open(golden("sd3_a/diffusion_pytorch_model.safetensors"));
    const SafeTensors merged = SafeTensors::open(golden(std::string(name) + "/merged.safetensors"));
    REQUIRE(merged.size() >= 4);
    for (const std::string& key : merged.names()) {
      INFO(name, " ", key);
      const std::string module = key.substr(0, key.size() - std::string(".weight").size());
      REQUIRE(modules.count(module) == 1);
      const Tensor folded = fold_delta(base.get(key), one, module);
      CHECK(folded.dtype() == DType::f32);
      check_close(folded, merged.get(key), 1e-6);
      CHECK(max_relative_error(base.get(key), merged.get(key)) > 1e-2);
    }
  }
}

TEST_CASE("one adapter of weight 1 is itself, n copies at 1/n too") {
  const AdapterModules one = random_modules(4, 1);
  const std::vector<WeightedAdapter> single{{&one, 1}};
  const AdapterModules same = merge_concat(single);
  for (const auto& [name, pair] : one) {
    CHECK(same_values(same.at(name).a, pair.a));
    CHECK(same_values(same.at(name).b, pair.b));
    CHECK(same.at(name).scale == pair.scale);
    const AdapterModules mean = merge_factor_mean(single);
    CHECK(same_values(mean.at(name).b, pair.b));
  }
  for (int n : {2, 3, 7}) {
    const std::vector<WeightedAdapter> copies(size_t(n), WeightedAdapter{&one, 1.0 / n});
    CHECK(merge_concat(copies).at("x.to_q").a.dim(0) == 4 * n);
    CHECK(relative_distance(merge_concat(copies), one) < 1e-6);
    CHECK(relative_distance(merge_factor_mean(copies), one) < 1e-6);
    const LowRankMerge low = merge_svd(copies, 4, 2);
    CHECK(low.discarded_energy < 1e-12);
    CHECK(relative_distance(low.modules, one) < 1e-6);
    CHECK(*report_merge(copies).factor_mean_error < 1e-6);
  }
}

TEST_CASE("the low-rank merge is the best one and knows what it lost") {
  const AdapterModules a = random_modules(5, 1), b = random_modules(3, 50, 0.5);
  const std::vector<WeightedAdapter> sum{{&a, 0.7}, {&b, -1.2}};
  const AdapterModules exact = merge_concat(sum);
  double before = 1;
  for (int64_t rank = 1; rank <= 10; ++rank) {
    const LowRankMerge low = merge_svd(sum, rank, 2);
    const double distance = relative_distance(low.modules, exact);
    CHECK(low.discarded_energy == doctest::Approx(distance * distance).epsilon(1e-5));
    CHECK(distance < before);
    before = rank < 8 ? distance : 1;
    CHECK(low.modules.at("x.to_k").a.dim(0) == rank);
    CHECK(low.modules.at("x.to_k").scale == 2);
    if (rank >= 8) CHECK(distance < 1e-6);
  }
  // Eckart-Young on one module: no other rank-1 matrix is closer; perturbing the best one hurts.
  LowRankMerge low = merge_svd(sum, 1);
  const double best = relative_distance(low.modules, exact);
  for (uint32_t seed = 0; seed < 10; ++seed) {
    AdapterModules other = low.modules;
    AdapterPair& pair = other.at("x.to_q");
    std::vector<double> values = pair.a.to_vector();
    const std::vector<double> noise = random_tensor(pair.a.shape(), seed).to_vector();
    for (size_t i = 0; i < values.size(); ++i) values[i] += 0.01 * noise[i];
    pair.a = Tensor::from(values, pair.a.shape()).to(DType::f32);
    CHECK(relative_distance(other, exact) > best);
  }
  // A and B share the singular values evenly.
  CHECK(norm(low.modules.at("x.to_q").a.to_vector()) ==
        doctest::Approx(norm(low.modules.at("x.to_q").b.to_vector())).epsilon(1e-5));
}

TEST_CASE("adapters on different modules, fresh adapters, wide ranks") {
  const AdapterModules a = {{"m", random_modules(4, 1).at("x.to_q")}};
  AdapterModules b = {{"n", random_modules(2, 9).at("x.to_q")}};
  const std::vector<WeightedAdapter> sum{{&a, 0.5}, {&b, 0.5}};
  const AdapterModules merged = merge_concat(sum);
  CHECK(merged.at("m").a.dim(0) == 4);
  CHECK(merged.at("n").a.dim(0) == 2);
  CHECK(contains(message_of([&] { merge_factor_mean(sum); }), "lack"));
  b.at("n").b.fill(0);  // as attached
  const std::vector<WeightedAdapter> fresh{{&b, 1}};
  CHECK(merge_svd(fresh, 2).discarded_energy == 0);
  CHECK(norm(dense(merge_svd(fresh, 2).modules.at("n"))) == 0);
  CHECK(report_merge(fresh).factor_mean_error == 0);
  // Stacked rank above both sides of the weight.
  const AdapterModules wide = {{"m", {random_tensor({30, 24}, 3), random_tensor({17, 30}, 4), 1}}};
  const std::vector<WeightedAdapter> two{{&wide, 1}, {&a, 1}};
  const LowRankMerge low = merge_svd(two, 17);
  CHECK(low.discarded_energy < 1e-12);
  CHECK(relative_distance(low.modules, merge_concat(two)) < 1e-6);
}

TEST_CASE("norms and cosines of the report equal dense ones") {
  const AdapterModules a = random_modules(4, 1), b = random_modules(2, 50, 0.5);
  const std::vector<WeightedAdapter> sum{{&a, 0.7}, {&b, 0.3}};
  std::vector<double> da, db;
  for (const auto& [name, pair] : a) {
    const std::vector<double> x = dense(pair), y = dense(b.at(name));
    da.insert(da.end(), x.begin(), x.end());
    db.insert(db.end(), y.begin(), y.end());
  }
  double dot = 0;
  for (size_t i = 0; i < da.size(); ++i) dot += da[i] * db[i];
  const MergeReport report = report_merge(sum);
  CHECK(report.delta_norms[0] == doctest::Approx(norm(da)).epsilon(1e-6));
  CHECK(report.delta_norms[1] == doctest::Approx(norm(db)).epsilon(1e-6));
  CHECK(report.cosines[0][1] == doctest::Approx(dot / norm(da) / norm(db)).epsilon(1e-5));
  CHECK(report.cosines[1][1] == 1);
}

TEST_CASE("results do not depend on the number of threads") {
  const AdapterModules a = random_modules(4, 1), b = random_modules(2, 50, 0.5);
  const std::vector<WeightedAdapter> sum{{&a, 0.7}, {&b, 0.3}};
  set_num_threads(1);
  const LowRankMerge one = merge_svd(sum, 3);
  set_num_threads(2);
  const LowRankMerge two = merge_svd(sum, 3);
  for (const auto& [name, pair] : one.modules) {
    CHECK(same_values(pair.a, two.modules.at(name).a));
    CHECK(same_values(pair.b, two.modules.at(name).b));
  }
}

TEST_CASE("what cannot be merged is named") {
  const AdapterModules a = {{"m", {Tensor::zeros({4, 5}), Tensor::zeros({6, 4}), 1}}};
  const AdapterModules b = {{"m", {Tensor::zeros({4, 7}), Tensor::zeros({6, 4}), 1}}};
  const AdapterModules c = {{"m", {Tensor::zeros({4, 5}), Tensor::zeros({6, 3}), 1}}};
  const auto message = [](const std::vector<WeightedAdapter>& sum) {
    return message_of([&] { merge_concat(sum); });
  };
  CHECK(contains(message({}), "no adapter"));
  CHECK(contains(message({{&a, 1}, {&b, 1}}), "adapter 1, m: changes a weight of (6, 7)"));
  CHECK(contains(message({{&c, 1}}), "are no pair"));
  CHECK(contains(message({{&a, NAN}}), "finite"));
  const std::vector<WeightedAdapter> one{{&a, 1}};
  CHECK_THROWS_AS(merge_svd(one, 0), Error);
  CHECK(contains(message_of([&] { fold_delta(Tensor::zeros({6, 6}), one, "m"); }), "m has shape"));
}
