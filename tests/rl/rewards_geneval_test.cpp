#include "rl/rewards/geneval.h"

#include "rl/rewards/scene.h"
#include "tests/support.h"

using namespace parlo;

namespace {

Detection at(int shape, int color, float x, float y, float size = 8) {
  Detection d;
  d.shape = shape;
  d.color = color;
  d.x0 = x - size / 2, d.x1 = x + size / 2, d.y0 = y - size / 2, d.y1 = y + size / 2;
  return d;
}

Prompt asking(std::vector<Object> objects) {
  Prompt prompt;
  prompt.text = "x";
  prompt.objects = std::move(objects);
  return prompt;
}

double dense(const std::vector<Detection>& found, const Prompt& prompt, bool quirk = true) {
  return geneval_score(found, prompt, {quirk, false}).dense;
}

// A shape of one colour on a pale background, 8x8 samples a pixel.
void draw(Image& image, int shape, float x, float y, float side, std::array<int, 3> color) {
  for (int py = 0; py < image.height; ++py)
    for (int px = 0; px < image.width; ++px) {
      int inside = 0;
      for (int s = 0; s < 64; ++s)
        inside += inside_shape(shape, (px + (s % 8 + 0.5f) / 8 - x) / side + 0.5f,
                               (py + (s / 8 + 0.5f) / 8 - y) / side + 0.5f);
      for (int c = 0; c < 3; ++c) {
        uint8_t& value = image.at(px, py)[c];
        value = static_cast<uint8_t>(value + (color[c] - value) * inside / 64);
      }
    }
}

// 3x3 binomial blur, twice: sigma 1.
Image blurred(const Image& in) {
  constexpr std::array<int, 3> kWeight = {1, 2, 1};
  Image out = in;
  for (int y = 1; y + 1 < in.height; ++y)
    for (int x = 1; x + 1 < in.width; ++x)
      for (int c = 0; c < 3; ++c) {
        int sum = 0;
        for (int k = 0; k < 9; ++k)
          sum += kWeight[k / 3] * kWeight[k % 3] * in.at(x + k % 3 - 1, y + k / 3 - 1)[c];
        out.at(x, y)[c] = static_cast<uint8_t>(sum / 16);
      }
  return out;
}

Image pale() {
  Image image(32, 32);
  std::fill(image.rgb.begin(), image.rgb.end(), uint8_t{235});
  return image;
}

constexpr int kRed = 0, kBlue = 4, kCircle = 0, kSquare = 1;

}  // namespace

TEST_CASE("count and colour terms") {
  const Prompt three = asking({{"circle", 3, "red", "", 0}});
  const Detection r = at(kCircle, kRed, 8, 8), b = at(kCircle, kBlue, 8, 8);
  CHECK(dense({r, r, r}, three) == 1.0);
  CHECK(dense({r, r, b}, three) == doctest::Approx((1 + 2.0 / 3) / 2));
  CHECK(dense({b, b, b}, three) == doctest::Approx(0.5));
  CHECK(dense({r, r}, three) == doctest::Approx((2.0 / 3 + 0) / 2));
  CHECK(dense({}, three) == 0.0);
  CHECK(dense({at(kSquare, kRed, 8, 8)}, three) == 0.0);
  // Twice too many and more: the count term goes below 0, as published.
  CHECK(dense({r, r, r, r, r, r, r}, three) == doctest::Approx((1 - 4.0 / 3) / 2));
  CHECK(geneval_score(std::vector(7, r), three, {true, true}).dense == 0.0);
  // Without a colour a wrong count is a single term.
  CHECK(dense({r, b}, asking({{"circle", 3, "", "", 0}})) == doctest::Approx(2.0 / 3));
}

TEST_CASE("position terms with and without the published quirk") {
  const Prompt prompt = asking({{"square", 1, "blue", "", 0}, {"circle", 1, "red", "left of", 0}});
  const Detection square = at(kSquare, kBlue, 24, 16), left = at(kCircle, kRed, 8, 16),
                  above = at(kCircle, kRed, 24, 4), square_red = at(kSquare, kRed, 24, 16);
  CHECK(dense({square, left}, prompt) == 1.0);
  CHECK(dense({square, left}, prompt, false) == 1.0);
  CHECK(dense({square, above}, prompt) == doctest::Approx(5.0 / 6));         // 1 1 | 1 1 0 1
  CHECK(dense({square, above}, prompt, false) == doctest::Approx(4.0 / 5));  // 1 1 | 1 1 0
  // The target's colour is wrong: nothing to be left of.
  CHECK(dense({square_red, left}, prompt) == doctest::Approx(3.0 / 5));  // 1 0 | 1 1 0
  // The object's colour is wrong: no position term at all.
  CHECK(dense({square, at(kCircle, kBlue, 8, 16)}, prompt) == doctest::Approx(3.0 / 4));
  CHECK(dense({left}, prompt) == doctest::Approx(2.0 / 5));  // 0 0 | 1 1 0
  CHECK(geneval_score(std::vector{square, left}, prompt).strict);
  CHECK(!geneval_score(std::vector{square, above}, prompt).strict);
}

