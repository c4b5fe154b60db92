// The built-in world: prompt splits, the renderer, the sampler, and its judges on true pictures.
#include <map>
#include <set>

#include "rl/rewards/scene.h"
#include "tensor/parallel.h"
#include "tests/support.h"
#include "tools/world/judge.h"
#include "tools/world/prompts.h"
#include "tools/world/render.h"
#include "tools/world/sampler.h"

using namespace parlo;

namespace {

// What a prompt is about, without colour (text), phrasing or order: must not cross the split.
std::set<std::string> content(const Prompt& p) {
  if (p.tag == "text") return {p.word};
  std::set<std::string> out;
  for (const Object& o : p.objects) out.insert(concat(o.count, o.color, o.name));
  return out;
}

int64_t words_in(const std::string& text) {
  return 1 + std::count(text.begin(), text.end(), ' ');
}

}  // namespace

TEST_CASE("train and held-out prompts share no content") {
  for (std::string_view family : kFamilies) {
    CAPTURE(family);
    std::set<std::set<std::string>> train;
    std::set<std::string> texts;
    for (const Prompt& p : world_prompts(family, Split::train)) {
      train.insert(content(p));
      texts.insert(p.text);
      CHECK(family_of(p) == family);
    }
    const std::vector<Prompt> held = world_prompts(family, Split::held_out);
    CHECK(held.size() >= 24);
    for (const Prompt& p : held) {
      CHECK(!train.count(content(p)));
      texts.insert(p.text);
    }
    CHECK(texts.size() == held.size() + world_prompts(family, Split::train).size());
  }
}

TEST_CASE("sizes, ids and forms of the prompt sets") {
  std::set<int64_t> ids;
  for (Split split : {Split::train, Split::held_out})
    for (const Prompt& p : world_prompts("pickscore", split)) {
      CHECK(ids.insert(p.id).second);
      CHECK(words_in(p.text) <= 16);
      CHECK(parse_prompt(to_json_line(p), 0, "x") == p);
    }
  CHECK(*ids.rbegin() + 1 == static_cast<int64_t>(ids.size()));
  CHECK(world_prompts("ocr", Split::held_out).size() >= 400);
  CHECK(world_prompts("geneval", Split::held_out).size() >= 400);
  CHECK(world_prompts("ocr", Split::train) == world_prompts("text", Split::train));
  CHECK(world_prompts("number", Split::held_out).size() == 120);
}

TEST_CASE("held-out words are spelled with letters seen in their places") {
  std::map<std::pair<char, int>, int> seen;
  for (const Prompt& p : world_prompts("word", Split::train))
    for (int i = 0; i < 3; ++i) ++seen[{p.word[i], i}];
  for (const Prompt& p : world_prompts("word", Split::held_out))
    for (int i = 0; i < 3; ++i) CHECK((seen[{p.word[i], i}] >= 3 * 6));
}

TEST_CASE("balanced prompts take every family equally often") {
  std::map<std::string_view, int> count;
  for (const Prompt& p : balanced_prompts("geneval", Split::held_out, 300)) ++count[family_of(p)];
  CHECK(count.size() == 3);
  for (const auto& [family, n] : count) CHECK(n == 100);
}

TEST_CASE("pictures follow from prompt and seed, and from nothing else") {
  for (const Prompt& p : balanced_prompts("all", Split::train, 10)) {
    const Image image = render(p, 5);
    CHECK(image.width == kWorldSize);
    CHECK(image.height == kWorldSize);
    CHECK(render(p, 5) == image);
    CHECK(render(p, 6) != image);
  }
}

TEST_CASE("prompts the renderer cannot draw are refused") {
  Prompt p;
  p.objects = {{"circle", 5, "red", "", 0}};
  CHECK_THROWS_AS(render(p, 0), UsageError);
  p.objects = {{"dog", 1, "red", "", 0}};
  CHECK_THROWS_AS(render(p, 0), UsageError);
  p.objects = {{"circle", 1, "beige", "", 0}};
  CHECK_THROWS_AS(render(p, 0), UsageError);
  p.objects = {};
  CHECK_THROWS_AS(render(p, 0), UsageError);
  p.tag = "text";
  CHECK_THROWS_AS(render(p, 0), UsageError);
}

