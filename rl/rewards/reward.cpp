#include "rl/rewards/reward.h"

#include "rl/rewards/colorfulness.h"
#include "rl/rewards/geneval.h"
#include "rl/rewards/jpeg.h"
#include "rl/rewards/ocr.h"
#include "tensor/error.h"
#include "tensor/parallel.h"

namespace parlo {
namespace {

struct Entry {
  std::string_view name;
  Reward (*make)();          // null: off in this build
  std::string_view package;  // what switches it on
};

constexpr Entry kEntries[] = {
#if PARLO_HAVE_TESSERACT
    {"ocr", make_ocr_reward, ""},
#else
    {"ocr", nullptr, "libtesseract-dev and tesseract-ocr-eng"},
#endif
    {"geneval", [] { return make_geneval_reward({}); }, ""},
    {"geneval_strict", make_geneval_strict_reward, ""},
#if PARLO_HAVE_TURBOJPEG
    {"jpeg_compressibility", make_jpeg_compressibility_reward, ""},
    {"jpeg_incompressibility", make_jpeg_incompressibility_reward, ""},
#else
    {"jpeg_compressibility", nullptr, "libturbojpeg0-dev"},
    {"jpeg_incompressibility", nullptr, "libturbojpeg0-dev"},
#endif
    {"colorfulness", make_colorfulness_reward, ""},
};

}  // namespace

std::vector<std::string> reward_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries)
    if (entry.make) names.emplace_back(entry.name);
  return names;
}

Reward make_reward(std::string_view name) {
  for (const Entry& entry : kEntries) {
    if (entry.name != name) continue;
    if (entry.make) return entry.make();
    throw UsageError(concat("reward '", name, "' is off in this build: install ", entry.package,
                            " and configure again"));
  }
  std::string known;
  for (const std::string& each : reward_names()) known += (known.empty() ? "" : ", ") + each;
  throw UsageError(concat("unknown reward '", name, "'; known: ", known));
}

void validate_prompts(const Reward& reward, std::span<const Prompt> prompts) {
  if (prompts.empty()) throw UsageError(concat("reward '", reward.name, "': no prompts"));
  if (!reward.why_not) return;
  std::string first;
  int64_t refused = 0;
  for (const Prompt& prompt : prompts) {
    const std::string reason = reward.why_not(prompt);
    if (reason.empty()) continue;
    if (++refused == 1) first = concat("prompt ", prompt.id, " '", prompt.text, "' ", reason);
  }
  if (refused > 0)
    throw UsageError(concat("reward '", reward.name, "' cannot judge ", refused, " of ",
                            prompts.size(), " prompts; the first: ", first));
}

Reward reward_of_judge(std::string name, Judge judge,
                       std::function<std::string(const Prompt&)> why_not) {
  Reward reward;
  reward.score = [name, judge = std::move(judge), why_not](std::span<const Image> images,
                                                           std::span<const Prompt> prompts) {
    CHECK(images.size() == prompts.size(), "reward '", name, "': ", images.size(), " images but ",
          prompts.size(), " prompts");
    std::vector<double> scores(images.size(), 0.0);
    parallel_for(static_cast<int64_t>(images.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        try {
          if (!why_not || why_not(prompts[i]).empty()) scores[i] = judge(images[i], prompts[i]);
        } catch (const std::exception&) {
          scores[i] = 0.0;
        }
      }
    });
    return scores;
  };
  reward.name = std::move(name);
  reward.why_not = std::move(why_not);
  return reward;
}

}  // namespace parlo
