// Progress of a long job: a bar with the time left on a terminal, one line a step elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace parlo {

// "850 ms", "12.3 s", "4 min 05 s", "2 h 03 min".
std::string format_duration(double seconds);
// "312 KiB", "1.42 GiB".
std::string format_bytes(double bytes);

// Largest resident size of this process so far, in bytes.
int64_t process_peak_bytes();

class Progress {
 public:
  // A resumed job starts at `done`; the steps before do not count for the time left.
  Progress(std::string title, int64_t total, int64_t done = 0, std::FILE* out = stderr);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` steps are finished; `detail` says what came out ("reward 0.61").
  void update(int64_t done, const std::string& detail = "");
  // A line of its own, above the bar.
  void note(const std::string& text);
  // Ends the bar's line; the destructor does it as well.
  void finish();

 private:
  std::string line(int64_t done, const std::string& detail, bool bar) const;

  std::string title_;
  int64_t total_, first_;
  std::FILE* out_;
  bool terminal_, open_ = false;
  std::chrono::steady_clock::time_point start_, drawn_;
};

}  // namespace parlo
