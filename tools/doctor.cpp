// parlo doctor: what this machine and this build can do, and how fast it multiplies.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "autograd/functions.h"
#include "tensor/device_memory.h"
#include "tensor/parallel.h"
#include "tools/assets.h"
#include "tools/commands.h"
#include "tools/options.h"
#include "tools/run_folder.h"

namespace parlo {
namespace {

using nlohmann::ordered_json;

struct DoctorOptions {
  CommonOptions common;
  bool json = false;
};

ordered_json instruction_sets() {
  ordered_json isa = ordered_json::array();
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) isa.push_back("avx2");
  if (__builtin_cpu_supports("fma")) isa.push_back("fma");
  if (__builtin_cpu_supports("avx512f")) isa.push_back("avx512f");
  if (__builtin_cpu_supports("avx512bf16")) isa.push_back("avx512bf16");
  return isa;
}

// A field of /proc/meminfo in bytes; 0 where it is not there.
int64_t memory(const std::string& field) {
  std::ifstream in("/proc/meminfo");
  for (std::string name; in >> name;) {
    int64_t kilobytes = 0;
    if (name == field + ":" && in >> kilobytes) return kilobytes * 1024;
    in.ignore(256, '\n');
  }
  return 0;
}

std::string processor() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    const size_t at = line.find(": ");
    if (line.starts_with("model name") && at != std::string::npos) return line.substr(at + 2);
  }
  return "unknown";
}

// Each reward: "on", or why it cannot be used.
ordered_json rewards() {
  ordered_json out;
  for (const char* name : {"ocr", "geneval", "geneval_strict", "pickscore", "jpeg_compressibility",
                           "jpeg_incompressibility", "colorfulness"}) {
    try {
      named_reward(name);
      out[name] = "on";
    } catch (const Error& e) {
      out[name] = std::string("off: ") + e.what();
    }
  }
  return out;
}

// Of one f32 product of 768 x 768 matrices, the best of a few: a ceiling, not an average.
double gemm_gflops() {
  constexpr int64_t kSize = 768;
  constexpr int kRuns = 6;
  const Tensor a = Tensor::full({kSize, kSize}, 1), c = Tensor::empty({kSize, kSize});
  double best = 0;
  for (int i = 0; i < kRuns; ++i) {
    const auto start = std::chrono::steady_clock::now();
    matmul_into(a, false, a, true, c, 1, 0);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, 2e-9 * kSize * kSize * kSize / seconds.count());
  }
  return best;
}

ordered_json devices() {
  ordered_json out{"cpu"};
  for (int i = 0; i < gpu_count(); ++i) out.push_back(concat("cuda:", i, ": ", gpu_name(i)));
  return out;
}

ordered_json examine() {
  return {{"commit", build_commit()},
          {"processor", processor()},
          {"isa", instruction_sets()},
          {"cores", std::thread::hardware_concurrency()},
          {"threads", num_threads()},
          {"devices", devices()},
          {"why_no_gpu", why_no_gpu()},
          {"memory_bytes", memory("MemTotal")},
          {"memory_available_bytes", memory("MemAvailable")},
          {"gemm_f32_gflops", gemm_gflops()},
          {"assets", assets_folder().string()},
          {"rewards", rewards()}};
}

void print(const ordered_json& j) {
  std::string isa;
  for (const auto& name : j["isa"]) isa += (isa.empty() ? "" : ", ") + name.get<std::string>();
  std::printf("processor  %s: %s\n", j["processor"].get<std::string>().c_str(), isa.c_str());
  std::printf("threads    %d of %d cores (--threads, PARLO_NUM_THREADS)\n", j["threads"].get<int>(),
              j["cores"].get<int>());
  for (const auto& device : j["devices"]) {
    std::printf("device     %s\n", device.get<std::string>().c_str());
  }
  if (gpu_count() == 0) std::printf("no GPU     %s\n", why_no_gpu().c_str());
  std::printf("memory     %.1f GB, %.1f GB available\n", j["memory_bytes"].get<double>() * 1e-9,
              j["memory_available_bytes"].get<double>() * 1e-9);
  std::printf("f32 GEMM   %.0f GFLOP/s, 768 x 768 x 768\n", j["gemm_f32_gflops"].get<double>());
  std::printf("assets     %s\n", j["assets"].get<std::string>().c_str());
  for (const auto& [name, state] : j["rewards"].items()) {
    std::printf("reward     %s: %s\n", name.c_str(), state.get<std::string>().c_str());
  }
}

}  // namespace

void add_doctor(CLI::App& parent) {
  auto o = std::make_shared<DoctorOptions>();
  CLI::App* app = parent.add_subcommand(
      "doctor", "Processor, threads, memory, speed, and which rewards are on");
  app->add_flag("--json", o->json, "Print as JSON");
  add_common(*app, o->common);
  app->callback([o] {
    apply(o->common);
    const ordered_json j = examine();
    o->json ? static_cast<void>(std::printf("%s\n", j.dump(2).c_str())) : print(j);
  });
}

}  // namespace parlo
