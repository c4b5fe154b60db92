// Loading a checkpoint of 2 GiB in bf16 (64 matrices of a transformer's size) that is written to
// the temporary folder first: bytes of the file a second, as the model's f32 or bf16, with
// the file in the system's cache (warm) or not (cold). extra_MB: the most that tensors
// held at once beyond the loaded weights. read: the same file by read(), nothing else.
#include <fcntl.h>
#include <unistd.h>
#include <vector>

#include "bench/measure.h"
#include "models/params.h"
#include "tensor/allocator.h"

namespace parlo::bench {
namespace {

namespace fs = std::filesystem;

constexpr int kMatrices = 64;
constexpr int64_t kSide = 4096;

class BigFile {
 public:
  BigFile() : path_(fs::temp_directory_path() / ("parlo_load_" + std::to_string(::getpid()))) {
    const Tensor values = random({kSide, kSide}).to(DType::bf16);
    NamedTensors tensors;
    for (int i = 0; i < kMatrices; ++i) tensors.emplace_back(name(i), values);
    save_safetensors(path_, tensors);
  }
  ~BigFile() {
    std::error_code ignored;
    fs::remove(path_, ignored);
  }
  BigFile(const BigFile&) = delete;
  BigFile& operator=(const BigFile&) = delete;

  static std::string name(int i) { return "blocks." + std::to_string(i) + ".weight"; }
  const fs::path& path() const { return path_; }
  int64_t bytes() const { return static_cast<int64_t>(fs::file_size(path_)); }
  // Takes it out of the system's cache, or reads it whole.
  void prepare(bool cold) const {
    const int fd = ::open(path_.c_str(), O_RDONLY);
    cold ? void(::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)) : read_all(fd);
    ::close(fd);
  }
  static void read_all(int fd) {
    std::vector<char> buffer(size_t{8} << 20);
    while (::read(fd, buffer.data(), buffer.size()) > 0) {
    }
  }

 private:
  fs::path path_;
};

const BigFile& big_file() {
  static const BigFile file;
  return file;
}

void load(benchmark::State& state, DType dtype, bool cold) {
  Params params;
  for (int i = 0; i < kMatrices; ++i) {
    params.declare(BigFile::name(i), {kSide, kSide}, Init::zeros());
  }
  int64_t extra = 0;
  for (auto _ : state) {
    state.PauseTiming();
    big_file().prepare(cold);
    const int64_t before = cpu_memory::stats().current_bytes;
    cpu_memory::reset_peak();
    state.ResumeTiming();
    params.load(big_file().path(), "model", Placement{{}, dtype});
    state.PauseTiming();
    const MemoryStats after = cpu_memory::stats();
    extra = after.peak_bytes - std::max(before, after.current_bytes);
    for (const NamedVar& p : params.vars()) p.var.state()->value = Tensor();
    state.ResumeTiming();
  }
  state.SetBytesProcessed(state.iterations() * big_file().bytes());
  state.counters["extra_MB"] = static_cast<double>(extra) * 1e-6;
}

void read(benchmark::State& state, bool cold) {
  for (auto _ : state) {
    state.PauseTiming();
    big_file().prepare(cold);
    state.ResumeTiming();
    const int fd = ::open(big_file().path().c_str(), O_RDONLY);
    BigFile::read_all(fd);
    ::close(fd);
  }
  state.SetBytesProcessed(state.iterations() * big_file().bytes());
}

void twice(benchmark::internal::Benchmark* b) {
  b->Iterations(2)->UseRealTime()->Unit(benchmark::kMillisecond);
}

BENCHMARK_CAPTURE(read, cold, true)->Apply(twice);
BENCHMARK_CAPTURE(read, warm, false)->Apply(twice);
BENCHMARK_CAPTURE(load, f32_cold, DType::f32, true)->Apply(twice);
BENCHMARK_CAPTURE(load, f32_warm, DType::f32, false)->Apply(twice);
BENCHMARK_CAPTURE(load, bf16_cold, DType::bf16, true)->Apply(twice);
BENCHMARK_CAPTURE(load, bf16_warm, DType::bf16, false)->Apply(twice);

}  // namespace
}  // namespace parlo::bench
