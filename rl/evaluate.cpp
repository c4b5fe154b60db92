#include "rl/evaluate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

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

void draw_images(FlowModel& model, std::span<const Prompt> prompts, std::span<const size_t> places,
                 const EvalConfig& config, const std::function<void(size_t, Image)>& done) {
  const RandomKey key = RandomKey(config.seed).fold("evaluation");
  const bool guided = config.guidance != 1.0;
  std::vector<std::string> texts{config.negative};
  for (size_t i : places) texts.push_back(prompts[i].text);
  model.prepare(texts);
  Velocity velocity(model);
  const auto batch = static_cast<size_t>(config.micro_batch);
  for (size_t begin = 0; begin < places.size(); begin += batch) {
    const auto part = places.subspan(begin, std::min(batch, places.size() - begin));
    std::vector<RandomKey> keys;
    for (size_t i : part) keys.push_back(key.fold(i));
    const Condition condition = model.encode(std::span(texts).subspan(1 + begin, part.size()));
    Condition uncond;
    if (guided) uncond = model.encode(std::vector<std::string>(part.size(), config.negative));
    std::vector<Image> images = to_images(
        model.decode(sample_ode(velocity, condition, guided ? &uncond : nullptr, keys, config.steps,
                                config.guidance, config.micro_batch, config.skip)));
    for (size_t i = 0; i < part.size(); ++i) done(part[i], std::move(images[i]));
  }
}

std::vector<Image> sample_images(FlowModel& model, std::span<const Prompt> prompts,
                                 const EvalConfig& config) {
  std::vector<size_t> places(prompts.size());
  std::iota(places.begin(), places.end(), size_t{0});
  std::vector<Image> images(prompts.size());
  draw_images(model, prompts, places, config,
              [&](size_t i, Image image) { images[i] = std::move(image); });
  return images;
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
