#include "tools/sample_folder.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "tensor/error.h"

namespace parlo {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int kSheetWidth = 1024;           // pixels the sheet aims at
constexpr int64_t kSheetPixels = 64 << 20;  // of all its pictures: 192 MB

std::string other_settings(const ordered_json& before, const ordered_json& now) {
  std::string out;
  for (const auto& [name, value] : now.items()) {
    const ordered_json was = before.value(name, ordered_json());
    if (was == value) continue;
    out += concat(out.empty() ? "" : ", ", name, " was ", was.dump(), " and is now ", value.dump());
  }
  return out.empty() ? "they name other settings" : out;
}

}  // namespace

SampleFolder::SampleFolder(fs::path folder, ordered_json settings, std::vector<Prompt> prompts)
    : folder_(std::move(folder)), settings_(std::move(settings)), prompts_(std::move(prompts)) {
  for (const Prompt& p : prompts_) prompt_lines_ += to_json_line(p) + "\n";
  check_settings();
}

fs::path SampleFolder::picture(size_t place) const {
  char name[32];
  std::snprintf(name, sizeof name, "%05zu.png", place);
  return folder_ / name;
}

void SampleFolder::check_settings() const {
  const auto fail = [&](const auto&... what) {
    throw UsageError(concat("--out ", folder_.string(), " ", what..., "; give an empty folder"));
  };
  const fs::path settings = folder_ / "sample.json", prompts = folder_ / "prompts.jsonl";
  if (!fs::exists(settings)) {
    if (missing().size() < prompts_.size()) fail("holds pictures of another origin");
    return;
  }
  const auto before = ordered_json::parse(read_file(settings), nullptr, false);
  if (!before.is_object()) fail("holds a sample.json that cannot be read");
  if (before != settings_) {
    fail("holds pictures of other settings: ", other_settings(before, settings_));
  }
  // Written second: without it no picture was drawn.
  if (fs::exists(prompts) && read_file(prompts) != prompt_lines_) {
    fail("holds pictures of other prompts, or of another --count");
  }
}

std::vector<size_t> SampleFolder::missing() const {
  std::vector<size_t> out;
  for (size_t i = 0; i < prompts_.size(); ++i) {
    if (!fs::exists(picture(i))) out.push_back(i);
  }
  return out;
}

void SampleFolder::begin() {
  make_folders(folder_);
  mine_.emplace(folder_);
  write_file(folder_ / "sample.json", settings_.dump(2) + "\n");
  write_file(folder_ / "prompts.jsonl", prompt_lines_);
}

void SampleFolder::add(size_t place, const Image& image, const PngTexts& texts) const {
  const std::vector<uint8_t> bytes = with_texts(encode_png(image), texts);
  write_file(picture(place), {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

size_t SampleFolder::write_grid(int64_t columns, int64_t scale) const {
  std::vector<Image> images{read_png(picture(0))};
  const int64_t width = images[0].width, height = images[0].height;
  const auto all = static_cast<int64_t>(prompts_.size());
  const auto side = static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(all))));
  if (columns == 0) columns = side;
  if (scale == 0) scale = std::clamp<int64_t>(kSheetWidth / (width * columns), 1, 4);
  const int64_t fit = kSheetPixels / (width * height * scale * scale);
  const int64_t shown = std::clamp<int64_t>(fit, 1, all);
  for (int64_t i = 1; i < shown; ++i) images.push_back(read_png(picture(static_cast<size_t>(i))));
  if (shown < all) columns = std::min(columns, static_cast<int64_t>(std::ceil(std::sqrt(shown))));
  write_png(folder_ / "grid.png",
            make_grid(images, static_cast<int>(columns), static_cast<int>(scale)));
  return images.size();
}

}  // namespace parlo
