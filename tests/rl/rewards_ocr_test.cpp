#include "rl/rewards/ocr.h"

#include "tests/support.h"

using namespace parlo;

TEST_CASE("edit distance") {
  CHECK(levenshtein("", "") == 0);
  CHECK(levenshtein("abc", "") == 3);
  CHECK(levenshtein("", "ab") == 2);
  CHECK(levenshtein("kitten", "sitting") == 3);
  CHECK(levenshtein("flaw", "lawn") == 2);
  CHECK(levenshtein("ab", "ba") == 2);
}

TEST_CASE("score of a reading") {
  CHECK(ocr_score("42", "42\n") == 1.0);
  CHECK(ocr_score("Cat", "the CAT sat") == 1.0);  // part of a longer reading
  CHECK(ocr_score("New York", "newyork") == 1.0);
  CHECK(ocr_score("42", "47") == 0.5);
  CHECK(ocr_score("42", "") == 0.0);
  CHECK(ocr_score("42", "abcdefgh") == 0.0);  // the distance is capped
  CHECK(ocr_score("cat", "car") == doctest::Approx(2.0 / 3));
  CHECK(ocr_score("", "anything") == 0.0);
}

#if PARLO_HAVE_TESSERACT
TEST_CASE("prompts without a text to read are refused, not judged") {
  const Reward reward = make_reward("ocr");
  for (const char* text : {"three red circles", "a sign that says \"\"", "a sign with \"  \""}) {
    CAPTURE(text);
    Prompt prompt;
    prompt.text = text;
    prompt.word = quoted_text(text);
    CHECK_THROWS_AS(validate_prompts(reward, std::vector{prompt}), UsageError);
    CHECK(reward.score(std::vector<Image>{Image(32, 32)}, std::vector{prompt})[0] == 0.0);
  }
}

TEST_CASE("pictures without text score nothing") {
  Prompt prompt;
  prompt.text = "a sign that says \"42\" in red";
  prompt.word = "42";
  const std::vector<Image> images = {Image(32, 32), Image(1, 1), Image()};
  const std::vector<Prompt> prompts(images.size(), prompt);
  CHECK(make_reward("ocr").score(images, prompts) == std::vector(3, 0.0));
}
#endif
