#include "tools/world/glyphs.h"

#include "tensor/error.h"

#if PARLO_HAVE_FREETYPE

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include <ft2build.h>
#include FT_FREETYPE_H
#include FT_OUTLINE_H

namespace parlo {
namespace {

constexpr int kOversample = 4;
constexpr float kCapHeight = 0.729f;  // of DejaVu Sans Bold, in em

const char* font_path() {
  static const char* const found = [] {
    // A bundle brings its own.
    if (const char* given = std::getenv("PARLO_FONT")) return given;
    for (const char* path :
         {"/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf",
          "/usr/share/fonts/TTF/DejaVuSans-Bold.ttf", "/usr/share/fonts/dejavu/DejaVuSans-Bold.ttf",
          "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans-Bold.ttf"})
      if (std::filesystem::exists(path)) return path;
    throw Error(
        "DejaVuSans-Bold.ttf is not under /usr/share/fonts; install fonts-dejavu-core, or set "
        "PARLO_FONT to the file");
  }();
  return found;
}

// FreeType objects serve one thread each.
class Font {
 public:
  Font() {
    CHECK(FT_Init_FreeType(&library_) == 0, "FreeType cannot be started");
    if (FT_New_Face(library_, font_path(), 0, &face_) != 0) {
      FT_Done_FreeType(library_);
      throw Error(concat(font_path(), ": FreeType cannot read it; reinstall fonts-dejavu-core"));
    }
  }
  ~Font() {
    FT_Done_Face(face_);
    FT_Done_FreeType(library_);
  }
  Font(const Font&) = delete;

  // Horizontal ink range at `em` pixels, from the origin of the first letter.
  std::pair<float, float> ink(std::string_view text, float em) {
    set_size(em);
    float left = 1e9f, right = -1e9f, pen = 0;
    for (char c : text) {
      load(c);
      const FT_Glyph_Metrics& m = face_->glyph->metrics;
      left = std::min(left, pen + m.horiBearingX / 64.0f);
      right = std::max(right, pen + (m.horiBearingX + m.width) / 64.0f);
      pen += face_->glyph->linearHoriAdvance / 65536.0f;
    }
    return {left, right};
  }

  // Adds the text with the pen starting at (x, baseline) to 8-bit coverage of side `side`.
  void draw(std::string_view text, float em, float x, float baseline, int side,
            std::vector<uint8_t>& coverage) {
    set_size(em);
    for (char c : text) {
      load(c);
      const float advance = face_->glyph->linearHoriAdvance / 65536.0f;
      const float whole = std::floor(x);
      FT_Outline_Translate(&face_->glyph->outline, std::lround((x - whole) * 64),
                           std::lround((std::ceil(baseline) - baseline) * 64));
      CHECK(FT_Render_Glyph(face_->glyph, FT_RENDER_MODE_NORMAL) == 0, "FreeType cannot draw '", c,
            "'");
      blit(face_->glyph->bitmap, static_cast<int>(whole) + face_->glyph->bitmap_left,
           static_cast<int>(std::ceil(baseline)) - face_->glyph->bitmap_top, side, coverage);
      x += advance;
    }
  }

 private:
  void set_size(float em) { FT_Set_Char_Size(face_, 0, std::lround(em * 64), 72, 72); }
  void load(char c) {
    CHECK(FT_Load_Char(face_, static_cast<FT_ULong>(static_cast<unsigned char>(c)),
                       FT_LOAD_NO_HINTING | FT_LOAD_NO_BITMAP) == 0,
          "the font has no glyph for '", c, "'");
  }
  static void blit(const FT_Bitmap& bitmap, int x0, int y0, int side, std::vector<uint8_t>& out) {
    for (int y = std::max(0, -y0); y < static_cast<int>(bitmap.rows) && y0 + y < side; ++y)
      for (int x = std::max(0, -x0); x < static_cast<int>(bitmap.width) && x0 + x < side; ++x) {
        uint8_t& pixel = out[size_t(y0 + y) * side + x0 + x];
        pixel = std::max(pixel, bitmap.buffer[y * bitmap.pitch + x]);
      }
  }

  FT_Library library_ = nullptr;
  FT_Face face_ = nullptr;
};

}  // namespace

Mask text_mask(std::string_view text, int size, float x, float y, float width, float height) {
  CHECK(!text.empty(), "text_mask: the text is empty");
  static thread_local Font font;
  const auto [left1, right1] = font.ink(text, 100.0f);
  const float em = kOversample * std::min(width * 100.0f / (right1 - left1), height / kCapHeight);
  const float left = left1 * em / 100.0f, right = right1 * em / 100.0f;
  const int side = size * kOversample;
  std::vector<uint8_t> fine(size_t(side) * side, 0);
  font.draw(text, em, kOversample * x - (left + right) / 2, kOversample * y + em * kCapHeight / 2,
            side, fine);
  Mask mask{size, std::vector<float>(size_t(size) * size)};
  for (int row = 0; row < side; ++row)
    for (int column = 0; column < side; ++column)
      mask.share[size_t(row / kOversample) * size + column / kOversample] +=
          fine[size_t(row) * side + column] / (255.0f * kOversample * kOversample);
  return mask;
}

}  // namespace parlo

#else

namespace parlo {

Mask text_mask(std::string_view, int, float, float, float, float) {
  throw Error("this build draws no text: install libfreetype-dev and configure again");
}

}  // namespace parlo

#endif
