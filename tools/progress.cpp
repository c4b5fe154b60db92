#include "tools/progress.h"

#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "tensor/error.h"

namespace parlo {

namespace {

template <class... Args>
std::string print(const char* format, Args... args) {
  char text[64];
  std::snprintf(text, sizeof text, format, args...);
  return text;
}

size_t terminal_width(std::FILE* out) {
  winsize size{};
  if (::ioctl(::fileno(out), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

double seconds_between(std::chrono::steady_clock::time_point a,
                       std::chrono::steady_clock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

}  // namespace

std::string format_duration(double seconds) {
  if (!(seconds >= 0)) return "?";
  if (seconds < 0.9995) return print("%.0f ms", seconds * 1000);
  if (seconds < 59.95) return print("%.1f s", seconds);
  const auto whole = static_cast<long long>(std::llround(seconds));
  if (whole < 3600) return print("%lld min %02lld s", whole / 60, whole % 60);
  const long long minutes = (whole + 30) / 60;
  return print("%lld h %02lld min", minutes / 60, minutes % 60);
}

std::string format_bytes(double bytes) {
  const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1000 && unit + 1 < std::size(units)) {
    bytes /= 1024;
    ++unit;
  }
  const int digits = unit == 0 || bytes >= 99.5 ? 0 : bytes >= 9.95 ? 1 : 2;
  return print("%.*f %s", digits, bytes, units[unit]);
}

int64_t process_peak_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

Progress::Progress(std::string title, int64_t total, int64_t done, std::FILE* out)
    : title_(std::move(title)),
      total_(std::max<int64_t>(total, 1)),
      first_(done),
      out_(out),
      terminal_(::isatty(::fileno(out)) == 1),
      start_(std::chrono::steady_clock::now()) {}

Progress::~Progress() {
  finish();
}

std::string Progress::line(int64_t done, const std::string& detail, bool bar) const {
  const double elapsed = seconds_between(start_, std::chrono::steady_clock::now());
  std::string time = "took " + format_duration(elapsed);
  if (done < total_) {
    const int64_t steps = done - first_;
    time = steps > 0 ? "left " + format_duration(elapsed / double(steps) * double(total_ - done))
                     : "left ?";
  }
  std::string drawn;
  if (bar) {
    constexpr int kCells = 24;
    const auto full = static_cast<int>(std::clamp<int64_t>(done * kCells / total_, 0, kCells));
    drawn =
        concat(" [", std::string(size_t(full), '#'), std::string(size_t(kCells - full), '.'), "]");
  }
  return concat(title_, drawn, " ", done, "/", total_, ", ", time,
                detail.empty() ? "" : ", " + detail);
}

void Progress::update(int64_t done, const std::string& detail) {
  if (!terminal_) {
    std::fprintf(out_, "%s\n", line(done, detail, false).c_str());
    std::fflush(out_);
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  // Redrawing more often than the eye follows costs time on a slow terminal.
  if (open_ && done < total_ && seconds_between(drawn_, now) < 0.1) return;
  std::string text = line(done, detail, true);
  const size_t width = terminal_width(out_);
  if (text.size() >= width) text.resize(width - 1);
  std::fprintf(out_, "\r\033[K%s", text.c_str());
  std::fflush(out_);
  drawn_ = now;
  open_ = true;
}

void Progress::note(const std::string& text) {
  std::fprintf(out_, "%s%s\n", open_ ? "\r\033[K" : "", text.c_str());
  std::fflush(out_);
  open_ = false;  // the next update draws the bar again
}

void Progress::finish() {
  if (open_) std::fputc('\n', out_);
  if (open_) std::fflush(out_);
  open_ = false;
}

}  // namespace parlo
