// The state of the simulated multiprocessor, shared by the simulator's own sources. One block runs
// at a time, so there is one machine; simt::run holds its lock. None of this is instrumented by
// sanitizers: shared memory is checked by hand, and fibers switch stacks under the compiler's feet.
#pragma once
#include <array>
#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <unordered_map>
#include <vector>

#include "tests/simt/simt.h"

#if defined(__SANITIZE_ADDRESS__) && !defined(PARLO_SIMT_ASAN)
#define PARLO_SIMT_ASAN 1
#endif
#ifdef PARLO_SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#endif

namespace simt {

// The dynamic part of shared memory starts after 1 KiB, as on sm_90, where the system keeps it.
constexpr uint32_t kArenaBytes = 256 << 10, kDynamicBase = 1024, kMaxShared = 227 << 10,
                   kRedzone = 64;
constexpr uint32_t kMaxThreads = 1024, kMaxWarps = 32, kMaxMbarriers = 64, kStackBytes = 128 << 10;

constexpr uint64_t kMaxSpins = 4'000'000;

using Clocks =
    std::vector<uint32_t>;  // vector clock: threads, then agents (see agent functions below)

struct Copy {  // one cp.async
  void* dst;
  const void* src;
  int bytes, src_bytes, group;
  bool landed;
  uint32_t clock;  // of its thread's arrival at an mbarrier on its behalf, or 0
};
struct BulkStore {  // one TMA or bulk store: first its source is read, then its target written
  TensorMap map;
  std::array<int, 5> at;
  uint32_t src, clock;
  int group;
  bool read, written, released;  // released: a wait_group.read has covered it
  std::vector<unsigned char> data;
};
struct Fiber {
  void* sp = nullptr;
  char* stack = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  uint32_t tid = 0;
  uint3 idx{};
  bool done = true, fenced = false;  // fenced: wgmma.fence since the last wait
  const char* what = nullptr;        // why and where it is blocked
  std::string detail;
  Loc loc;
  int votes = 0;  // result of the last __syncthreads
  Clocks vc;
  uint32_t proxy_fence = 0;  // own clock at the last fence.proxy.async ...
  Clocks proxy_seen;         // ... and what the thread had seen of others
  std::vector<Copy> copies;
  std::vector<std::shared_ptr<std::vector<Copy>>> reported;  // copies that report to an mbarrier
  std::vector<BulkStore> stores;
  int copy_groups = 0, wgmma_groups = 0, store_groups = 0;
};

using CollectiveFn = void (*)(void* const* lane_args, uint32_t mask);
struct Pending {  // a warp operation that some lanes have reached
  CollectiveFn fn;
  uint32_t mask, arrived;
  void* args[32];
  const char* name;
  Loc loc;
  bool aligned;
};
struct Wgmma {
  float* d[32];
  uint32_t a[32][4];
  std::vector<float>
      saved;  // accumulators as they were at issue; empty when an older pending one owns them
  uint64_t desc_a, desc_b;
  int n, group, warp_in_group;
  uint32_t clock;
  Format format;
  bool a_regs, scale_d, trans_a, trans_b, executed;
};
struct Request {
  uintptr_t addr[32];
  int lanes = 0;
};
struct Requests {
  uint32_t next[32] = {}, done = 0;
  std::deque<Request> open;
};
struct Warp {
  std::vector<Pending> pending;
  std::deque<Wgmma> wgmma;
  uint32_t exited = 0, wgmma_clock = 0, store_clock = 0;
  uint64_t priority = 0;
  std::unordered_map<uintptr_t, Requests> requests;  // lint
};
struct Barrier {
  std::vector<Fiber*> waiting;
  int arrived = 0, count = 0, votes = 0;
  const char* name = nullptr;  // of __syncthreads and its kin; null for bar.sync and bar.arrive
  Loc loc;
  Clocks vc;
};
struct Mbarrier {
  uint32_t off = 0, count = 0, pending = 0, phase = 0;
  int64_t tx = 0;
  bool valid = true;
  std::vector<Fiber*> waiting;
  Clocks cur, visible;  // released into the running phase / by completed phases
};
struct Shadow {  // per byte of shared memory, after FastTrack: the last write and some
                 // concurrent readers
  uint32_t wclk = 0;
  uint16_t wtid = 0;
  bool written = false, pending = false, atomic = false;
  const void* wpc = nullptr;
  struct {
    uint32_t clk = 0;
    uint16_t tid = 0;
  } r[4];
};
// last: the block (+ 1) that last read, wrote or atomically updated each byte in this launch.
struct Allocation {
  size_t bytes;
  std::vector<std::array<uint32_t, 3>> last;
};
struct LintLine {
  std::string where;
  uint64_t requests = 0, cost = 0, ideal = 0;
  bool shared = false;
};

struct Machine {
  Machine();
  Options opt;
  Stats stat;
  std::mt19937_64 rng;
  std::mutex running;
  std::string error;
  bool in_hook = false;
  void (*fn)(void*) = nullptr;
  void* ctx = nullptr;
  Fiber main, *cur = nullptr;
  std::vector<Fiber> fibers;
  std::vector<std::pair<uint64_t, Fiber*>> ready;  // heap by schedule key
  uint32_t n = 0, live = 0, dynamic_bytes = 0, smem_top = 0, smem_bytes = 0;
  uint64_t ticks = 0, spins = 0;
  std::deque<Fiber*>
      spinning;  // threads that poll; spins: turns they had while nothing else happened
  unsigned char* arena = nullptr;
  std::vector<uint32_t> slots;  // static shared variables of the running block
  std::vector<Shadow> shadow;
  std::vector<Warp> warps;
  Barrier bars[16];
  std::vector<Mbarrier> mbars;
  std::vector<std::function<void()>>
      async;  // completions of loads and cp.async arrivals that are under way
  std::map<uintptr_t, LintLine> lint;
  std::mutex memory;  // guards allocations: host threads allocate while a kernel runs
  std::map<uintptr_t, Allocation> allocations;
  std::atomic<uint64_t> memory_version = 0;
  std::unordered_map<const void*, std::vector<bool>> released;
  std::vector<bool> acquired;  // blocks ordered before the running one
};
extern Machine& m;
extern thread_local bool running_here;  // this host thread is inside simt::run
inline bool in_kernel() {
  return running_here && m.cur && m.cur != &m.main;
}
// Set by __tsan_init: some kernels were built with -fsanitize=thread. Read before any constructor
// runs.
extern bool hooked;

// --- fibers.cpp ---
inline bool late() {
  return m.opt.seed == 1 || (m.opt.seed > 1 && m.rng() % 2);
}
inline bool race_on() {
  return hooked && m.opt.racecheck;
}
inline Warp& warp_of(const Fiber& f) {
  return m.warps[f.tid / 32];
}
void make_ready(Fiber* f);
void block_on(const char* what, Loc loc);
void switch_to(Fiber* to);
void prepare_fibers();
void start_async(std::function<void()> completion);

// --- collectives.cpp ---
// The last lane of `mask` to arrive runs fn for all. aligned: all lanes must come from one source
// line.
void warp_collective(CollectiveFn fn, uint32_t mask, void* args, const char* name, Loc loc,
                     bool aligned);
template <class T, class F>
void each(void* const* args, uint32_t lanes, F f) {
  for (int l = 0; l < 32; ++l)
    if (lanes >> l & 1) f(*static_cast<T*>(args[l]), l);
}
template <class T>
T& first(void* const* args, uint32_t lanes) {
  return *static_cast<T*>(args[std::countr_zero(lanes)]);
}

// --- copies.cpp, bulk.cpp ---
void mbar_release(uint32_t index, uint32_t agent, uint32_t clock, int64_t tx);
Mbarrier& usable_mbarrier(void* bar, const char* what, Loc loc);
void finish_stores(Fiber& f, int pending_groups, bool read);
inline uint32_t swizzled(uint32_t a, Swizzle s) {
  constexpr uint32_t kBits[] = {0, 0x10, 0x30, 0x70};
  return a ^ (a >> 3 & kBits[s]);
}
inline float from16(uint16_t v, Format format) {
  return format == kBf16 ? std::bit_cast<float>(uint32_t(v) << 16)
                         : float(std::bit_cast<_Float16>(v));
}

// --- race.cpp ---
enum Access { kRead, kWrite, kAtomic };
inline uint32_t& clk(Fiber& f) {
  return f.vc[f.tid];
}
inline uint32_t mbarrier_agent(uint32_t i) {
  return m.n + i;
}
inline uint32_t wgmma_agent(uint32_t warp) {
  return m.n + kMaxMbarriers + warp;
}
inline uint32_t store_agent(uint32_t warp) {
  return m.n + kMaxMbarriers + kMaxWarps + warp;
}
inline uint32_t clock_count() {
  return m.n + kMaxMbarriers + 2 * kMaxWarps;
}
void join(Clocks& a, const Clocks& b);
inline uint32_t arena_offset(const void* p) {
  return uint32_t(static_cast<const unsigned char*>(p) - m.arena);
}
inline bool in_arena(const void* p) {
  return uintptr_t(p) - uintptr_t(m.arena) < kArenaBytes;
}
// An access by `who` (a thread or an agent) at its clock `c`, ordered by what thread f has seen.
// async: by the async proxy.
void touch(Fiber& f, uint32_t who, uint32_t c, uint32_t off, uint32_t bytes, Access kind,
           bool async, const void* pc, Loc loc);
// The same by the running thread itself.
void touch_self(const void* p, uint32_t bytes, Access kind, const void* pc, Loc loc);
// False: not device memory.
bool touch_global(const void* p, uint32_t bytes, Access kind, const void* pc, Loc loc);
void check_addressable(const void* p, size_t n, const char* what, Loc loc);
std::string source_of(const void* pc);

// --- lint.cpp ---
uintptr_t lint_key(Loc loc);
void lint(uintptr_t key, const void* p, uint32_t bytes);

}  // namespace simt