TEST_CASE("pre-training samples: train prompts, asked shares, any number of threads") {
  std::set<int64_t> held;
  for (const Prompt& p : world_prompts("all", Split::held_out)) held.insert(p.id);
  SamplerOptions options;
  set_num_threads(1);
  const std::vector<CaptionedImage> samples = world_batch(options, 100, 1000);
  std::map<std::string_view, int> count;
  for (const CaptionedImage& s : samples) {
    CHECK(!held.count(s.prompt.id));
    ++count[family_of(s.prompt)];
  }
  CHECK(std::abs(count["number"] + count["word"] - 500) < 60);
  CHECK(std::abs(count["counting"] - 250) < 60);
  set_num_threads(3);
  const std::vector<CaptionedImage> again = world_batch(options, 100, 20);
  for (size_t i = 0; i < again.size(); ++i) {
    CHECK(again[i].image == samples[i].image);
    CHECK(again[i].prompt == samples[i].prompt);
  }
  options.words = 0;
  options.numbers = 0;
  for (const CaptionedImage& s : world_batch(options, 0, 100)) CHECK(s.prompt.tag != "text");
}

TEST_CASE("caption noise spoils the asked share of pictures") {
  SamplerOptions options{.seed = 3, .numbers = 0, .words = 0, .caption_noise = 0.3};
  const std::vector<CaptionedImage> samples = world_batch(options, 0, 600);
  std::vector<Image> images;
  std::vector<Prompt> prompts;
  for (const CaptionedImage& s : samples) {
    images.push_back(s.image);
    prompts.push_back(s.prompt);
  }
  double right = 0;
  for (double score : make_reward("geneval_strict").score(images, prompts)) right += score / 600;
  CHECK(right > 0.63);
  CHECK(right < 0.77);
}

TEST_CASE("the judges read true pictures and refuse wrong captions") {
  set_num_threads(2);
  for (const char* name : {"ocr", "geneval"}) {
    const std::vector<std::string> known = reward_names();
    if (std::find(known.begin(), known.end(), name) == known.end()) continue;
    const JudgeReport report = judge_accuracy(make_reward(name), 240);
    MESSAGE(describe(report));
    CHECK(report.true_mean >= 0.95);
    CHECK(report.wrong_mean <= 0.05);
    CHECK(report.other_mean <= 0.5);
    CHECK(report.ranked >= 0.98);
    CHECK(report.blank <= 0.05);
    CHECK(report.noise <= 0.05);
  }
}

#if PARLO_HAVE_TESSERACT
TEST_CASE("a reading depends on its picture alone") {
  const std::vector<Prompt> prompts = balanced_prompts("ocr", Split::train, 30);
  std::vector<Image> images;
  for (size_t i = 0; i < prompts.size(); ++i) {
    images.push_back(render(prompts[i], i));
    // Half readable: every third pixel is lost.
    for (size_t k = i % 3; k < images[i].rgb.size(); k += 3) images[i].rgb[k] = 128;
  }
  const Reward ocr = make_reward("ocr");
  set_num_threads(2);
  const std::vector<double> scores = ocr.score(images, prompts);
  set_num_threads(1);
  for (size_t i = prompts.size(); i-- > 0;)
    CHECK(ocr.score(std::span(images).subspan(i, 1), std::span(prompts).subspan(i, 1))[0] ==
          scores[i]);
}
#endif

TEST_CASE("known holes: ocr cannot see a wrong colour, colour rewards cannot see the prompt") {
  const std::vector<Prompt> red = world_prompts("number", Split::held_out);
  std::vector<Prompt> wanted, drawn;
  for (const Prompt& p : red)
    for (const Prompt& q : red)
      if (p.word == q.word && p.objects[0].color == "red" && q.objects[0].color == "blue") {
        wanted.push_back(p);
        drawn.push_back(q);
      }
  REQUIRE(wanted.size() == 20);
  std::vector<Image> images;
  for (const Prompt& p : drawn) images.push_back(render(p, 1));
  for (const std::string& name : reward_names()) {
    if (name.find("geneval") == 0) continue;
    const Reward reward = make_reward(name);
    CHECK(reward.score(images, wanted) == reward.score(images, drawn));
  }
}
