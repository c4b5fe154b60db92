#include "tensor/meta.h"

#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

#include "tensor/error.h"

namespace parlo::meta_memory {
namespace {

struct Counters {
  std::mutex mutex;
  MemoryStats stats;
  std::map<void*, size_t> live;
  // Addresses that were given back, by size: a pass asks for the sizes of the one before, and
  // mapping each anew takes two thirds of a plan's time.
  std::map<size_t, std::vector<void*>> free;
};

Counters& counters() {
  static Counters* c = new Counters;  // never destroyed: tensors in static storage outlive it
  return *c;
}

}  // namespace

// Addresses that nobody may touch: a host loop over such a tensor stops at once.
void* allocate(size_t bytes) {
  Counters& c = counters();
  const std::lock_guard lock(c.mutex);
  std::vector<void*>& known = c.free[bytes];
  void* p = nullptr;
  if (known.empty()) {
    p = mmap(nullptr, std::max<size_t>(bytes, 1), PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(p != MAP_FAILED, "meta device: no addresses for ", bytes, " bytes");
  } else {
    p = known.back();
    known.pop_back();
  }
  c.live.emplace(p, bytes);
  c.stats.current_bytes += static_cast<int64_t>(bytes);
  c.stats.peak_bytes = std::max(c.stats.peak_bytes, c.stats.current_bytes);
  ++c.stats.allocations;
  return p;
}

void release(void* p) {
  Counters& c = counters();
  const std::lock_guard lock(c.mutex);
  const auto found = c.live.find(p);
  if (found == c.live.end()) return;
  c.stats.current_bytes -= static_cast<int64_t>(found->second);
  c.free[found->second].push_back(p);
  c.live.erase(found);
}

MemoryStats stats() {
  Counters& c = counters();
  const std::lock_guard lock(c.mutex);
  return c.stats;
}

void reset_peak() {
  Counters& c = counters();
  const std::lock_guard lock(c.mutex);
  c.stats.peak_bytes = c.stats.current_bytes;
}

}  // namespace parlo::meta_memory
