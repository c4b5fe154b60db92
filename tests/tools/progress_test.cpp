#include "tools/progress.h"

#include "tensor/file.h"
#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;

TEST_CASE("durations and sizes read well") {
  CHECK(format_duration(0.0042) == "4 ms");
  CHECK(format_duration(12.34) == "12.3 s");
  CHECK(format_duration(59.99) == "1 min 00 s");
  CHECK(format_duration(245) == "4 min 05 s");
  CHECK(format_duration(3599.7) == "1 h 00 min");
  CHECK(format_duration(7400) == "2 h 03 min");
  CHECK(format_duration(NAN) == "?");
  CHECK(format_bytes(0) == "0 B");
  CHECK(format_bytes(999) == "999 B");
  CHECK(format_bytes(1024) == "1.00 KiB");
  CHECK(format_bytes(319488) == "312 KiB");
  CHECK(format_bytes(1.42 * 1024 * 1024 * 1024) == "1.42 GiB");
}

TEST_CASE("outside of a terminal every step is one plain line") {
  TemporaryFolder folder;
  std::FILE* out = std::fopen((folder / "log").c_str(), "w");
  REQUIRE(out != nullptr);
  {
    Progress progress("ocr", 3, 1, out);
    progress.update(1);
    progress.update(2, "reward 0.61");
    progress.update(3);
    progress.finish();
  }
  std::fclose(out);
  const std::string text = read_file(folder / "log");
  CHECK(std::count(text.begin(), text.end(), '\n') == 3);
  CHECK(contains(text, "ocr 1/3, left ?\n"));
  CHECK(contains(text, "ocr 2/3, left "));
  CHECK(contains(text, ", reward 0.61\n"));
  CHECK(contains(text, "ocr 3/3, took "));
  CHECK(!contains(text, "\r"));
  CHECK(!contains(text, "\033"));
}
