// Texts in PNG files, against libpng's own reader and writer.
#include "rl/rewards/png_text.h"

#include <png.h>

#include "rl/rewards/png.h"
#include "tests/support.h"

namespace parlo {
namespace {

using namespace test;
using Bytes = std::vector<uint8_t>;

const PngTexts kTexts{{"prompt", "a red circle, \"STOP\""},
                      {"negative_prompt", "café \xe2\x80\x93 ½"},
                      {"seed", "7"},
                      {"empty", ""}};

Bytes picture() {
  Image image(3, 2);
  for (size_t i = 0; i < image.rgb.size(); ++i) image.rgb[i] = static_cast<uint8_t>(11 * i);
  return encode_png(image);
}

struct Source {
  const Bytes* bytes;
  size_t at = 0;
};

void read_bytes(png_structp png, png_bytep to, size_t n) {
  auto* source = static_cast<Source*>(png_get_io_ptr(png));
  if (source->at + n > source->bytes->size()) png_error(png, "the end");
  std::copy_n(source->bytes->begin() + static_cast<std::ptrdiff_t>(source->at), n, to);
  source->at += n;
}

// What libpng finds in the file.
PngTexts libpng_reads(const Bytes& bytes) {
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  Source source{&bytes};
  PngTexts out;
  if (setjmp(png_jmpbuf(png)) != 0) {
    png_destroy_read_struct(&png, &info, nullptr);
    throw Error("libpng refuses the file");
  }
  png_set_read_fn(png, &source, read_bytes);
  png_read_png(png, info, PNG_TRANSFORM_IDENTITY, nullptr);
  png_textp texts = nullptr;
  int count = 0;
  png_get_text(png, info, &texts, &count);
  for (int i = 0; i < count; ++i) {
    const bool utf8 = texts[i].compression >= PNG_ITXT_COMPRESSION_NONE;
    const size_t length = utf8 ? texts[i].itxt_length : texts[i].text_length;
    out.emplace_back(texts[i].key, std::string(texts[i].text, length));
  }
  png_destroy_read_struct(&png, &info, nullptr);
  return out;
}

TEST_CASE("libpng reads the texts, and the same picture") {
  const Bytes plain = picture(), with = with_texts(plain, kTexts);
  CHECK(libpng_reads(with) == kTexts);
  CHECK(decode_png(with) == decode_png(plain));
  CHECK(png_texts(with) == kTexts);
  CHECK(png_texts(plain).empty());
  CHECK(png_texts(with_texts(plain, {{"zero", std::string("a\0b", 3)}}))[0].second == "a b");
}

TEST_CASE("keywords and files that the format does not allow") {
  CHECK(contains(message_of([] { with_texts(picture(), {{"", "x"}}); }), "1 to 79"));
  CHECK(contains(message_of([] { with_texts(picture(), {{std::string(80, 'k'), "x"}}); }), "80"));
  CHECK(contains(message_of([] { with_texts(Bytes(5), {}); }), "no PNG"));
  CHECK(contains(message_of([] { png_texts(Bytes(100)); }), "not a PNG"));
}

TEST_CASE("a broken file is refused, wherever it is cut or changed, never read beyond") {
  const Bytes whole = with_texts(picture(), kTexts);
  for (size_t cut = 0; cut < whole.size(); ++cut) {
    const Bytes part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(cut));
    CHECK(message_of([&] { png_texts(part); }) != "");
  }
  for (size_t at = 8; at < whole.size(); ++at) {  // any byte may be another: texts or an Error
    Bytes changed = whole;
    changed[at] ^= 0xff;
    try {
      const PngTexts found = png_texts(changed);
      CHECK(found.size() <= kTexts.size());
    } catch (const Error&) {
    }
  }
  Bytes text = whole;
  const std::string seen(whole.begin(), whole.end());
  text[seen.find("STOP")] = 'T';
  CHECK(contains(message_of([&] { png_texts(text); }), "checksum"));
}

}  // namespace
}  // namespace parlo
