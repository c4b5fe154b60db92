// Tiny Map-Reduce runs, and sums of adapters by plain loops.
#pragma once

#include <algorithm>
#include <map>

#include "rl/mapreduce.h"
#include "rl/run_files.h"
#include "tests/rl/tiny_pipeline.h"

namespace parlo::test {

inline MapReduceConfig tiny_run(int64_t iterations = 1) {
  MapReduceConfig c;
  c.iterations = iterations;
  c.lora = tiny_lora();
  c.grpo.rollout.steps = 3;
  c.grpo.rollout.window = 1;
  c.grpo.rollout.window_high = 2;
  c.grpo.prompts_per_step = 2;
  c.grpo.group_size = 3;
  c.eval.steps = 3;
  c.checkpoint_every = 2;
  return c;
}

inline std::vector<RewardTask> tiny_tasks(int count, int64_t steps = 3) {
  std::vector<RewardTask> tasks;
  for (int i = 0; i < count; ++i) {
    RewardTask t;
    t.reward = colour_reward(i);
    t.train = tiny_prompts(4, 10 * i);
    t.held_out = tiny_prompts(3, 100);
    t.steps = steps;
    t.lr = 1e-2;
    tasks.push_back(t);
  }
  return tasks;
}

inline RunResult run_in(const TemporaryFolder& folder, const std::vector<RewardTask>& tasks,
                        const MapReduceConfig& config, RunObserver observer = {}) {
  MapReduce job([] { return tiny_pipeline(); }, tasks, config, folder.path(), std::move(observer));
  return job.run();
}

// Every file below adapters/, by relative name.
inline std::map<std::string, std::string> adapter_files(const TemporaryFolder& folder) {
  std::map<std::string, std::string> out;
  const auto root = folder.path() / "adapters";
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    if (!entry.is_regular_file()) continue;
    out[std::filesystem::relative(entry.path(), root).string()] = read_file(entry.path());
  }
  return out;
}

inline AdapterFile adapter_of(const TemporaryFolder& folder, const std::string& name) {
  return read_adapter(folder.path() / "adapters" / name);
}

using Deltas = std::map<std::string, std::vector<double>>;

// sum += w s B A of every module, by plain loops.
inline void add_delta(Deltas& sum, const AdapterFile& file, double w) {
  for (const auto& [name, p] : file.modules) {
    const std::vector<double> a = p.a.to_vector(), b = p.b.to_vector();
    const auto rank = static_cast<size_t>(p.a.dim(0)), in = static_cast<size_t>(p.a.dim(1));
    std::vector<double>& d = sum[name];
    d.resize(static_cast<size_t>(p.b.dim(0)) * in);
    for (size_t k = 0; k < d.size(); ++k) {
      for (size_t r = 0; r < rank; ++r)
        d[k] += w * p.scale * b[k / in * rank + r] * a[r * in + k % in];
    }
  }
}

inline double distance(const Deltas& x, const Deltas& y) {
  if (x.size() != y.size()) return 1e9;
  double error = 0, size = 0;
  for (const auto& [name, d] : y) {
    const std::vector<double>& other = x.at(name);
    if (other.size() != d.size()) return 1e9;
    for (size_t k = 0; k < d.size(); ++k) {
      error = std::max(error, std::abs(d[k] - other[k]));
      size = std::max(size, std::abs(d[k]));
    }
  }
  return error / size;
}

inline Tensor velocity_of(Sd3Pipeline& model) {
  const NoGrad guard;
  Shape shape = model.latent_shape();
  shape.insert(0, 2);
  const std::vector<std::string> texts{"red circle", "blue square"};
  return model
      .velocity(Var(random_tensor(shape, 1)), std::vector<double>{0.9, 0.4}, model.encode(texts))
      .value()
      .clone();
}

inline std::vector<std::string> labels_of(const RunResult& result) {
  std::vector<std::string> out;
  for (const EvalEvent& e : result.evals) out.push_back(concat(e.iteration, " ", e.model));
  return out;
}

// Scores held-out prompts (ids from 100) by a list of values, one a call, and samples by colour.
inline Reward scripted_reward(int channel, std::vector<double> script) {
  Reward r = colour_reward(channel);
  auto calls = std::make_shared<size_t>(0);
  const auto colour = r.score;
  r.score = [=](std::span<const Image> images, std::span<const Prompt> prompts) {
    if (prompts[0].id < 100) return colour(images, prompts);
    return std::vector<double>(images.size(), script.at((*calls)++));
  };
  return r;
}

}  // namespace parlo::test
