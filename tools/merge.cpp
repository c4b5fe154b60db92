// parlo merge: adapters -> one adapter, or a checkpoint with the merge folded in.
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "lora/formats.h"
#include "lora/merge_method.h"
#include "tools/commands.h"
#include "tools/fold.h"
#include "tools/paths.h"
#include "tools/scratch_folder.h"

namespace parlo {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct MergeOptions {
  std::vector<std::string> adapters;
  std::vector<double> weights;
  std::string method = "exact", sign = "total";
  std::optional<double> density, lambda;
  MergeConfig config;
  std::string out, fold;
  size_t shard_bytes = 0;
  bool json = false;
};

void refuse(bool wrong, const std::string& why) {
  if (wrong) throw UsageError("merge: " + why);
}

void check_method(MergeOptions& o) {
  MergeConfig& c = o.config;
  for (MergeMethod m : kMergeMethods) c.method = method_name(m) == o.method ? m : c.method;
  const bool sum = is_sum(c.method), random = o.method.starts_with("dare-");
  const bool plain = o.method == "exact" || o.method == "factor-mean";
  refuse(o.method == "svd" && c.rank == 0, "--method svd needs --rank R, 1 or more");
  refuse(plain && c.rank > 0,
         "--rank belongs to --method svd, linear and the others that can be "
         "cut, not to " +
             o.method);
  refuse((plain || o.method == "svd") && o.lambda,
         "--lambda does not go with --method " + o.method);
  refuse((plain || o.method == "task-arithmetic") && c.like_peft,
         "--like-peft does not go with --method " + o.method);
  refuse(!sum && !o.density, "--method " + o.method + " needs --density D, from 0 to 1");
  refuse(sum && o.density, "--density belongs to ties, dare-linear, dare-ties, magnitude-prune");
  refuse(o.sign != "total" && !o.method.ends_with("ties"), "--sign belongs to ties and dare-ties");
  refuse(!random && c.seed != 1, "--seed belongs to dare-linear and dare-ties");
  refuse(!c.gives_pairs() && o.fold.empty(),
         "--method " + o.method + " gives no low-rank update: needs --rank R to cut it, or --fold");
  if (o.density) c.density = *o.density;
  if (o.lambda) c.lambda = *o.lambda;
  refuse(c.density <= 0 || c.density > 1, concat("--density ", c.density, " is not in (0, 1]"));
  refuse(!std::isfinite(c.lambda), concat("--lambda ", c.lambda, " is not a finite number"));
  c.sign_by_count = o.sign == "frequency";
}

void check(MergeOptions& o) {
  for (const std::string& a : o.adapters) require_place(a, "adapter", "a folder or a file");
  check_method(o);
  const size_t n = o.adapters.size();
  const bool task = o.config.method == MergeMethod::task_arithmetic;
  if (o.weights.empty()) o.weights.assign(n, task ? 1 : 1 / static_cast<double>(n));
  refuse(o.weights.size() != n, concat(o.weights.size(), " weights for ", n, " adapters"));
  for (double w : o.weights) {
    refuse(!std::isfinite(w), concat("weight ", w, " is not a finite number"));
  }
  refuse(o.shard_bytes > 0 && o.fold.empty(), "--shard-size belongs to --fold");
  if (!o.fold.empty()) require_folder(o.fold, "--fold", "a model folder");
  require_new_folder(o.out, "--out");
}

// What the report says of the result; the rest is about the adapters.
struct Outcome {
  MergeLoss loss;
  std::optional<int64_t> rank;  // the largest; none when a dense update was folded
  std::optional<double> relative_error;
};

Outcome measure(const AdapterModules& merged, MergeLoss loss,
                std::span<const WeightedAdapter> adapters) {
  Outcome out{loss, 0, {}};
  for (const auto& [name, pair] : merged) out.rank = std::max(*out.rank, pair.a.dim(0));
  const WeightedAdapter one{&merged, 1};
  out.relative_error = relative_distance({&one, 1}, adapters);
  return out;
}

// A merge that is a pair of factors everywhere: as an adapter, or folded from a scratch adapter.
Outcome merge_pairs(const MergeOptions& o, const std::vector<AdapterFile>& files,
                    std::span<const WeightedAdapter> adapters) {
  const bool folds = !o.fold.empty();
  ScratchFolder scratch(folds ? o.out + ".adapter" : o.out);
  const MergeLoss loss = merge_to_folder(scratch.place(), adapters, o.config, files[0].config);
  const OpenedAdapter merged = open_adapter(scratch.place());
  const Outcome out = measure(merged.file.modules, loss, adapters);
  if (folds) {
    const WeightedAdapter one{&merged.file.modules, 1};
    const auto fold = [&](const std::string& module, const Tensor& weight) {
      return fold_delta(weight, {&one, 1}, module);
    };
    fold_checkpoint(o.fold, {&merged.file, 1}, fold, o.out, o.shard_bytes);
  } else {
    scratch.move_to_final();
  }
  return out;
}

// The updates themselves: rounding factors to f32 would be one rounding more.
Outcome merge_dense(const MergeOptions& o, const std::vector<AdapterFile>& files,
                    std::span<const WeightedAdapter> adapters) {
  const auto fold = [&](const std::string& module, const Tensor& weight) {
    return fold_merge(weight, adapters, module, o.config);
  };
  fold_checkpoint(o.fold, files, fold, o.out, o.shard_bytes);
  if (!is_sum(o.config.method) || o.config.lambda != 1) return {};
  Outcome exact{{}, 0, 0};
  for (const std::string& name : merged_modules(adapters)) {
    int64_t rank = 0;
    for (const WeightedAdapter& a : adapters) {
      const auto found = a.modules->find(name);
      if (found != a.modules->end()) rank += found->second.a.dim(0);
    }
    exact.rank = std::max(*exact.rank, rank);
  }
  return exact;
}

ordered_json describe(const MergeOptions& o, const Outcome& outcome,
                      std::span<const WeightedAdapter> adapters,
                      const std::vector<std::string>& formats) {
  const MergeReport r = report_merge(adapters);
  ordered_json j{{"method", o.method},
                 {"adapters", o.adapters},
                 {"formats", formats},
                 {"weights", o.weights},
                 {"out", o.out},
                 {"modules", merged_modules(adapters).size()},
                 {"rank", outcome.rank ? ordered_json(*outcome.rank) : ordered_json()},
                 {"norms", r.delta_norms},
                 {"cosines", r.cosines},
                 {"merged_norm", r.merged_norm}};
  // How far the written update is from the exact weighted sum; without a sum there is no measure.
  const bool measurable = r.merged_norm > 0;
  j["relative_error"] =
      measurable && outcome.relative_error ? ordered_json(*outcome.relative_error) : ordered_json();
  if (o.config.rank > 0) {
    const MergeLoss& loss = outcome.loss;
    j["discarded_energy"] = loss.energy > 0 ? loss.discarded_energy / loss.energy : 0;
  }
  if (r.factor_mean_error && measurable) j["factor_mean_error"] = *r.factor_mean_error;
  if (o.density) j["density"] = *o.density;
  if (o.lambda) j["lambda"] = *o.lambda;
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
    std::printf("%s (%s): weight %s, norm %s, cosines%s\n",
                j["adapters"][i].get<std::string>().c_str(),
                j["formats"][i].get<std::string>().c_str(), text(j["weights"][i]).c_str(),
                text(j["norms"][i]).c_str(), cosines.c_str());
  }
  std::printf("%s merge of %zu modules: %s, norm of the exact sum %s",
              j["method"].get<std::string>().c_str(), j["modules"].get<size_t>(),
              j["rank"].is_null() ? "dense" : concat("rank ", j["rank"].dump()).c_str(),
              text(j["merged_norm"]).c_str());
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
  std::vector<std::string> formats;
  for (const std::string& a : o.adapters) {
    OpenedAdapter opened = open_adapter(a);
    files.push_back(std::move(opened.file));
    formats.emplace_back(format_name(opened.format));
  }
  std::vector<WeightedAdapter> adapters;
  for (size_t i = 0; i < files.size(); ++i) adapters.push_back({&files[i].modules, o.weights[i]});
  const bool uncut =
      o.config.rank == 0 && !o.config.like_peft && o.config.method != MergeMethod::factor_mean;
  const Outcome outcome =
      !o.fold.empty() && uncut ? merge_dense(o, files, adapters) : merge_pairs(o, files, adapters);
  const ordered_json report = describe(o, outcome, adapters, formats);
  o.json ? static_cast<void>(std::printf("%s\n", report.dump(2).c_str())) : print(report);
}

