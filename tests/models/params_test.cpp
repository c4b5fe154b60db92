// Loading: every byte goes once from the mapped file to where it is used. Bytes are counted.
#include "models/params.h"

#include <cstring>
#include <fstream>

#include "tensor/allocator.h"
#include "tensor/device_memory.h"
#include "tensor/meta.h"
#include "tests/support.h"

namespace parlo::test {
namespace {

constexpr int64_t kMatrices = 5, kRows = 512, kColumns = 1024;
constexpr int64_t kLargest = kRows * kColumns * 4;  // bytes in f32
constexpr int64_t kSmall = int64_t{1} << 16;        // what bookkeeping may take

// 10 MiB in f32: matrices, a kernel, and vectors, which never are bf16.
void declare_all(Params& params) {
  const Scope root(params);
  for (int i = 0; i < kMatrices; ++i) {
    (root / "m" / i).param("weight", {kRows, kColumns}, Init::zeros());
    (root / "m" / i).param("bias", {kRows}, Init::zeros());
  }
  (root / "conv").param("weight", {16, 4, 3, 3}, Init::zeros());
}

NamedTensors values(DType dtype) {
  Params params;
  declare_all(params);
  NamedTensors out;
  uint32_t seed = 1;
  for (const NamedVar& p : params.vars()) {
    out.emplace_back(p.name, random_tensor(params.shape(p.name), seed++, dtype));
  }
  return out;
}

int64_t bytes_of(const Params& params) {
  int64_t sum = 0;
  for (const auto& [name, t] : params.tensors()) sum += static_cast<int64_t>(t.nbytes());
  return sum;
}

// Bytes that a load took on the host at most, beyond what was in use.
template <class Load>
int64_t host_peak(Load&& load) {
  const int64_t before = cpu_memory::stats().current_bytes;
  cpu_memory::reset_peak();
  load();
  return cpu_memory::stats().peak_bytes - before;
}

TEST_CASE("declared parameters take no memory") {
  Params params;
  CHECK(host_peak([&] { declare_all(params); }) == 0);
}

TEST_CASE("a parameter is copied once at most, on its way to its own place") {
  for (DType stored : {DType::f32, DType::bf16, DType::f16, DType::f64}) {
    const TemporaryFolder folder;
    const NamedTensors expected = values(stored);
    save_safetensors(folder / "model.safetensors", expected);
    for (DType matrices : {DType::f32, DType::bf16}) {
      INFO(dtype_name(stored), " to ", dtype_name(matrices));
      Params params;
      declare_all(params);
      const int64_t peak = host_peak([&] {
        params.load(folder.path(), "model", Placement{{}, matrices});
      });
      int64_t own = 0;
      size_t i = 0;
      for (const auto& [name, t] : params.tensors()) {
        const DType dtype = is_matrix(t.shape()) ? matrices : DType::f32;
        CHECK(t.dtype() == dtype);
        CHECK(same_values(t, expected[i++].second.to(dtype)));
        CHECK(t.read_only() == (dtype == stored));  // the file's own bytes serve
        if (!t.read_only()) own += static_cast<int64_t>(t.nbytes());
      }
      CHECK(peak < own + kLargest);
      CHECK(bytes_of(params) > 4 * kLargest / (matrices == DType::bf16 ? 2 : 1));

      Params there;
      declare_all(there);
      const int64_t before = memory_stats(kMeta).current_bytes;
      CHECK(host_peak([&] {
              there.load(folder.path(), "model", Placement{kMeta, matrices});
            }) < kSmall);
      CHECK(memory_stats(kMeta).current_bytes - before == bytes_of(params));
    }
  }
}

// The header is padded to `bytes` more than a multiple of 8.
void misalign(const std::filesystem::path& file, uint64_t bytes) {
  std::string content = read_file(file);
  uint64_t length = 0;
  std::memcpy(&length, content.data(), 8);
  content.insert(8 + length, bytes, ' ');
  length += bytes;
  std::memcpy(content.data(), &length, 8);
  write_file(file, content);
}

TEST_CASE("a file whose tensors are not aligned costs one copy of one tensor at a time") {
  const TemporaryFolder folder;
  const NamedTensors expected = values(DType::f32);
  save_safetensors(folder / "model.safetensors", expected);
  misalign(folder / "model.safetensors", 3);
  Params params;
  declare_all(params);
  const int64_t peak = host_peak([&] {
    params.load(folder.path(), "model", Placement{{}, DType::bf16});
  });
  CHECK(peak < bytes_of(params) + 2 * kLargest);
  CHECK(same_values(params.at("m.3.weight").value(), expected[6].second.to(DType::bf16)));
}

// Bytes of files in this process's memory now.
int64_t mapped_bytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  while (status >> word) {
    int64_t kib = 0;
    if (word == "RssFile:" && status >> kib) return kib * 1024;
  }
  return -1;
}

TEST_CASE("pages that were copied leave the process") {
  const TemporaryFolder folder;
  save_safetensors(folder / "model.safetensors", values(DType::bf16));
  const int64_t file = kMatrices * kLargest / 2;
  Params params;
  declare_all(params);
  const SafeTensors tensors = SafeTensors::open(folder / "model.safetensors");
  const int64_t before = mapped_bytes();
  params.load(tensors, "model", stored_by_name(tensors));
  CHECK(mapped_bytes() - before < file / 4);
  // They are still there for whoever asks again.
  CHECK(same_values(tensors.get("m.1.weight").to(DType::f32), params.at("m.1.weight").value()));
}

TEST_CASE("rows of a larger tensor, and halves that change places") {
  const TemporaryFolder folder;
  const Tensor fused = random_tensor({7, 3}, 1), bias = random_tensor({5}, 2),
               flat = random_tensor({2, 3, 1, 1}, 3);
  save_safetensors(folder / "x.safetensors", {{"fused", fused}, {"bias", bias}, {"flat", flat}});
  Params params;
  params.declare("a", {3, 3}, Init::zeros());
  params.declare("b", {4, 3}, Init::zeros());
  params.declare("c", {5}, Init::zeros());
  params.declare("d", {2, 3}, Init::zeros());
  const SafeTensors file = SafeTensors::open(folder / "x.safetensors");
  params.load(file, "x",
              {{"b", "fused", {4, 3}, 3, true},
               {"a", "fused", {3, 3}},
               {"d", "flat", {2, 3}},
               {"c", "bias", {5}, 0, true}});
  CHECK(same_values(params.at("a").value(), fused.slice(0, 0, 3)));
  CHECK(same_values(params.at("b").value().slice(0, 0, 2), fused.slice(0, 5, 7)));
  CHECK(same_values(params.at("b").value().slice(0, 2, 4), fused.slice(0, 3, 5)));
  CHECK(params.at("c").value().to_vector()[0] == bias.to_vector()[2]);
  CHECK(params.at("c").value().to_vector()[3] == bias.to_vector()[0]);
  CHECK(same_values(params.at("d").value(), flat.view({2, 3})));
}

TEST_CASE("what does not fit is listed before anything is read") {
  const TemporaryFolder folder;
  save_safetensors(folder / "model.safetensors", {{"m.0.weight", Tensor::zeros({kRows, 2})},
                                                  {"m.1.bias", Tensor::zeros({kRows})},
                                                  {"extra.bias", Tensor::zeros({1})},
                                                  {"extra.inv_freq", Tensor::zeros({1})}});
  Params params;
  declare_all(params);
  const std::string message =
      message_of([&] { params.load(folder.path(), "model", {}, {".inv_freq"}); });
  CHECK(contains(message, "missing (9): m.0.bias, m.1.weight, m.2.weight"));
  CHECK(contains(message, "unexpected (1): extra.bias"));
  CHECK(contains(message, "wrong shape (1): m.0.weight is (512, 2), expected (512, 1024)"));
  CHECK(!contains(message, "\n"));
  CHECK(!params.at("m.1.bias").value().defined());
}

TEST_CASE("values that are not finite are named") {
  const TemporaryFolder folder;
  for (DType dtype : {DType::f32, DType::bf16}) {
    NamedTensors tensors = values(dtype);
    // The last element of a large matrix and of a vector.
    tensors[4].second.slice(0, kRows - 1, kRows).slice(1, kColumns - 1, kColumns).fill(INFINITY);
    tensors[7].second.slice(0, kRows - 1, kRows).fill(NAN);
    save_safetensors(folder / "model.safetensors", tensors);
    for (DType matrices : {DType::f32, DType::bf16}) {
      Params params;
      declare_all(params);
      const std::string message = message_of([&] {
        params.load(folder.path(), "model", Placement{{}, matrices});
      });
      CHECK(contains(message, "NaN or infinite values in (2): m.2.weight, m.3.bias"));
    }
  }
}

}  // namespace
}  // namespace parlo::test