TEST_CASE("every direction, and diagonals in two") {
  const Detection target = at(kSquare, kBlue, 16, 16);
  const auto holds = [&](float x, float y, const char* relation) {
    const Prompt p = asking({{"square", 1, "", "", 0}, {"circle", 1, "", relation, 0}});
    return geneval_score(std::vector{target, at(kCircle, kRed, x, y)}, p).strict;
  };
  CHECK(holds(4, 16, "left of"));
  CHECK(holds(28, 16, "right of"));
  CHECK(holds(16, 4, "above"));
  CHECK(holds(16, 28, "below"));
  CHECK(!holds(28, 16, "left of"));
  CHECK(!holds(16, 28, "above"));
  CHECK(!holds(4, 16, "above"));
  CHECK(holds(4, 4, "left of"));
  CHECK(holds(4, 4, "above"));
  CHECK(!holds(15, 16, "left of"));  // one pixel is less than a tenth of the sizes
  CHECK(!holds(16, 16, "left of"));
}

TEST_CASE("the detector names shape, colour and box") {
  constexpr std::array<std::array<int, 3>, 6> rgb = {{{180, 30, 30},
                                                      {190, 170, 20},
                                                      {30, 170, 40},
                                                      {30, 170, 170},
                                                      {30, 50, 190},
                                                      {160, 30, 180}}};
  for (int shape = 0; shape < 4; ++shape)
    for (int color = 0; color < 6; ++color)
      for (float side : {8.0f, 10.5f, 14.0f}) {
        CAPTURE(shape);
        CAPTURE(color);
        CAPTURE(side);
        Image image = pale();
        draw(image, shape, 13.3f, 17.6f, side, rgb[color]);
        const std::vector<Detection> found = detect_shapes(image);
        REQUIRE(found.size() == 1);
        CHECK(found[0].shape == shape);
        CHECK(found[0].color == color);
        CHECK((found[0].x0 + found[0].x1) / 2 == doctest::Approx(13.3).epsilon(0.05));
        CHECK((found[0].y0 + found[0].y1) / 2 == doctest::Approx(17.6).epsilon(0.05));
      }
}

TEST_CASE("blurred shapes keep their names, specks have none") {
  for (int shape = 0; shape < 4; ++shape) {
    CAPTURE(shape);
    Image image = pale();
    draw(image, shape, 15.7f, 16.4f, 10, {30, 50, 190});
    const std::vector<Detection> found = detect_shapes(blurred(blurred(image)));
    REQUIRE(found.size() == 1);
    CHECK(found[0].shape == shape);
  }
  Image patch = pale();  // one 4x4 patch of a patch-wise model
  draw(patch, kSquare, 10, 10, 4, {180, 30, 30});
  CHECK(detect_shapes(patch).empty());
}

TEST_CASE("holes of the detector") {
  CHECK(detect_shapes(Image()).empty());
  CHECK(detect_shapes(pale()).empty());
  Image faint = pale();
  draw(faint, kCircle, 16, 16, 10, {235, 190, 190});
  CHECK(detect_shapes(faint).empty());
  Image merged = pale();  // equal colours that touch are one object, and no known shape
  draw(merged, kCircle, 12, 16, 10, {180, 30, 30});
  draw(merged, kCircle, 20, 16, 10, {180, 30, 30});
  CHECK(detect_shapes(merged).size() <= 1);
  Image touching = pale();  // different hues stay apart
  draw(touching, kSquare, 11, 16, 9, {180, 30, 30});
  draw(touching, kSquare, 20, 16, 9, {30, 50, 190});
  CHECK(detect_shapes(touching).size() == 2);
  Image full(32, 32);
  for (size_t i = 0; i < full.rgb.size(); i += 3) full.rgb[i] = 200;
  CHECK(detect_shapes(full).empty());
}

TEST_CASE("prompts the detector cannot judge are refused") {
  const Reward reward = make_reward("geneval");
  const auto refused = [&](std::vector<Object> objects) {
    return !reward.why_not(asking(std::move(objects))).empty();
  };
  CHECK(refused({}));
  CHECK(refused({{"dog", 1, "", "", 0}}));
  CHECK(refused({{"text", 1, "red", "", 0}}));
  CHECK(refused({{"circle", 1, "beige", "", 0}}));
  CHECK(refused({{"circle", 1, "", "", 0}, {"square", 1, "", "near", 0}}));
  CHECK(!refused({{"circle", 1, "", "", 0}, {"square", 1, "red", "below", 0}}));
}
