// parlo merge: adapters -> one adapter, or a checkpoint with the merge folded in.
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "lora/merge.h"
#include "tools/commands.h"
#include "tools/fold.h"
#include "tools/paths.h"

namespace parlo {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct MergeOptions {
  std::vector<std::string> adapters;
  std::vector<double> weights;
  std::string method = "exact";
  int64_t rank = 0;
  std::string out, fold;
  bool json = false;
};

struct Merge {
  AdapterModules modules;
  std::optional<double> discarded_energy;
};

void check(MergeOptions& o) {
  for (const std::string& a : o.adapters) require_folder(a, "adapter", "an adapter's folder");
  const size_t n = o.adapters.size();
  if (o.weights.empty()) o.weights.assign(n, 1.0 / static_cast<double>(n));
  if (o.weights.size() != n) {
    throw UsageError(concat("merge: ", o.weights.size(), " weights for ", n, " adapters"));
  }
  for (double w : o.weights) {
    if (!std::isfinite(w)) throw UsageError(concat("merge: weight ", w, " is not a finite number"));
  }
  if ((o.method == "svd") != (o.rank > 0)) {
    throw UsageError(o.method == "svd" ? "merge: --method svd needs --rank R, 1 or more"
                                       : "merge: --rank belongs to --method svd");
  }
  if (!o.fold.empty()) require_folder(o.fold, "--fold", "a model folder");
  require_new_folder(o.out, "--out");
}

Merge merge(const MergeOptions& o, std::span<const WeightedAdapter> adapters) {
  if (o.method == "svd") {
    LowRankMerge m = merge_svd(adapters, o.rank);
    return {std::move(m.modules), m.discarded_energy};
  }
  if (o.method == "factor-mean") return {merge_factor_mean(adapters), std::nullopt};
  return {merge_concat(adapters), std::nullopt};
}

ordered_json describe(const MergeOptions& o, const Merge& m,
                      std::span<const WeightedAdapter> adapters) {
  const MergeReport r = report_merge(adapters);
  const AdapterModules exact = merge_concat(adapters);
  int64_t rank = 0;
  for (const auto& [name, pair] : m.modules) rank = std::max(rank, pair.a.dim(0));
  ordered_json j{
      {"method", o.method},     {"adapters", o.adapters},  {"weights", o.weights},
      {"out", o.out},           {"modules", exact.size()}, {"rank", rank},
      {"norms", r.delta_norms}, {"cosines", r.cosines},    {"merged_norm", r.merged_norm}};
  // How far the written update is from the exact weighted sum; without a sum there is no measure.
  const bool measurable = r.merged_norm > 0;
  j["relative_error"] =
      measurable ? ordered_json(relative_distance(m.modules, exact)) : ordered_json();
  if (m.discarded_energy) j["discarded_energy"] = *m.discarded_energy;
  if (r.factor_mean_error && measurable) j["factor_mean_error"] = *r.factor_mean_error;
  if (!o.fold.empty()) j["folded_into"] = o.fold;
  return j;
}

void print(const ordered_json& j) {
  const auto text = [](const ordered_json& e) {
    char s[32];
    std::snprintf(s, sizeof s, "%.4g", e.get<double>());
    return std::string(s);
  };
  for (size_t i = 0; i < j["adapters"].size(); ++i) {
    std::string cosines;
    for (const auto& c : j["cosines"][i]) cosines += concat(" ", text(c));
    std::printf("%s: weight %s, norm %s, cosines%s\n", j["adapters"][i].get<std::string>().c_str(),
                text(j["weights"][i]).c_str(), text(j["norms"][i]).c_str(), cosines.c_str());
  }
  std::printf("%s merge of %zu modules: rank %lld, norm of the exact sum %s",
              j["method"].get<std::string>().c_str(), j["modules"].get<size_t>(),
              j["rank"].get<long long>(), text(j["merged_norm"]).c_str());
  if (!j["relative_error"].is_null()) {
    std::printf(", relative error %s", text(j["relative_error"]).c_str());
  }
  if (j.contains("discarded_energy")) {
    std::printf(", discarded energy %s", text(j["discarded_energy"]).c_str());
  }
  if (j.contains("factor_mean_error")) {
    std::printf("\nfactor mean of the same adapters: relative error %s",
                text(j["factor_mean_error"]).c_str());
  }
  std::printf("\nwritten: %s\n", j["out"].get<std::string>().c_str());
}

void run(MergeOptions o) {
  check(o);
  std::vector<AdapterFile> files;
  for (const std::string& a : o.adapters) files.push_back(read_adapter(a));
  std::vector<WeightedAdapter> adapters;
  for (size_t i = 0; i < files.size(); ++i) adapters.push_back({&files[i].modules, o.weights[i]});
  const Merge m = merge(o, adapters);
  const ordered_json report = describe(o, m, adapters);
  if (o.fold.empty()) {
    write_adapter(o.out, describe_adapter(m.modules, files[0].config));
  } else if (o.method == "exact") {
    // The factors themselves: rounding the concatenation to f32 would be one rounding more.
    fold_checkpoint(o.fold, files, adapters, o.out);
  } else {
    const AdapterFile merged = describe_adapter(m.modules, files[0].config);
    fold_checkpoint(o.fold, {&merged, 1}, std::vector<WeightedAdapter>{{&merged.modules, 1.0}},
                    o.out);
  }
  o.json ? static_cast<void>(std::printf("%s\n", report.dump(2).c_str())) : print(report);
}

}  // namespace

void add_merge(CLI::App& parent) {
  auto o = std::make_shared<MergeOptions>();
  CLI::App* app = parent.add_subcommand(
      "merge", "Merge adapters into one, or fold their weighted sum into a checkpoint");
  app->add_option("adapters", o->adapters, "PEFT folders")->required();
  app->add_option("--weights", o->weights,
                  "W1,W2,...: one an adapter, used as given; default: 1/n each")
      ->delimiter(',')
      ->allow_extra_args(false);
  app->add_option("--method", o->method,
                  "exact: concatenated factors, ranks add; svd: best rank-R approximation; "
                  "factor-mean: A and B averaged apart, as the published code")
      ->capture_default_str()
      ->check(CLI::IsMember({"exact", "svd", "factor-mean"}));
  app->add_option("--rank", o->rank, "Rank of --method svd")->check(CLI::PositiveNumber);
  app->add_option("--out", o->out, "New folder: the adapter, or with --fold the checkpoint")
      ->required();
  app->add_option("--fold", o->fold, "Model folder (pipeline or component) to fold the merge into");
  app->add_flag("--json", o->json, "Print the report as JSON");
  app->callback([o] { run(*o); });
}

}  // namespace parlo
