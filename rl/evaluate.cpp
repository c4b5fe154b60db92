#include "rl/evaluate.h"

#include <cmath>

#include "rl/rewards/pixels.h"
#include "rl/rollout.h"

namespace parlo {

Score summarise(std::vector<double> values) {
  Score s;
  const auto n = static_cast<double>(values.size());
  for (double v : values) s.mean += v / n;
  double squares = 0;
  for (double v : values) squares += (v - s.mean) * (v - s.mean);
  s.standard_error = n > 1 ? std::sqrt(squares / (n - 1) / n) : 0.0;
  s.values = std::move(values);
  return s;
}

std::vector<Image> sample_images(FlowModel& model, std::span<const Prompt> prompts,
                                 const EvalConfig& config) {
  const RandomKey key = RandomKey(config.seed).fold("evaluation");
  std::vector<RandomKey> keys;
  std::vector<std::string> texts;
  for (const Prompt& p : prompts) {
    keys.push_back(key.fold(keys.size()));
    texts.push_back(p.text);
  }
  texts.emplace_back();  // the empty prompt of guidance
  model.prepare(texts);
  texts.pop_back();
  const Condition condition = model.encode(texts);
  Condition uncond;
  if (config.guidance != 1.0) uncond = model.encode(std::vector<std::string>(texts.size(), ""));
  return to_images(
      model.decode(sample_ode(model, condition, config.guidance != 1.0 ? &uncond : nullptr, keys,
                              config.steps, config.guidance, config.micro_batch)));
}

ScoreTable evaluate(FlowModel& model, std::span<const EvalSet> sets, const EvalConfig& config) {
  ScoreTable out;
  std::vector<Image> images;
  const std::vector<Prompt>* drawn = nullptr;
  for (const EvalSet& set : sets) {
    validate_prompts(set.reward, set.prompts);
    if (!drawn || !(*drawn == set.prompts)) {
      images = sample_images(model, set.prompts, config);
      drawn = &set.prompts;
    }
    const std::vector<double> values = set.reward.score(images, set.prompts);
    for (size_t i = 0; i < values.size(); ++i) {
      CHECK(std::isfinite(values[i]), "evaluate: reward ", set.reward.name, " is ", values[i],
            " on prompt ", set.prompts[i].id, " '", set.prompts[i].text, "'");
    }
    out[set.reward.name] = summarise(values);
  }
  return out;
}

}  // namespace parlo
