// PNG, colourfulness, JPEG size and the registry of rewards.
#include "rl/rewards/colorfulness.h"
#include "rl/rewards/jpeg.h"
#include "rl/rewards/png.h"
#include "rl/rewards/reward.h"
#include "tensor/parallel.h"
#include "tests/support.h"

using namespace parlo;

namespace {

Image random_image(int w, int h, unsigned seed) {
  std::mt19937 random(seed);
  Image image(w, h);
  for (uint8_t& value : image.rgb) value = static_cast<uint8_t>(random());
  return image;
}

Image flat(int w, int h, int r, int g, int b) {
  Image image(w, h);
  for (size_t i = 0; i < image.rgb.size(); i += 3) {
    image.rgb[i] = static_cast<uint8_t>(r);
    image.rgb[i + 1] = static_cast<uint8_t>(g);
    image.rgb[i + 2] = static_cast<uint8_t>(b);
  }
  return image;
}

}  // namespace

TEST_CASE("PNG keeps every pixel") {
  for (auto [w, h] : {std::pair{1, 1}, {32, 32}, {7, 41}}) {
    const Image image = random_image(w, h, 3);
    CHECK(decode_png(encode_png(image)) == image);
  }
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / (std::to_string(getpid()) + ".png");
  const Image image = random_image(5, 6, 4);
  write_png(path, image);
  CHECK(read_png(path) == image);
  std::filesystem::remove(path);
}

TEST_CASE("broken PNG files are refused") {
  CHECK_THROWS_AS(read_png("/nonexistent.png"), Error);
  CHECK_THROWS_AS(write_png("/nonexistent/x.png", random_image(2, 2, 1)), Error);
  CHECK_THROWS_AS(encode_png(Image()), Error);
  std::vector<uint8_t> bytes = encode_png(random_image(16, 16, 1));
  CHECK_THROWS_AS(decode_png(std::span(bytes).first(bytes.size() / 2)), Error);
  CHECK_THROWS_AS(decode_png(std::vector<uint8_t>{1, 2, 3}), Error);
}

TEST_CASE("a grid places every image") {
  const std::vector<Image> images = {flat(2, 3, 1, 2, 3), flat(2, 3, 4, 5, 6), flat(2, 3, 7, 8, 9)};
  const Image grid = make_grid(images, 2, 2);
  CHECK(grid.width == 2 * 4 + 2);
  CHECK(grid.height == 2 * 6 + 2);
  CHECK(*grid.at(3, 5) == 1);
  CHECK(*grid.at(4, 0) == 255);
  CHECK(*grid.at(6, 5) == 4);
  CHECK(*grid.at(0, 8) == 7);
  CHECK(*grid.at(6, 8) == 255);
  CHECK(make_grid(images, 9).width == 3 * 2 + 4);
  CHECK_THROWS_AS(make_grid(std::vector{flat(2, 3, 0, 0, 0), flat(3, 2, 0, 0, 0)}, 2), Error);
}

TEST_CASE("colourfulness of known pictures") {
  CHECK(colorfulness(flat(4, 4, 90, 90, 90)) == 0.0);
  // Pure red: rg = 255, yb = 127.5, no spread: 0.3 * |(255, 127.5)| / 150.
  CHECK(colorfulness(flat(4, 4, 255, 0, 0)) == doctest::Approx(0.3 * std::hypot(255, 127.5) / 150));
  // Half red, half green: rg = +-255, yb = 127.5: (255 + 0.3 * 127.5) / 150 > 1.
  Image half = flat(2, 1, 255, 0, 0);
  half.at(1, 0)[0] = 0, half.at(1, 0)[1] = 255;
  CHECK(colorfulness(half) == 1.0);
  // The same with dim colours: rg = +-40, yb = 20.
  half.at(0, 0)[0] = 40, half.at(1, 0)[1] = 40;
  CHECK(colorfulness(half) == doctest::Approx((40 + 0.3 * 20) / 150));
}

#if PARLO_HAVE_TURBOJPEG
TEST_CASE("JPEG size: noise is large, a blank picture wins") {
  const Image noise = random_image(32, 32, 1), blank = flat(32, 32, 230, 230, 230);
  CHECK(jpeg_bytes(noise) > 2 * jpeg_bytes(blank));
  CHECK(jpeg_bytes(noise, 10) < jpeg_bytes(noise, 95));
  const std::vector<Prompt> prompts(2);
  const std::vector<Image> images = {noise, blank};
  const auto small = make_reward("jpeg_compressibility").score(images, prompts);
  const auto large = make_reward("jpeg_incompressibility").score(images, prompts);
  CHECK(small[0] == doctest::Approx(-jpeg_bytes(noise) / 1000.0 / 500.0));
  CHECK(large[0] == doctest::Approx(jpeg_bytes(noise) / 1000.0));
  CHECK(small[1] > small[0]);
}
#endif

TEST_CASE("the registry knows its rewards") {
  for (const std::string& name : reward_names()) CHECK(make_reward(name).name == name);
  try {
    make_reward("beauty");
    FAIL("an unknown reward was made");
  } catch (const UsageError& error) {
    CHECK(std::string(error.what()).find("geneval") != std::string::npos);
    CHECK(std::string(error.what()).find("beauty") != std::string::npos);
  }
}

TEST_CASE("scores are the same for any batch and number of threads") {
  std::vector<Image> images;
  for (unsigned i = 0; i < 9; ++i) images.push_back(random_image(16, 16, i));
  const std::vector<Prompt> prompts(images.size());
  const Reward reward = make_reward("colorfulness");
  set_num_threads(1);
  const std::vector<double> serial = reward.score(images, prompts);
  set_num_threads(3);
  CHECK(reward.score(images, prompts) == serial);
  CHECK(reward.score(std::span(images).subspan(4, 1), std::span(prompts).first(1))[0] == serial[4]);
  CHECK(reward.score({}, {}).empty());
  CHECK_THROWS_AS(reward.score(images, std::span(prompts).first(2)), Error);
}

TEST_CASE("a judge that throws scores 0; prompts it refuses are named") {
  const Reward reward = reward_of_judge(
      "picky", [](const Image&, const Prompt&) -> double { throw Error("broken"); },
      [](const Prompt& p) { return std::string(p.text == "bad" ? "is bad" : ""); });
  std::vector<Prompt> prompts(2);
  CHECK(reward.score(std::vector<Image>(2), prompts) == std::vector(2, 0.0));
  validate_prompts(reward, prompts);
  CHECK_THROWS_AS(validate_prompts(reward, {}), UsageError);
  prompts[1].text = "bad";
  prompts[1].id = 17;
  try {
    validate_prompts(reward, prompts);
    FAIL("a bad prompt passed");
  } catch (const UsageError& error) {
    CHECK(std::string(error.what()).find("prompt 17 'bad' is bad") != std::string::npos);
  }
}
