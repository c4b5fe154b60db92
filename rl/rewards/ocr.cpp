#include "rl/rewards/ocr.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <memory>
#include <mutex>
#include <numeric>

#include "tensor/error.h"

namespace parlo {
namespace {

// Lower case without white space.
std::string normalised(std::string_view text) {
  std::string out;
  for (char c : text)
    if (!std::isspace(static_cast<unsigned char>(c)))
      out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

}  // namespace

int64_t levenshtein(std::string_view a, std::string_view b) {
  std::vector<int64_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), int64_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    int64_t diagonal = row[0];
    row[0] = static_cast<int64_t>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t replace = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replace});
    }
  }
  return row[b.size()];
}

double ocr_score(std::string_view target, std::string_view reading) {
  const std::string t = normalised(target), r = normalised(reading);
  if (t.empty()) return 0.0;
  if (r.find(t) != std::string::npos) return 1.0;
  const auto length = static_cast<int64_t>(t.size());
  return 1.0 - static_cast<double>(std::min(levenshtein(t, r), length)) / length;
}

}  // namespace parlo

#if PARLO_HAVE_TESSERACT

#include <dlfcn.h>

#include <tesseract/baseapi.h>

namespace parlo {
namespace {

struct Gray {
  int width = 0, height = 0;
  std::vector<uint8_t> value;
};

// min over RGB: luminance would lose yellow text on a pale background.
Gray gray_of(const Image& image) {
  Gray gray{image.width, image.height, std::vector<uint8_t>(size_t(image.width) * image.height)};
  for (size_t i = 0; i < gray.value.size(); ++i) {
    const uint8_t* p = &image.rgb[i * 3];
    gray.value[i] = std::min({p[0], p[1], p[2]});
  }
  return gray;
}

uint8_t border_median(const Gray& gray) {
  std::vector<uint8_t> border;
  for (int x = 0; x < gray.width; ++x) {
    border.push_back(gray.value[x]);
    border.push_back(gray.value[size_t(gray.height - 1) * gray.width + x]);
  }
  for (int y = 0; y < gray.height; ++y) {
    border.push_back(gray.value[size_t(y) * gray.width]);
    border.push_back(gray.value[size_t(y) * gray.width + gray.width - 1]);
  }
  std::nth_element(border.begin(), border.begin() + border.size() / 2, border.end());
  return border[border.size() / 2];
}

// Catmull-Rom weights of the four samples around fraction f.
void cubic_weights(float f, float w[4]) {
  w[0] = ((-0.5f * f + 1.0f) * f - 0.5f) * f;
  w[1] = (1.5f * f - 2.5f) * f * f + 1.0f;
  w[2] = ((-1.5f * f + 2.0f) * f + 0.5f) * f;
  w[3] = (0.5f * f - 0.5f) * f * f;
}

// One pass of cubic upscaling along x; the result is transposed, so two passes do both axes.
std::vector<float> upscale_transposed(const std::vector<float>& in, int w, int h, int scale) {
  std::vector<float> out(in.size() * scale);
  for (int x = 0; x < w * scale; ++x) {
    const float at = (x + 0.5f) / scale - 0.5f;
    const int base = static_cast<int>(std::floor(at));
    float weight[4];
    cubic_weights(at - base, weight);
    for (int y = 0; y < h; ++y) {
      float sum = 0;
      for (int k = 0; k < 4; ++k)
        sum += weight[k] * in[size_t(y) * w + std::clamp(base - 1 + k, 0, w - 1)];
      out[size_t(x) * h + y] = sum;
    }
  }
  return out;
}

// Cubic upscaling and a border of the background, which Tesseract needs around small text.
Gray prepared(const Image& image, int scale, int border) {
  const Gray gray = gray_of(image);
  const int w = gray.width * scale, h = gray.height * scale;
  const std::vector<float> wide = upscale_transposed(
      std::vector<float>(gray.value.begin(), gray.value.end()), gray.width, gray.height, scale);
  const std::vector<float> large = upscale_transposed(wide, gray.height, w, scale);
  Gray out{w + 2 * border, h + 2 * border, {}};
  out.value.assign(size_t(out.width) * out.height, border_median(gray));
  for (int y = 0; y < h; ++y)
    for (int x = 0; x < w; ++x)
      out.value[size_t(y + border) * out.width + x + border] =
          static_cast<uint8_t>(std::clamp(large[size_t(y) * w + x] + 0.5f, 0.0f, 255.0f));
  return out;
}

// Tesseract asks OpenMP for a team of four in every layer. On pictures this small the teams fight
// our own threads (3 times slower on two cores). OMP_THREAD_LIMIT would have to be in the
// environment before the process starts; this setting works at once, for the calling thread.
void serialise_openmp() {
  using SetLevels = void (*)(int);
  static const auto set =
      reinterpret_cast<SetLevels>(dlsym(RTLD_DEFAULT, "omp_set_max_active_levels"));
  if (set) set(0);
}

class Reader {
 public:
  Reader() {
    // No second look at the inverted picture when the first reading is doubtful: the world writes
    // dark on pale, and it doubled the time on unreadable samples.
    const std::vector<std::string> names = {"debug_file", "tessedit_do_invert", "invert_threshold"};
    const std::vector<std::string> values = {"/dev/null", "0", "0"};
    if (api_.Init(nullptr, "eng", tesseract::OEM_LSTM_ONLY, nullptr, 0, &names, &values, false) !=
        0)
      throw Error("ocr: Tesseract cannot load its English model; install tesseract-ocr-eng");
    api_.SetPageSegMode(tesseract::PSM_SINGLE_LINE);
    api_.SetVariable("tessedit_char_whitelist",
                     "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
  }
  std::string read(const Image& image) {
    const Gray page = prepared(image, 2, 8);
    api_.SetImage(page.value.data(), page.width, page.height, 1, page.width);
    api_.SetSourceResolution(70);  // any value: it only silences a guess
    const std::unique_ptr<char[]> text(api_.GetUTF8Text());
    return text ? text.get() : "";
  }

 private:
  tesseract::TessBaseAPI api_;
};

// As many engines as were ever in use at once. The first one is made by the constructor, because
// that makes Tesseract's own static cache as well: statics die in reverse order, so the engines go
// before the cache they hold on to. As thread_local objects they outlived it.
class Readers {
 public:
  Readers() { idle_.push_back(std::make_unique<Reader>()); }

  std::string read(const Image& image) {
    std::unique_ptr<Reader> reader = take();
    std::string text = reader->read(image);  // an engine that throws is not used again
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(reader));
    return text;
  }

 private:
  std::unique_ptr<Reader> take() {
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        std::unique_ptr<Reader> reader = std::move(idle_.back());
        idle_.pop_back();
        return reader;
      }
    }
    return std::make_unique<Reader>();
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<Reader>> idle_;
};

Readers& readers() {
  static Readers all;
  return all;
}

}  // namespace

std::string read_text(const Image& image) {
  CHECK(image.width > 0 && image.height > 0, "read_text: the image is empty");
  serialise_openmp();
  return readers().read(image);
}

Reward make_ocr_reward() {
  readers();  // a missing model is an error here, not a score of 0 later
  return reward_of_judge(
      "ocr",
      [](const Image& image, const Prompt& prompt) {
        return ocr_score(prompt.word, read_text(image));
      },
      [](const Prompt& prompt) -> std::string {
        if (prompt.text.find('"') == std::string::npos) return "quotes no text";
        return normalised(prompt.word).empty() ? "quotes an empty text" : "";
      });
}

}  // namespace parlo

#endif  // PARLO_HAVE_TESSERACT
