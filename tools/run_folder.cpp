#include "tools/run_folder.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "rl/run_files.h"
#include "tools/progress.h"

namespace parlo {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

namespace {

std::string key_of(const std::string& kind, int64_t iteration, const std::string& model) {
  return concat(kind, " ", iteration, " ", model);
}

}  // namespace

// The lines of a log that stay when its run is resumed.
std::string RunLog::resumed_lines(const fs::path& folder, const std::string& text) {
  std::istringstream in(text);
  std::map<std::string, int64_t> completed;  // by expert
  std::string out;
  for (std::string line; std::getline(in, line);) {
    const ordered_json parsed = ordered_json::parse(line, nullptr, false);
    if (!parsed.is_object()) continue;  // cut by a full disk
    earlier_seconds_ = std::max(earlier_seconds_, parsed.value("elapsed", 0.0));
    const std::string kind = parsed.value("kind", "");
    const auto iteration = parsed.value("iteration", int64_t{0});
    bool keep = false;
    if (kind == "step") {
      const std::string label = concat("iteration_", iteration, "_", parsed.value("expert", ""));
      if (completed.count(label) == 0) completed[label] = completed_steps(folder, label);
      keep = parsed.value("step", int64_t{0}) <= completed[label];
      earlier_steps_ += keep;
    } else {
      keep = known_.insert(key_of(kind, iteration, parsed.value("model", ""))).second;
    }
    if (keep) out += line + "\n";
  }
  return out;
}

RunLog::RunLog(const fs::path& folder, std::string method) : method_(std::move(method)) {
  const fs::path file = folder / "metrics.jsonl";
  if (fs::exists(file)) write_file(file, resumed_lines(folder, read_file(file)));
  log_ = std::make_unique<LineLog>(file);
}

double RunLog::elapsed() const {
  const auto now = std::chrono::steady_clock::now();
  return earlier_seconds_ + std::chrono::duration<double>(now - opened_).count();
}

void RunLog::append(ordered_json line) {
  line["elapsed"] = elapsed();
  log_->append(line.dump());
}

void RunLog::step(const StepEvent& e) {
  const StepStats& s = e.stats;
  ordered_json j{{"kind", "step"},
                 {"method", method_},
                 {"iteration", e.iteration},
                 {"expert", e.expert},
                 {"step", s.step},
                 {"reward", s.reward},
                 {"rewards", s.rewards},
                 {"reward_std", s.reward_std},
                 {"loss", s.loss},
                 {"ratio_mean", s.ratio_mean},
                 {"ratio_max_dev", s.ratio_max_deviation},
                 {"clip_fraction", s.clip_fraction},
                 {"approx_kl", s.approx_kl},
                 {"kl", s.kl},
                 {"grad_norm", s.grad_norm},
                 {"adam_eps_ratio", s.adam_eps_ratio},
                 {"groups", s.groups},
                 {"group_size", s.group_size},
                 {"zero_std_groups", s.zero_std_groups},
                 {"bad_updates", s.bad_updates},
                 {"seconds",
                  {{"rollout", s.rollout_seconds},
                   {"reward", s.reward_seconds},
                   {"update", s.update_seconds}}},
                 {"peak_bytes", process_peak_bytes()}};
  append(j);
}

void RunLog::evaluation(const EvalEvent& e) {
  if (!known_.insert(key_of("eval", e.iteration, e.model)).second) return;
  ordered_json scores = ordered_json::object();
  for (const auto& [name, s] : e.scores) {
    scores[name] = {{"mean", s.mean}, {"se", s.standard_error}, {"n", s.values.size()}};
  }
  append({{"kind", "eval"},
          {"method", method_},
          {"iteration", e.iteration},
          {"model", e.model},
          {"scores", scores},
          {"hypervolume", e.hypervolume}});
}

void RunLog::merge(const MergeEvent& e) {
  if (!known_.insert(key_of("merge", e.iteration, "")).second) return;
  ordered_json norms = ordered_json::object();
  for (size_t i = 0; i < e.experts.size(); ++i) norms[e.experts[i]] = e.report.delta_norms.at(i);
  ordered_json j{{"kind", "merge"},
                 {"method", method_},
                 {"iteration", e.iteration},
                 {"weights", e.report.weights},
                 {"delta_norms", norms},
                 {"cosines", e.report.cosines},
                 {"merged_norm", e.report.merged_norm},
                 {"accepted", e.accepted},
                 {"hypervolume", e.hypervolume}};
  if (e.report.factor_mean_error) {
    j["relative_error_factor_mean"] = *e.report.factor_mean_error;
  }
  append(j);
}

const char* build_commit() {
  return PARLO_COMMIT;
}

const char* build_version() {
  return PARLO_VERSION;
}

void write_summary(const fs::path& folder, const SummaryInfo& info, const RunResult& result) {
  ordered_json scores = ordered_json::object(), volumes = ordered_json::object();
  std::set<int64_t> rejected;
  for (const MergeEvent& m : result.merges) {
    if (!m.accepted) rejected.insert(m.iteration);
  }
  for (const EvalEvent& e : result.evals) {
    if (e.model == "merged" && rejected.count(e.iteration) > 0) continue;
    std::string name = e.model;
    if (name.starts_with("expert:")) name = name.substr(7);
    if (e.iteration > 1) name += concat("_iteration_", e.iteration);
    // The last merge that was accepted is the result of the run.
    if (e.model == "merged") name = "merged";
    for (const auto& [reward, s] : e.scores) scores[name][reward] = s.mean;
    if (e.model == "base") volumes["base"] = e.hypervolume;
    if (e.model == "merged") volumes[concat("iteration_", e.iteration)] = e.hypervolume;
  }
  ordered_json j{{"command", info.command},
                 {"commit", build_commit()},
                 {"method", info.method},
                 {"seed", info.seed},
                 {"iterations", info.iterations},
                 {"device", to_string(info.device)},
                 {"seconds", info.seconds},
                 {"peak_bytes", process_peak_bytes()},
                 {"scores", scores},
                 {"hypervolume", volumes}};
  write_file(folder / "summary.json", j.dump(2) + "\n");
}

}  // namespace parlo
