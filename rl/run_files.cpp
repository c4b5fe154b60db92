#include "rl/run_files.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "autograd/functions.h"
#include "tensor/file.h"

namespace parlo {

using nlohmann::json;

AdapterFile copy_of(const AdapterFile& file) {
  AdapterFile out{file.config, {}};
  for (const auto& [name, pair] : file.modules) {
    out.modules[name] = {pair.a.clone(), pair.b.clone(), pair.scale};
  }
  return out;
}

std::vector<WeightedAdapter> weighted(const std::vector<AdapterFile>& adapters,
                                      const std::vector<double>& weights, bool keep_zeros) {
  CHECK(adapters.size() == weights.size(), "weighted: ", weights.size(), " weights for ",
        adapters.size(), " adapters");
  std::vector<WeightedAdapter> out;
  for (size_t i = 0; i < adapters.size(); ++i) {
    if (keep_zeros || weights[i] != 0.0) out.push_back({&adapters[i].modules, weights[i]});
  }
  return out;
}

std::string join_weights(const std::vector<double>& weights) {
  std::string out;
  for (double w : weights) out += concat(out.empty() ? "" : ",", w);
  return out;
}

std::string score_file_name(int64_t iteration, const std::string& label) {
  std::string name = concat(iteration, "_", label, ".json");
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == ':' || c == '/'; }, '_');
  return name;
}

void save_scores(const std::filesystem::path& file, const ScoreTable& scores) {
  json j = json::object();
  for (const auto& [name, s] : scores) j[name] = s.values;
  write_file(file, j.dump());
}

ScoreTable load_scores(const std::filesystem::path& file) {
  const json j = json::parse(read_file(file), nullptr, false);
  CHECK(j.is_object(), file.string(), ": not a score file; remove it to score again");
  ScoreTable out;
  for (const auto& [name, values] : j.items()) {
    out[name] = summarise(values.get<std::vector<double>>());
  }
  return out;
}

int64_t completed_steps(const std::filesystem::path& run, const std::string& label) {
  const auto file = run / "checkpoints" / (label + ".safetensors");
  if (!std::filesystem::exists(file)) return 0;
  return static_cast<int64_t>(SafeTensors::open(file).get("trainer.step").to_vector().at(0));
}

NamedTensors load_tensors(const std::filesystem::path& file) {
  const SafeTensors saved = SafeTensors::open(file);
  NamedTensors out;
  for (const std::string& name : saved.names()) out.emplace_back(name, saved.get(name));
  return out;
}

std::vector<Prompt> mixed_prompts(const std::vector<RewardTask>& tasks) {
  size_t longest = 0;
  for (const RewardTask& t : tasks) longest = std::max(longest, t.train.size());
  std::vector<Prompt> out;
  for (size_t i = 0; i < longest; ++i) {
    for (size_t source = 0; source < tasks.size(); ++source) {
      const std::vector<Prompt>& list = tasks[source].train;
      if (i >= list.size()) continue;
      out.push_back(list[i]);
      out.back().source = static_cast<int>(source);
    }
  }
  return out;
}

Reward reward_by_source(const std::vector<RewardTask>& tasks) {
  std::vector<Reward> sources;
  for (const RewardTask& t : tasks) sources.push_back(t.reward);
  Reward mixed;
  mixed.name = "mixed";
  mixed.score = [sources](std::span<const Image> images, std::span<const Prompt> prompts) {
    std::vector<double> out(images.size(), 0.0);
    for (size_t source = 0; source < sources.size(); ++source) {
      std::vector<size_t> mine;
      std::vector<Image> some;
      std::vector<Prompt> theirs;
      for (size_t i = 0; i < images.size(); ++i) {
        if (prompts[i].source != static_cast<int>(source)) continue;
        mine.push_back(i);
        some.push_back(images[i]);
        theirs.push_back(prompts[i]);
      }
      if (mine.empty()) continue;
      const std::vector<double> scores = sources[source].score(some, theirs);
      for (size_t k = 0; k < mine.size(); ++k) out[mine[k]] = scores[k];
    }
    return out;
  };
  return mixed;
}

std::vector<std::string> names_of(const std::vector<RewardTask>& tasks) {
  std::vector<std::string> out;
  for (const RewardTask& t : tasks) out.push_back(t.reward.name);
  return out;
}

void carry_optimizer(const std::filesystem::path& checkpoints, const std::string& expert,
                     int64_t iteration, const std::vector<std::string>& experts, bool average,
                     AdamW& optimizer) {
  const std::vector<std::string> sources = average ? experts : std::vector<std::string>{expert};
  NamedTensors into = optimizer.state();
  for (auto& [name, tensor] : into) tensor = Tensor::zeros_like(tensor);
  for (const std::string& source : sources) {
    const SafeTensors saved = SafeTensors::open(
        checkpoints / concat("iteration_", iteration, "_", source, ".safetensors"));
    for (auto& [name, tensor] : into) {
      if (name == "step") {
        tensor.copy_from(saved.get(name));
      } else {
        add_scaled(tensor, 1.0 / static_cast<double>(sources.size()),
                   saved.get(name).to(tensor.device()));
      }
    }
  }
  optimizer.load_state(into);
}

}  // namespace parlo
