#include "tools/gnuplot.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <optional>
#include <sstream>

#include "tensor/error.h"

extern char** environ;

namespace parlo {

namespace {

// In single quotes gnuplot substitutes nothing; a quote is doubled.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (char c : text) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
    out += c;
    if (c == '\'') out += c;
  }
  return out + "'";
}

std::string number(double x) {
  if (!std::isfinite(x)) return "NaN";
  std::ostringstream out;
  out.precision(9);
  out << x;
  return out.str();
}

void append_data(std::string& script, size_t index, const PlotSeries& series) {
  script += concat("$d", index, " << EOD\n");
  for (size_t i = 0; i < series.rows.size(); ++i) {
    for (double x : series.rows[i]) script += number(x) + " ";
    if (!series.labels.empty()) {
      std::string label = series.labels[i];
      for (char& c : label) c = c == '"' || static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
      script += "\"" + label + "\"";
    }
    script += "\n";
  }
  script += "EOD\n";
}

std::string script_of(const Plot& plot) {
  std::string s =
      concat("set terminal svg dynamic size ", plot.width, ",", plot.height,
             " font 'sans-serif,13' background '#ffffff' noenhanced\n",
             "set encoding utf8\nset datafile missing 'NaN'\n",
             "set border 3 lc rgb '#444444'\nset tics nomirror textcolor rgb '#222222'\n",
             "set grid lc rgb '#dddddd' lw 0.7 dt solid\n", "set key ", plot.key,
             " textcolor rgb '#222222' samplen 2\n", "set xlabel ", quoted(plot.x_label),
             " offset 0,0.5 textcolor rgb '#222222'\n", "set ylabel ", quoted(plot.y_label),
             " textcolor rgb '#222222'\n",
             "set autoscale fix\nset offsets graph 0.04, graph 0.04, graph 0.08, graph 0.05\n");
  if (plot.log_y) s += "set logscale y\nset format y '%.0e'\n";
  if (plot.whole_x) s += "set xtics 1\n";
  for (double x : plot.vertical_lines) {
    s += concat("set arrow from ", number(x), ", graph 0 to ", number(x),
                ", graph 1 nohead back dt 2 lc rgb '#999999'\n");
  }
  std::string command;
  for (size_t i = 0; i < plot.series.size(); ++i) {
    const PlotSeries& series = plot.series[i];
    if (series.rows.empty()) continue;
    append_data(s, i, series);
    std::string columns;
    const size_t count = series.rows[0].size() + (series.labels.empty() ? 0 : 1);
    for (size_t c = 1; c <= count; ++c) columns += concat(c == 1 ? "" : ":", c);
    const std::string title = series.title.empty() ? " notitle" : " title " + quoted(series.title);
    command += concat(command.empty() ? "plot " : ", ", "$d", i, " using ", columns, " ",
                      series.style, title);
  }
  // The plot command comes last: gnuplot has read all input before it writes.
  return s + command + "\n";
}

class Descriptors {
 public:
  ~Descriptors() {
    for (int fd : fds_) close(fd);
  }
  int add(int fd) {
    CHECK(fd >= 0, "gnuplot: cannot open a pipe: ", std::strerror(errno));
    fds_.push_back(fd);
    return fd;
  }
  void close(int& fd) {
    if (fd >= 0) ::close(fd);
    fd = -1;
  }
  void close_now(int fd) {
    for (int& own : fds_) {
      if (own == fd) close(own);
    }
  }

 private:
  std::vector<int> fds_;
};

std::string read_all(int fd) {
  std::string out;
  char buffer[16384];
  while (true) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return out;
    out.append(buffer, static_cast<size_t>(n));
  }
}

struct Outcome {
  int status = 0;
  std::string output, errors;
};

// Runs gnuplot on the script; nothing when there is no such program.
std::optional<Outcome> run_gnuplot(const std::vector<std::string>& flags,
                                   const std::string& script) {
  Descriptors fds;
  // A socket instead of a pipe: writing to a process that died gives an error, not SIGPIPE.
  int in[2], out[2];
  CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, in) == 0, "gnuplot: no socket");
  fds.add(in[0]), fds.add(in[1]);
  CHECK(::pipe2(out, O_CLOEXEC) == 0, "gnuplot: no pipe");
  fds.add(out[0]), fds.add(out[1]);
  const int errors = fds.add(::memfd_create("gnuplot-errors", MFD_CLOEXEC));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[1], 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  posix_spawn_file_actions_adddup2(&actions, errors, 2);
  std::vector<std::string> words{"gnuplot"};
  words.insert(words.end(), flags.begin(), flags.end());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t child = 0;
  const int spawned =
      ::posix_spawnp(&child, "gnuplot", &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (spawned != 0) return std::nullopt;
  fds.close_now(in[1]);
  fds.close_now(out[1]);
  for (size_t sent = 0; sent < script.size();) {
    const ssize_t n = ::send(in[0], script.data() + sent, script.size() - sent, MSG_NOSIGNAL);
    if (n <= 0 && errno != EINTR) break;  // it stopped reading; its own message says why
    if (n > 0) sent += static_cast<size_t>(n);
  }
  ::shutdown(in[0], SHUT_WR);
  Outcome outcome;
  outcome.output = read_all(out[0]);
  while (::waitpid(child, &outcome.status, 0) < 0 && errno == EINTR) {
  }
  ::lseek(errors, 0, SEEK_SET);
  outcome.errors = read_all(errors);
  return outcome;
}

// Several drawings in one page share one space of names.
std::string rename_ids(std::string svg, const std::string& id) {
  for (const std::string mark : {"id=\"", "id='", "href='#", "href=\"#", "url(#"}) {
    size_t at = 0;
    while ((at = svg.find(mark, at)) != std::string::npos) {
      at += mark.size();
      svg.insert(at, id + "_");
    }
  }
  return svg;
}

}  // namespace

bool have_gnuplot() {
  const auto outcome = run_gnuplot({"--version"}, "");
  return outcome && outcome->status == 0;
}

std::string draw_svg(const Plot& plot, const std::string& id) {
  const auto outcome = run_gnuplot({"-"}, script_of(plot));
  CHECK(outcome.has_value(), "gnuplot is not installed");
  const size_t begin = outcome->output.find("<svg");
  if (outcome->status != 0 || begin == std::string::npos) {
    std::string words = outcome->errors.substr(0, 300);
    for (char& c : words) c = c == '\n' ? ' ' : c;
    throw Error(concat("gnuplot failed on plot ", id, ": ", words));
  }
  return rename_ids(outcome->output.substr(begin), id);
}

}  // namespace parlo
