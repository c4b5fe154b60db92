#include "tensor/allocator.h"

#include <thread>

#include "tensor/tensor.h"
#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;

TEST_CASE("blocks are aligned, disjoint and writable to their last byte") {
  std::mt19937 engine(1);
  std::vector<std::pair<unsigned char*, size_t>> blocks;
  for (int i = 0; i < 400; ++i) {
    const size_t bytes = i < 20 ? static_cast<size_t>(i) : engine() % (size_t{1} << (6 + i % 14));
    auto* p = static_cast<unsigned char*>(cpu_memory::allocate(bytes));
    REQUIRE(reinterpret_cast<uintptr_t>(p) % 64 == 0);
    std::fill(p, p + bytes, static_cast<unsigned char>(i));
    blocks.emplace_back(p, bytes);
    if (i % 3 == 2) {  // make room and reuse it
      cpu_memory::release(blocks.front().first);
      blocks.erase(blocks.begin());
    }
  }
  for (const auto& [p, bytes] : blocks)
    if (bytes > 1) REQUIRE(p[0] == p[bytes - 1]);
  for (const auto& block : blocks) cpu_memory::release(block.first);
  cpu_memory::release(nullptr);
}

TEST_CASE("counters follow tensors; freed memory is used again") {
  cpu_memory::empty_cache();
  const MemoryStats before = cpu_memory::stats();
  CHECK(before.cached_bytes == 0);
  void* address = nullptr;
  {
    const Tensor a = Tensor::empty({1000, 10});
    const Tensor view = a.slice(0, 0, 5);
    address = a.raw();
    const MemoryStats s = cpu_memory::stats();
    CHECK(s.current_bytes - before.current_bytes == 40000);
    CHECK(s.allocations - before.allocations == 1);
  }
  CHECK(cpu_memory::stats().current_bytes == before.current_bytes);
  CHECK(cpu_memory::stats().cached_bytes >= 40000);
  CHECK(Tensor::empty({10, 1000}).raw() == address);
  cpu_memory::reset_peak();
  const int64_t base = cpu_memory::stats().peak_bytes;
  { const Tensor big = Tensor::empty({1 << 20}, DType::u8), more = Tensor::empty({7}, DType::u8); }
  CHECK(cpu_memory::stats().peak_bytes - base == (1 << 20) + 7);
  cpu_memory::empty_cache();
  CHECK(cpu_memory::stats().cached_bytes == 0);
}

TEST_CASE("large blocks start at different offsets inside a page") {
  cpu_memory::empty_cache();
  std::vector<Tensor> tensors;
  std::vector<uintptr_t> offsets;
  for (int i = 0; i < 12; ++i) {
    tensors.push_back(Tensor::empty({256, 256}));
    offsets.push_back(reinterpret_cast<uintptr_t>(tensors.back().raw()) % 4096);
  }
  std::sort(offsets.begin(), offsets.end());
  CHECK(std::unique(offsets.begin(), offsets.end()) == offsets.end());
}

TEST_CASE("absurd sizes are an error, not a small block") {
  for (size_t bytes : {SIZE_MAX, SIZE_MAX - 64, SIZE_MAX / 2, size_t{1} << 62, size_t{1} << 50}) {
    CAPTURE(bytes);
    const std::string message = message_of([&] { cpu_memory::allocate(bytes); });
    CHECK(contains(message, std::to_string(bytes)));
  }
}

TEST_CASE("threads allocate and release at once") {
  std::vector<std::thread> threads;
  const int64_t before = cpu_memory::stats().current_bytes;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([t] {
      std::vector<Tensor> kept;
      for (int i = 0; i < 300; ++i) {
        kept.push_back(Tensor::full({(i * 37 + t) % 3000}, t, DType::i32));
        if (i % 2) kept.erase(kept.begin());
      }
      for (const Tensor& k : kept)
        for (int32_t v : k.span<int32_t>())
          if (v != t) std::abort();
    });
  for (auto& t : threads) t.join();
  CHECK(cpu_memory::stats().current_bytes == before);
}
