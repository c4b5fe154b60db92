// Happens-before race detection. Kernels of the race build are compiled with -fsanitize=thread and
// linked without its runtime: the __tsan_* hooks below see every access. Shared memory is checked
// after FastTrack (Flanagan, Freund 2009) with one vector clock a thread; device memory for
// conflicts between blocks of a launch.
#include <elf.h>
#include <unistd.h>

#include <cstdio>

#include "tests/simt/machine.h"

extern "C" const char __executable_start[];

namespace simt {

constinit bool hooked = false;

void join(Clocks& a, const Clocks& b) {
  if (a.size() < b.size()) a.resize(b.size());
  for (size_t i = 0; i < b.size(); ++i) a[i] = std::max(a[i], b[i]);
}

std::string source_of(const void* pc) {
  if (!pc) return "?";
  char exe[512] = {}, cmd[700], line[1024] = "?";
  if (readlink("/proc/self/exe", exe, sizeof exe - 1) < 0) return "?";
  uintptr_t at = uintptr_t(pc) - 1;
  if (reinterpret_cast<const Elf64_Ehdr*>(__executable_start)->e_type == ET_DYN)
    at -= uintptr_t(__executable_start);
  std::snprintf(cmd, sizeof cmd, "addr2line -i -e '%s' %#zx 2>/dev/null", exe, size_t(at));
  if (FILE* p = popen(cmd, "r")) {
    // Innermost first: who called __ldg is of interest, not __ldg.
    while (std::fgets(line, sizeof line, p) && std::strstr(line, "tests/simt/intrinsics.h"))
      continue;
    line[std::strcspn(line, " \n")] = 0;
    pclose(p);
  }
  const char* base = std::strrchr(line, '/');
  return base ? base + 1 : line;
}

static std::string at_source(const void* pc) {
  return pc ? " at " + source_of(pc) : "";
}

static std::string actor(uint32_t id) {
  if (id < mbarrier_agent(0)) return "thread " + std::to_string(id);
  if (id < wgmma_agent(0)) return "a load on mbarrier #" + std::to_string(id - mbarrier_agent(0));
  if (id < store_agent(0)) return "wgmma of warp " + std::to_string(id - wgmma_agent(0));
  return "a bulk store of warp " + std::to_string(id - store_agent(0));
}

[[noreturn]] static void report(const char* kind, uint32_t off, uint32_t who, const void* pc,
                                const Shadow& s, uint32_t other, Loc loc) {
  fail(std::string(kind) + " on shared byte " + std::to_string(off) + ": " + actor(who) +
           at_source(pc) + " is not ordered after " + actor(other) +
           (s.wpc && s.wtid == other ? " (" + source_of(s.wpc) + ")" : ""),
       loc);
}

static void check_proxy(const Fiber& f, const Shadow& s, uint32_t off, Loc loc) {
  if (!s.wclk || s.wtid >= m.n || m.fibers[s.wtid].proxy_fence >= s.wclk)
    return;  // fenced by the writer ...
  if (s.wtid < f.proxy_seen.size() && f.proxy_seen[s.wtid] >= s.wclk)
    return;  // ... or by the reader
  fail("async-proxy read of shared byte " + std::to_string(off) + " written by " + actor(s.wtid) +
           " without fence.proxy.async",
       loc);
}

static void touch_byte(Fiber& f, uint32_t who, uint32_t c, uint32_t off, Access kind, bool async,
                       const void* pc, Loc loc) {
  Shadow& s = m.shadow[off];
  const bool write = kind != kRead;
  if (!write && !s.written &&
      !s.wclk) {  // no longer NaN bytes: a store without a hook; this byte is given up
    s.written = m.arena[off] != 0xFF;
    m.stat.unhooked += s.written;
  }
  if (!write && !s.written)
    fail("read of uninitialised shared byte " + std::to_string(off) + at_source(pc), loc);
  if (s.pending)
    fail("access to the target of a cp.async that was not waited for" + at_source(pc), loc);
  const bool both_atomic = kind == kAtomic && s.atomic;
  if (s.wclk && !both_atomic && f.vc[s.wtid] < s.wclk) {
    report(write ? "write-write race" : "read-after-write race", off, who, pc, s, s.wtid, loc);
  }
  if (async && !write) check_proxy(f, s, off, loc);
  if (write) {
    for (auto& r : s.r) {
      if (r.clk && f.vc[r.tid] < r.clk)
        report("write-after-read race", off, who, pc, s, r.tid, loc);
      r.clk = 0;
    }
    s.wclk = c;
    s.wtid = uint16_t(who);
    s.wpc = pc;
    s.written = true;
    s.atomic = kind == kAtomic;
    return;
  }
  auto* slot = &s.r[(who / 32) % 4];
  for (auto& r : s.r) {
    if (r.clk && r.tid != who && f.vc[r.tid] < r.clk) continue;
    slot = &r;
    break;
  }
  slot->clk = c;
  slot->tid = uint16_t(who);
}

void touch(Fiber& f, uint32_t who, uint32_t c, uint32_t off, uint32_t bytes, Access kind,
           bool async, const void* pc, Loc loc) {
  if (off + bytes > m.smem_top) {
    fail("shared address " + std::to_string(off) + "+" + std::to_string(bytes) + " out of bounds" +
             at_source(pc),
         loc);
  }
  if (!race_on() || !bytes) return;
  for (uint32_t i = 0; i < bytes; ++i) touch_byte(f, who, c, off + i, kind, async, pc, loc);
}

void touch_self(const void* p, uint32_t bytes, Access kind, const void* pc, Loc loc) {
  if (race_on())
    touch(*m.cur, m.cur->tid, clk(*m.cur), arena_offset(p), bytes, kind, false, pc, loc);
}

// Kernels walk through one buffer at a time, so the last answer is kept until memory is allocated
// or freed.
static std::pair<uintptr_t, Allocation*> allocation_of(uintptr_t p) {
  static uintptr_t base = 0;
  static Allocation* found = nullptr;
  static uint64_t version = ~0ull;
  if (version == m.memory_version && found && p - base < found->bytes) return {base, found};
  const std::lock_guard lock(m.memory);
  auto it = m.allocations.upper_bound(p);
  if (it == m.allocations.begin() || p >= (--it)->first + it->second.bytes) return {0, nullptr};
  base = it->first;
  found = &it->second;
  version = m.memory_version;
  return {base, found};
}

// Integer atomics order blocks, coarsely: what a block did before its last atomic on an address
// counts as visible to every block whose atomic on that address comes later.
bool touch_global(const void* p, uint32_t bytes, Access kind, const void* pc, Loc loc) {
  if (!race_on() || !bytes) return false;
  const auto [base, allocation] = allocation_of(uintptr_t(p));
  if (!allocation) return false;
  auto& last = allocation->last;
  if (last.empty()) last.resize(allocation->bytes);
  const size_t from = uintptr_t(p) - base;
  const size_t to = std::min(from + bytes, last.size()) - 1;
  const uint32_t block =
      uint32_t(blockIdx.x + uint64_t(gridDim.x) * (blockIdx.y + uint64_t(gridDim.y) * blockIdx.z)) +
      1;
  for (size_t g = from; g <= to; ++g) {
    for (int k = 0; k < 3; ++k) {
      const uint32_t other = last[g][size_t(k)];
      if ((kind == k && kind != kWrite) || !other || other == block || m.acquired[other - 1])
        continue;
      static const char* const kVerbs[] = {"reads", "writes", "atomically updates"};
      fail("race between blocks: block " + std::to_string(block - 1) + " " + kVerbs[kind] +
               " device memory" + at_source(pc) + " that block " + std::to_string(other - 1) + " " +
               kVerbs[k] + " in the same launch",
           loc);
    }
    last[g][kind] = block;
  }
  return true;
}

void atomic_access(void* p, uint32_t bytes, bool orders, Loc loc) {
  if (!race_on() || !in_kernel()) return;
  if (in_arena(p)) return touch_self(p, bytes, kAtomic, nullptr, loc);
  touch_global(p, bytes, kAtomic, nullptr, loc);
  if (!orders) return;
  auto& released = m.released[p];
  released.resize(m.acquired.size());
  for (size_t i = 0; i < released.size(); ++i)
    m.acquired[i] = released[i] = m.acquired[i] || released[i];
}

void check_addressable([[maybe_unused]] const void* p, [[maybe_unused]] size_t n,
                       [[maybe_unused]] const char* what, [[maybe_unused]] Loc loc) {
#ifdef PARLO_SIMT_ASAN
  if (__asan_region_is_poisoned(const_cast<void*>(p), n))
    fail(std::string(what) + " out of bounds", loc);
#endif
}

}  // namespace simt
