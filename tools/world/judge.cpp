#include "tools/world/judge.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>

#include "tensor/error.h"
#include "tensor/parallel.h"
#include "tensor/philox.h"
#include "tools/world/prompts.h"
#include "tools/world/render.h"

namespace parlo {
namespace {

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

bool nothing_in_common(const Prompt& a, const Prompt& b) {
  if (a.word.find_first_of(b.word) != std::string::npos) return false;
  for (const Object& x : a.objects)
    for (const Object& y : b.objects)
      if (x.color == y.color || (x.name == y.name && x.name != "text")) return false;
  return true;
}

// The first caption of the same family, from a random start, that `fits`.
template <class Fits>
const Prompt& other_caption(const std::vector<Prompt>& all, const Prompt& prompt, Random& random,
                            Fits fits) {
  const size_t start = random.below(static_cast<uint32_t>(all.size()));
  for (size_t i = 0; i < all.size(); ++i) {
    const Prompt& candidate = all[(start + i) % all.size()];
    if (family_of(candidate) == family_of(prompt) && fits(prompt, candidate)) return candidate;
  }
  throw Error(concat("judge_accuracy: no wrong caption for '", prompt.text, "'"));
}

Image noise_image(RandomKey key) {
  Image image(kWorldSize, kWorldSize);
  Random random(key);
  for (uint8_t& value : image.rgb) value = static_cast<uint8_t>(random.below(256));
  return image;
}

Image blank_image() {
  Image image(kWorldSize, kWorldSize);
  std::fill(image.rgb.begin(), image.rgb.end(), uint8_t{230});
  return image;
}

}  // namespace

JudgeReport judge_accuracy(const Reward& reward, int64_t count, uint64_t seed) {
  CHECK(count > 0, "judge_accuracy: count is ", count, ", expected at least 1");
  const RandomKey key = RandomKey(seed).fold("judge");
  const std::vector<Prompt> prompts = balanced_prompts(reward.name, Split::held_out, count);
  // Wrong captions come from both splits: few held-out ones share nothing.
  std::vector<Prompt> all = world_prompts(reward.name, Split::train);
  for (Prompt& prompt : world_prompts(reward.name, Split::held_out))
    all.push_back(std::move(prompt));
  std::vector<Image> images(prompts.size()), noise(prompts.size());
  std::vector<Prompt> wrong, other;
  Random random(key);
  for (size_t i = 0; i < prompts.size(); ++i) {
    images[i] = render(prompts[i], key.fold(i).bits());
    noise[i] = noise_image(key.fold("noise").fold(i));
    wrong.push_back(other_caption(all, prompts[i], random, nothing_in_common));
    other.push_back(other_caption(all, prompts[i], random, [](const Prompt& a, const Prompt& b) {
      return a.text != b.text;
    }));
  }
  JudgeReport report;
  report.reward = reward.name;
  report.images = count;
  const auto start = std::chrono::steady_clock::now();
  const std::vector<double> true_scores = reward.score(images, prompts);
  const std::chrono::duration<double, std::milli> elapsed =
      std::chrono::steady_clock::now() - start;
  const std::vector<double> wrong_scores = reward.score(images, wrong);
  report.ms_per_image = elapsed.count() / static_cast<double>(count);
  report.true_mean = mean(true_scores);
  report.wrong_mean = mean(wrong_scores);
  report.other_mean = mean(reward.score(images, other));
  report.blank = mean(reward.score(std::vector<Image>(prompts.size(), blank_image()), prompts));
  report.noise = mean(reward.score(noise, prompts));
  for (size_t i = 0; i < prompts.size(); ++i)
    report.ranked += (true_scores[i] > wrong_scores[i]) / static_cast<double>(count);
  return report;
}

std::string describe(const JudgeReport& r) {
  char line[320];
  std::snprintf(line, sizeof line,
                "%s: %lld held-out pictures: own caption %.3f, wrong %.3f, another %.3f, own above "
                "wrong in %.1f %%; blank %.3f, noise %.3f; %.2f ms an image",
                r.reward.c_str(), static_cast<long long>(r.images), r.true_mean, r.wrong_mean,
                r.other_mean, 100 * r.ranked, r.blank, r.noise, r.ms_per_image);
  return line;
}

}  // namespace parlo
