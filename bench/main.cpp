// parlo-bench [--benchmark_filter=REGEX ...]: Google Benchmark's options. What runs on the CPU
// takes well under two minutes on an idle machine; the names of what runs on a GPU begin with gpu/.
//   --compare FILE   the ratio table against peers' times (bench/peers/run_all.py), after the run
//   --results FILE   with --compare: the JSON of an earlier run (--benchmark_out), instead of a run
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "bench/peers.h"
#include "kernels/cpu/isa/isa.h"
#ifdef PARLO_BENCH_GPU
#include "bench/gpu_measure.h"
#endif
#include "tensor/error.h"

namespace parlo::bench {
namespace {

using nlohmann::json;
using Times = std::map<std::string, double>;  // microseconds by name

// gpu/gemm/flux_qkv/iterations:1/manual_time -> gemm/flux_qkv, as the peers call it.
std::string peer_name(std::string name) {
  if (name.starts_with("gpu/")) name.erase(0, 4);
  for (const char* tail : {"/iterations:", "/manual_time"}) name = name.substr(0, name.find(tail));
  return name;
}

json read_json(const std::string& path) {
  std::ifstream in(path);
  CHECK(in.good(), path, ": cannot be read");
  json j = json::parse(in, nullptr, false);
  CHECK(j.is_object(), path, ": is not a JSON object");
  return j;
}

Times read_results(const std::string& path) {
  static const std::map<std::string, double> us = {
      {"ns", 1e-3}, {"us", 1}, {"ms", 1e3}, {"s", 1e6}};
  Times times;
  const json file = read_json(path);
  for (const json& b : file.at("benchmarks")) {
    if (b.value("error_occurred", false)) continue;
    times[peer_name(b.at("name"))] = b.at("real_time").get<double>() * us.at(b.at("time_unit"));
  }
  return times;
}

class Collector : public benchmark::ConsoleReporter {
 public:
  Collector() : ConsoleReporter(OO_Tabular) {}
  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    for (const Run& run : runs) {
      if (run.real_accumulated_time <= 0) continue;
      times[peer_name(run.benchmark_name())] = 1e6 * run.real_accumulated_time / run.iterations;
    }
  }
  Times times;
};

struct Ratios {
  std::vector<double> best;  // by shape: time of the fastest peer over ours
  int failed = 0;            // variants
};

// The lines of one name; its ratio joins its family's.
void print_name(const std::string& name, double ours, const json& peers, Ratios& family) {
  double best = 1e30;
  std::printf("%-46s %10.1f\n", name.c_str(), ours);
  for (const json& peer : peers) {
    const std::string variant = peer.value("variant", "?");
    if (!peer.contains("median_ms")) {
      ++family.failed;
      const std::string why = peer.value("error", "no time");
      std::printf("  %-44s failed: %.100s\n", variant.c_str(),
                  why.substr(0, why.find('\n')).c_str());
      continue;
    }
    const double us = 1e3 * peer["median_ms"].get<double>();
    best = std::min(best, us);
    std::printf("  %-44s %10.1f %7.2fx\n", variant.c_str(), us, us / ours);
  }
  if (best < 1e29) family.best.push_back(best / ours);
}

int compare(const json& file, const Times& ours) {
  const json& peers = file.at("results");
  std::map<std::string, Ratios> families;
  std::printf("%-46s %10s %8s\n", "kernel, and the peers' variants", "us", "ratio");
  int missing = 0;
  for (const auto& [name, variants] : peers.items()) {
    const auto mine = ours.find(name);
    if (mine == ours.end()) {
      std::printf("%-46s was not measured here\n", name.c_str());
      ++missing;
      continue;
    }
    print_name(name, mine->second, variants, families[name.substr(0, name.find('/'))]);
  }
  std::printf("\nsummary: time of the fastest peer / time of parlo (above 1: parlo is faster)\n");
  std::printf("%-30s %6s %7s %7s %7s %7s\n", "kernel", "shapes", "least", "mean", "most", "failed");
  for (const auto& [family, r] : families) {
    if (r.best.empty()) {
      std::printf("%-30s %6d %23s %7d\n", family.c_str(), 0, "", r.failed);
      continue;
    }
    double logs = 0;
    for (const double x : r.best) logs += std::log(x);
    const auto [least, most] = std::minmax_element(r.best.begin(), r.best.end());
    std::printf("%-30s %6zu %7.2f %7.2f %7.2f %7d\n", family.c_str(), r.best.size(), *least,
                std::exp(logs / static_cast<double>(r.best.size())), *most, r.failed);
  }
  const json meta = file.value("meta", json::object());
  std::printf("peers: torch %s, CUDA %s, %s\n", meta.value("torch", "?").c_str(),
              meta.value("cuda", "?").c_str(), meta.value("gpu", "?").c_str());
  for (const json& why : meta.value("incomplete", json::array())) {
    std::printf("peers: incomplete: %s\n", why.get<std::string>().c_str());
  }
  if (missing > 0) std::printf("%d names of the peers were not measured here\n", missing);
  return families.empty() ? 1 : 0;
}

// Takes `--flag VALUE` or `--flag=VALUE` out of the arguments.
std::string take(std::vector<char*>& args, const std::string& flag) {
  for (size_t i = 1; i < args.size(); ++i) {
    const std::string arg = args[i];
    const bool joined = arg.starts_with(flag + "=");
    if (arg != flag && !joined) continue;
    CHECK(joined || i + 1 < args.size(), flag, " needs a file");
    const std::string value = joined ? arg.substr(flag.size() + 1) : args[i + 1];
    args.erase(args.begin() + static_cast<long>(i),
               args.begin() + static_cast<long>(i + 2 - joined));
    return value;
  }
  return "";
}

void add_gpu() {
#ifdef PARLO_BENCH_GPU
  if (gpu_count() == 0) {
    std::fprintf(stderr, "parlo-bench: no GPU (%s): the gpu/ benchmarks are skipped\n",
                 why_no_gpu().c_str());
    return;
  }
  benchmark::AddCustomContext("GPU", gpu_name(0));
  benchmark::AddCustomContext("GPU share_%", "of gpu/ceiling/gemm_8192 or gpu/ceiling/copy");
  add_gpu_ceilings();
  add_gpu_gemm();
  add_gpu_attention();
  add_gpu_decode();
  add_gpu_norm();
  add_gpu_elementwise();
  add_gpu_logprob();
  add_gpu_vae();
  add_gpu_train();
  add_gpu_grpo();
#endif
}

int run(std::vector<char*> args) {
  const std::string peers = take(args, "--compare"), results = take(args, "--results");
  if (!results.empty() && peers.empty()) throw UsageError("--results goes with --compare FILE");
  auto count = static_cast<int>(args.size());
  args.push_back(nullptr);
  benchmark::Initialize(&count, args.data());
  if (benchmark::ReportUnrecognizedArguments(count, args.data())) return 2;
  const json file = peers.empty() ? json() : read_json(peers);
  if (!results.empty()) return compare(file, read_results(results));
  benchmark::AddCustomContext("instruction set",
                              cpu::isa() == cpu::Isa::avx512 ? "avx512" : "avx2");
  benchmark::AddCustomContext("OpenBLAS core", openblas_name());
  benchmark::AddCustomContext("share_%", "of the FMA probe, or of a copy in the L2");
  add_gpu();
  if (peers.empty()) {
    benchmark::RunSpecifiedBenchmarks();
    return 0;
  }
  Collector collector;
  benchmark::RunSpecifiedBenchmarks(&collector);
  return compare(file, collector.times);
}

}  // namespace
}  // namespace parlo::bench

int main(int argc, char** argv) {
  try {
    return parlo::bench::run({argv, argv + argc});
  } catch (const parlo::UsageError& error) {
    std::fprintf(stderr, "parlo-bench: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "parlo-bench: %s\n", error.what());
    return 1;
  }
}
