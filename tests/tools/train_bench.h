// `parlo train` as a person runs it: the binary, a tiny model folder of random weights, rewards
// that are pixel statistics.
#pragma once

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "rl/rewards/prompt.h"
#include "tests/rl/tiny_pipeline.h"

namespace parlo::test {

namespace fs = std::filesystem;
using nlohmann::json;

struct Outcome {
  int code = -1;    // exit code, or -1
  int signal = 0;   // that ended the process, or 0
  std::string err;  // standard error
};

// What a child may not do.
struct Limits {
  rlim_t file_bytes = RLIM_INFINITY;
  std::string tmpfs;  // a folder that is a file system of 64 KB, for this child alone
};

inline constexpr int kNoMount = 99;

[[noreturn]] inline void become_parlo(const std::vector<std::string>& args, const Limits& limits,
                                      int err) {
  const int nowhere = ::open("/dev/null", O_RDWR);
  ::dup2(nowhere, 0);
  ::dup2(nowhere, 1);
  ::dup2(err, 2);
  if (limits.file_bytes != RLIM_INFINITY) {
    const rlimit limit{limits.file_bytes, limits.file_bytes};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  if (!limits.tmpfs.empty()) {
    const bool mounted = ::unshare(CLONE_NEWNS) == 0 &&
                         ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                         ::mount("tmpfs", limits.tmpfs.c_str(), "tmpfs", 0, "size=64k") == 0;
    if (!mounted) ::_exit(kNoMount);
  }
  std::vector<char*> argv{const_cast<char*>(PARLO_BINARY)};
  for (const std::string& a : args) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  ::execv(PARLO_BINARY, argv.data());
  ::_exit(98);
}

// Starts parlo, kills it after `delay` seconds unless that is negative, and collects what it said.
inline Outcome parlo_run(const std::vector<std::string>& args, double delay = -1,
                         const Limits& limits = {}) {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) become_parlo(args, limits, ends[1]);
  ::close(ends[1]);
  std::thread killer;
  if (delay >= 0) {
    killer = std::thread([=] {
      std::this_thread::sleep_for(std::chrono::duration<double>(delay));
      ::kill(child, SIGKILL);  // not reaped before the join below: the number is still its own
    });
  }
  Outcome out;
  char buffer[4096];
  for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;) {
    out.err.append(buffer, static_cast<size_t>(n));
  }
  ::close(ends[0]);
  if (killer.joinable()) killer.join();
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  if (WIFEXITED(status)) out.code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) out.signal = WTERMSIG(status);
  return out;
}

// A base model and prompts, made once; every run gets a folder of its own.
struct Workshop {
  TemporaryFolder folder;
  std::string base = folder / "base";
  std::string prompts = folder / "prompts.jsonl";

  Workshop() {
    write_tiny_pipeline(base, 32);
    write_prompts(prompts, tiny_prompts(5));
  }

  // A run of a second or less: two rewards, two iterations, six steps an expert.
  std::vector<std::string> train(const std::string& out) const {
    return {"train",
            "--out",
            folder / out,
            "--base",
            base,
            "--rewards",
            "jpeg_compressibility,colorfulness",
            "--train-prompts",
            prompts,
            "--eval-prompts",
            prompts,
            "--iterations",
            "2",
            "--steps",
            "6",
            "--sampler-steps",
            "4",
            "--window",
            "2",
            "--window-high",
            "3",
            "--prompts-per-step",
            "2",
            "--group-size",
            "4",
            "--rank",
            "2",
            "--alpha",
            "4",
            "--eval-steps",
            "4",
            "--checkpoint-every",
            "2",
            "--optimizer",
            "average",
            "--ema",
            "0.5",
            "--kl",
            "0.01"};
  }
  // The same with some flags set otherwise, or added.
  std::vector<std::string> train(const std::string& out,
                                 const std::map<std::string, std::string>& flags) const {
    std::vector<std::string> args = train(out);
    for (const auto& [flag, value] : flags) {
      const auto at = std::find(args.begin(), args.end(), flag);
      if (at != args.end()) {
        *(at + 1) = value;
      } else {
        args.insert(args.end(), {flag, value});
      }
    }
    return args;
  }
};

inline const Workshop& workshop() {
  static const Workshop made;
  return made;
}

// Relative names and contents of a run's adapters.
inline std::map<std::string, std::string> adapters_of(const fs::path& run) {
  std::map<std::string, std::string> out;
  if (!fs::exists(run / "adapters")) return out;
  for (const auto& e : fs::recursive_directory_iterator(run / "adapters")) {
    const std::string name = fs::relative(e.path(), run).string();
    if (e.is_regular_file() && !contains(name, ".partial")) out[name] = read_file(e.path());
  }
  return out;
}

// The log by kind and place; a line that is there twice fails the test. Times and memory, which
// differ from run to run, are left out.
inline std::map<std::string, json> log_of(const fs::path& run) {
  std::map<std::string, json> out;
  std::istringstream in(read_file(run / "metrics.jsonl"));
  for (std::string line; std::getline(in, line);) {
    json j = json::parse(line);
    j.erase("seconds");
    j.erase("elapsed");
    j.erase("peak_bytes");
    const std::string key =
        concat(j.value("kind", "?"), " ", j.value("iteration", -1), " ", j.value("expert", ""),
               j.value("model", ""), " ", j.value("step", 0));
    INFO(key);
    CHECK(out.emplace(key, j).second);
  }
  return out;
}

// The same lines, number for number; names the first that differ.
inline void check_same_log(const fs::path& run, const std::map<std::string, json>& expected) {
  const auto log = log_of(run);
  for (const auto& [key, line] : expected) {
    INFO(key);
    REQUIRE(log.count(key) == 1);
    INFO("got ", log.at(key).dump(), ", expected ", line.dump());
    CHECK((log.at(key) == line));
  }
  CHECK(log.size() == expected.size());
}

// Names of files that no run may leave behind.
inline std::vector<std::string> leftovers(const fs::path& folder) {
  std::vector<std::string> out;
  if (!fs::exists(folder)) return out;
  for (const auto& e : fs::recursive_directory_iterator(folder)) {
    if (contains(e.path().filename().string(), ".partial")) out.push_back(e.path().string());
  }
  return out;
}

// One line that begins with the program's name and holds `part`.
inline void check_refused(const Outcome& out, int code, const std::string& part) {
  INFO("signal ", out.signal, ", said: ", out.err);
  CHECK(out.code == code);
  CHECK(contains(out.err, part));
  CHECK(std::count(out.err.begin(), out.err.end(), '\n') == 1);
  CHECK(out.err.starts_with("parlo: "));
}

// The reference run, made once.
inline const fs::path& finished_run() {
  static const fs::path run = [] {
    const Outcome out = parlo_run(workshop().train("reference"));
    INFO(out.err);
    REQUIRE(out.code == 0);
    return fs::path(workshop().folder / "reference");
  }();
  return run;
}

// A copy of the finished run in which one thing can be broken.
inline fs::path copy_of_run(const std::string& name) {
  const fs::path copy = workshop().folder / name;
  fs::copy(finished_run(), copy, fs::copy_options::recursive);
  fs::remove(copy / "summary.json");
  return copy;
}

}  // namespace parlo::test
