#include "tools/run_history.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <tuple>

#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/json_text.h"

namespace parlo {
namespace fs = std::filesystem;
using json = nlohmann::json;

namespace {

// JSON has no NaN; loggers write null for it.
double to_number(const json& value) {
  if (value.is_boolean()) return value.get<bool>() ? 1 : 0;
  return value.is_number() ? value.get<double>() : std::numeric_limits<double>::quiet_NaN();
}

std::map<std::string, double> numbers(const json& object) {
  std::map<std::string, double> out;
  if (!object.is_object()) return out;
  for (const auto& [key, value] : object.items()) {
    if (value.is_number() || value.is_null()) out[key] = to_number(value);
  }
  return out;
}

void add_name(std::vector<std::string>& names, const std::string& name) {
  if (!name.empty() && std::find(names.begin(), names.end(), name) == names.end()) {
    names.push_back(name);
  }
}

StepRecord parse_step(const json& line) {
  StepRecord out;
  out.method = line.value("method", "");
  out.expert = line.value("expert", "");
  out.iteration = line.value("iteration", int64_t{0});
  out.step = line.value("step", int64_t{0});
  out.values = numbers(line);
  if (line.contains("rewards")) out.rewards = numbers(line["rewards"]);
  if (line.contains("seconds")) out.seconds = numbers(line["seconds"]);
  return out;
}

EvalRecord parse_eval(const json& line) {
  EvalRecord out;
  out.method = line.value("method", "");
  out.model = line.value("model", "");
  out.iteration = line.value("iteration", int64_t{0});
  out.step = line.value("step", int64_t{-1});
  for (const auto& [name, score] : line.at("scores").items()) {
    ScoreRecord& s = out.scores[name];
    if (score.is_number()) {
      s.mean = score.get<double>();
      continue;
    }
    s.mean = to_number(score.value("mean", json()));
    s.se = to_number(score.value("se", json(0)));
    s.n = score.value("n", int64_t{0});
  }
  return out;
}

MergeRecord parse_merge(const json& line) {
  MergeRecord out;
  out.method = line.value("method", "");
  out.iteration = line.value("iteration", int64_t{0});
  if (line.contains("weights")) {
    for (const json& w : line["weights"]) out.weights.push_back(to_number(w));
  }
  out.values = numbers(line);
  if (line.contains("delta_norms")) out.delta_norms = numbers(line["delta_norms"]);
  if (line.contains("cosines")) {
    for (const json& row : line["cosines"]) {
      auto& values = out.cosines.emplace_back();
      for (const json& c : row) values.push_back(to_number(c));
    }
  }
  out.accepted = line.value("accepted", true);
  return out;
}

void add_eval(RunHistory& log, EvalRecord record) {
  for (const auto& [name, score] : record.scores) add_name(log.rewards, name);
  const auto key = [](const EvalRecord& r) {
    return std::tie(r.method, r.model, r.iteration, r.step);
  };
  for (EvalRecord& old : log.evals) {
    if (key(old) == key(record)) {
      old = std::move(record);
      return;
    }
  }
  log.evals.push_back(std::move(record));
}

void add_line(RunHistory& log, const json& line) {
  const std::string kind = line.value("kind", "");
  const std::string method = line.value("method", "");
  if (kind == "step") {
    log.steps.push_back(parse_step(line));
    add_name(log.methods, method);
  } else if (kind == "eval") {
    EvalRecord record = parse_eval(line);
    if (!record.is_base()) add_name(log.methods, method);
    add_eval(log, std::move(record));
  } else if (kind == "merge") {
    log.merges.push_back(parse_merge(line));
    add_name(log.methods, method);
  }
  // Lines of other kinds are for other readers.
}

void read_metrics(const fs::path& file, RunHistory& log) {
  const std::string content = read_file(file);
  size_t at = 0, number = 0;
  while (at < content.size()) {
    ++number;
    const size_t end = content.find('\n', at);
    const bool whole = end != std::string::npos;
    const std::string line = content.substr(at, whole ? end - at : std::string::npos);
    at = whole ? end + 1 : content.size();
    if (line.find_first_not_of(" \r\t") == std::string::npos) continue;
    try {
      add_line(log, parse_json(line, "this line"));
    } catch (const std::exception& error) {
      if (!whole) return;
      throw Error(concat(file.string(), " line ", number, ": ", error.what()));
    }
  }
}

void read_summary(const fs::path& file, RunHistory& log) {
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return;
  try {
    const json content = parse_json(read_file(file), file.string());
    for (const auto& [key, value] : content.items()) {
      if (value.is_string()) log.summary[key] = value.get<std::string>();
      if (value.is_number()) log.summary[key] = value.dump();
    }
    if (!log.evals.empty() || !content.contains("scores")) return;
    for (const auto& [model, scores] : content["scores"].items()) {
      add_eval(log, parse_eval({{"model", model}, {"scores", scores}}));
    }
  } catch (const json::exception& error) {
    throw Error(concat(file.string(), ": ", error.what()));
  }
}

}  // namespace

const EvalRecord* RunHistory::base() const {
  for (const EvalRecord& record : evals) {
    if (record.is_base()) return &record;
  }
  return nullptr;
}

std::vector<const EvalRecord*> RunHistory::merged(const std::string& method) const {
  std::vector<const EvalRecord*> out;
  for (const EvalRecord& record : evals) {
    if (record.method == method && record.model == "merged" && record.step < 0) {
      out.push_back(&record);
    }
  }
  std::stable_sort(out.begin(), out.end(),
                   [](const auto* a, const auto* b) { return a->iteration < b->iteration; });
  return out;
}

void add_history(RunHistory& history, RunHistory other, const std::string& label) {
  for (const std::string& method : other.methods) {
    const auto& known = history.methods;
    const bool taken = std::find(known.begin(), known.end(), method) != known.end();
    const std::string name = taken ? method + " (" + label + ")" : method;
    for (StepRecord& r : other.steps) r.method = r.method == method ? name : r.method;
    for (EvalRecord& r : other.evals) r.method = r.method == method ? name : r.method;
    for (MergeRecord& r : other.merges) r.method = r.method == method ? name : r.method;
    history.methods.push_back(name);
  }
  const bool has_base = history.base() != nullptr;
  for (EvalRecord& r : other.evals) {
    if (!r.is_base() || !has_base) history.evals.push_back(std::move(r));
  }
  std::move(other.steps.begin(), other.steps.end(), std::back_inserter(history.steps));
  std::move(other.merges.begin(), other.merges.end(), std::back_inserter(history.merges));
  for (const std::string& reward : other.rewards) add_name(history.rewards, reward);
}

RunHistory read_run_history(const fs::path& run_folder) {
  std::error_code ignored;
  if (!fs::exists(run_folder / "metrics.jsonl", ignored)) {
    throw UsageError(
        concat(run_folder.string(),
               ": holds no metrics.jsonl; expected the folder of a parlo run (--out)"));
  }
  RunHistory log;
  read_metrics(run_folder / "metrics.jsonl", log);
  read_summary(run_folder / "summary.json", log);
  if (!log.rewards.empty()) return log;
  for (const StepRecord& step : log.steps) {  // nothing was scored on held-out prompts
    for (const auto& [name, value] : step.rewards) add_name(log.rewards, name);
  }
  return log;
}

}  // namespace parlo
