#include "tensor/allocator.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "tensor/error.h"

namespace parlo::cpu_memory {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kStaggerStep = 320;  // odd number of cache lines: cycles through the whole page
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kLargest = size_t{1} << 47;  // a process has 47 bits of addresses

// Stands right before the bytes handed out.
struct alignas(64) Header {
  void* base;             // what aligned_alloc returned
  size_t capacity;        // size class
  int64_t requested = 0;  // bytes the owner asked for
};

struct State {
  std::mutex mutex;
  std::map<size_t, std::vector<Header*>> free_blocks;
  MemoryStats stats;
  size_t stagger = 0;
};

State& state() {
  static State* s = new State;  // never destroyed: tensors in static storage outlive it
  return *s;
}

// Eight classes per power of two: at most 12.5% waste.
size_t size_class(size_t bytes) {
  if (bytes <= 512) return (bytes + 63) / 64 * 64 + (bytes == 0 ? 64 : 0);
  const size_t step = std::bit_floor(bytes) / 8;
  return (bytes + step - 1) / step * step;
}

Header* new_block(State& s, size_t capacity) {
  const bool large = capacity >= kPage;
  const size_t offset = large ? s.stagger : 0;
  if (large) s.stagger = (s.stagger + kStaggerStep) % kPage;
  const size_t total = (capacity + offset + sizeof(Header) + kPage - 1) / kPage * kPage;
  const bool huge = total >= 4 * kHugePage;
  const size_t alignment = huge ? kHugePage : (large ? kPage : 64);
  const size_t rounded = (total + alignment - 1) / alignment * alignment;
  void* base = std::aligned_alloc(alignment, large ? rounded : capacity + sizeof(Header));
  if (!base) return nullptr;
  if (huge) madvise(base, rounded, MADV_HUGEPAGE);
  auto* header = reinterpret_cast<Header*>(static_cast<std::byte*>(base) + offset);
  return new (header) Header{base, capacity};
}

}  // namespace

namespace {

void free_cached(State& s) {
  for (auto& [capacity, blocks] : s.free_blocks)
    for (Header* header : blocks) std::free(header->base);
  s.free_blocks.clear();
  s.stats.cached_bytes = 0;
}

}  // namespace

void* allocate(size_t bytes) {
  CHECK(bytes <= kLargest, "allocate: ", bytes, " bytes are more than any machine has");
  const size_t capacity = size_class(bytes);
  State& s = state();
  std::lock_guard lock(s.mutex);
  Header* header = nullptr;
  auto it = s.free_blocks.find(capacity);
  if (it != s.free_blocks.end() && !it->second.empty()) {
    header = it->second.back();
    it->second.pop_back();
    s.stats.cached_bytes -= static_cast<int64_t>(capacity);
  } else {
    // A miss although more is cached than ever was in use: the sizes have changed.
    if (s.stats.cached_bytes > s.stats.peak_bytes) free_cached(s);
    header = new_block(s, capacity);
    if (!header) {
      free_cached(s);
      header = new_block(s, capacity);
    }
  }
  CHECK(header, "allocate: no memory for ", bytes, " bytes (", s.stats.current_bytes, " in use, ",
        s.stats.cached_bytes, " cached); use a smaller batch or model");
  header->requested = static_cast<int64_t>(bytes);
  s.stats.current_bytes += header->requested;
  s.stats.peak_bytes = std::max(s.stats.peak_bytes, s.stats.current_bytes);
  ++s.stats.allocations;
  return header + 1;
}

void release(void* p) {
  if (!p) return;
  Header* header = static_cast<Header*>(p) - 1;
  State& s = state();
  std::lock_guard lock(s.mutex);
  s.stats.current_bytes -= header->requested;
  s.stats.cached_bytes += static_cast<int64_t>(header->capacity);
  s.free_blocks[header->capacity].push_back(header);
}

MemoryStats stats() {
  std::lock_guard lock(state().mutex);
  return state().stats;
}

void reset_peak() {
  std::lock_guard lock(state().mutex);
  state().stats.peak_bytes = state().stats.current_bytes;
}

void empty_cache() {
  State& s = state();
  std::lock_guard lock(s.mutex);
  free_cached(s);
}

}  // namespace parlo::cpu_memory