void add_method_options(CLI::App* app, MergeOptions& o) {
  std::vector<std::string> methods;
  for (MergeMethod m : kMergeMethods) methods.emplace_back(method_name(m));
  app->add_option("--method", o.method,
                  "On the updates D = s B A. exact: concatenated factors, ranks add; svd: the sum "
                  "cut to --rank; linear: the sum, cut only with --rank; task-arithmetic: lambda "
                  "times the sum, weights 1 unless given; ties: trim to --density, elect a sign, "
                  "mean of those that agree; dare-linear, dare-ties: drop at random to --density "
                  "and rescale, then sum or elect; magnitude-prune: trim to --density, then sum; "
                  "factor-mean: A and B averaged apart, as the published code")
      ->capture_default_str()
      ->check(CLI::IsMember(methods));
  app->add_option("--rank", o.config.rank,
                  "Cut the result to this rank; the report has the energy that is lost. ties, "
                  "dare-* and magnitude-prune need it unless they are folded")
      ->check(CLI::PositiveNumber);
  app->add_option("--density", o.density, "Share of entries that stay, in (0, 1]");
  app->add_option("--lambda", o.lambda, "Factor of the result; default 1");
  app->add_option("--sign", o.sign, "Sign of ties: of the total, or of the number of signs")
      ->capture_default_str()
      ->check(CLI::IsMember({"total", "frequency"}));
  app->add_option("--seed", o.config.seed, "Seed of dare-*")->capture_default_str();
  app->add_flag("--like-peft", o.config.like_peft,
                "As PEFT's add_weighted_adapter: ties votes without weights and divides by the "
                "number of adapters that agree (else by their weights, so that n copies at 1/n "
                "come back); without --rank on A and B apart, with it as PEFT's METHOD_svd");
}

}  // namespace

void add_merge(CLI::App& parent) {
  auto o = std::make_shared<MergeOptions>();
  CLI::App* app = parent.add_subcommand(
      "merge", "Merge adapters into one, or fold their merge into a checkpoint");
  app->add_option("adapters", o->adapters, "Adapters of any format, folders or files")->required();
  app->add_option("--weights", o->weights,
                  "W1,W2,...: one an adapter, used as given; default: 1/n each")
      ->delimiter(',')
      ->allow_extra_args(false);
  add_method_options(app, *o);
  app->add_option("--out", o->out, "New folder: the adapter, or with --fold the checkpoint")
      ->required();
  app->add_option("--fold", o->fold, "Model folder (pipeline or component) to fold the merge into");
  app->add_option("--shard-size", o->shard_bytes,
                  "With --fold: write BASE-0000i-of-0000N.safetensors of at most this size and an "
                  "index, e.g. 5GB; default: files divided as the model's")
      ->transform(CLI::AsSizeValue(true));
  app->add_flag("--json", o->json, "Print the report as JSON");
  app->callback([o] { run(*o); });
}

}  // namespace parlo
