// Fibers and their schedule: one fiber per CUDA thread, blocks one after another, a blocking call
// switches straight to the next ready fiber. Failures switch back to simt::run, which throws; the
// failed threads' stacks are abandoned.
#include <pthread.h>
#include <sys/mman.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "tests/simt/machine.h"

// Context switch, System V x86-64. Returns with an indirect jump: a ret would mispredict every
// time.
extern "C" void simt_switch(void** save_sp, void* to_sp);
asm(".text; .globl simt_switch; .hidden simt_switch; .type simt_switch, @function; simt_switch:\n"
    "pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
    "movq %rsp, (%rdi); movq %rsi, %rsp\n"
    "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; popq %rcx; jmpq *%rcx\n"
    ".size simt_switch, .-simt_switch");

namespace simt {

// Ready before other static objects are made, and there until they are gone: they may allocate and
// free device memory.
union Storage {
  Machine machine;
  Storage() : machine() {}
  ~Storage() {}
};
__attribute__((init_priority(101))) static Storage storage;
constinit Machine& m = storage.machine;
thread_local bool running_here = false;

Machine::Machine() {
  if (const char* seed = std::getenv("PARLO_SIMT_SEED"))
    opt.seed = std::strtoull(seed, nullptr, 10);
  const char* lint = std::getenv("PARLO_SIMT_LINT");
  opt.lint = lint && *lint == '1';
  if (opt.lint) std::atexit(print_lint);
}

void switch_to(Fiber* to) {
  Fiber* from = m.cur;
  m.cur = to;
  ++m.stat.switches;
  threadIdx = to->idx;
#ifdef PARLO_SIMT_ASAN
  static thread_local const void* host_stack = nullptr;
  static thread_local size_t host_bytes = 0;
  if (!host_stack) {
    pthread_attr_t attr;
    void* bottom = nullptr;
    pthread_getattr_np(pthread_self(), &attr);
    pthread_attr_getstack(&attr, &bottom, &host_bytes);
    pthread_attr_destroy(&attr);
    host_stack = bottom;
  }
  const bool home = to == &m.main;
  __sanitizer_start_switch_fiber(&from->fake_stack, home ? host_stack : to->stack,
                                 home ? host_bytes : kStackBytes);
#endif
  simt_switch(&from->sp, to->sp);
#ifdef PARLO_SIMT_ASAN
  __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

void make_ready(Fiber* f) {
  f->what = nullptr;
  uint64_t key = f->tid;
  if (m.opt.seed == 0) {
    key = ~key;
  } else if (m.opt.seed > 1) {
    key = m.opt.seed % 2 ? (warp_of(*f).priority << 16 | f->tid) : m.rng();
  }
  m.ready.emplace_back(key, f);
  std::push_heap(m.ready.begin(), m.ready.end());
}

static void complete_async() {
  const size_t i = m.rng() % m.async.size();
  const auto completion = std::move(m.async[i]);
  m.async.erase(m.async.begin() + long(i));
  completion();
}

void start_async(std::function<void()> completion) {
  if (m.opt.seed == 0) return completion();
  m.async.push_back(std::move(completion));
}

// Spinning threads run only when no other can, in turn, and asynchronous operations go first.
static void reschedule() {
  for (;;) {
    if (!m.async.empty() && (m.ready.empty() || (m.opt.seed > 1 && m.rng() % 16 == 0))) {
      m.spins = 0;
      complete_async();
    }
    if (!m.ready.empty()) break;
    if (!m.async.empty()) continue;
    if (m.spinning.empty() || ++m.spins > kMaxSpins)
      return switch_to(&m.main);  // finished, or deadlock
    make_ready(m.spinning.front());
    m.spinning.pop_front();
  }
  std::pop_heap(m.ready.begin(), m.ready.end());
  Fiber* f = m.ready.back().second;
  m.ready.pop_back();
  if (f != m.cur) switch_to(f);
}

void block_on(const char* what, Loc loc) {
  m.cur->what = what;
  m.cur->loc = loc;
  reschedule();
}

void yield(Loc loc) {
  if (!in_kernel()) return;
  m.spinning.push_back(m.cur);
  block_on("a spin loop", loc);
}

uint64_t clock() {
  return ++m.ticks;
}

static void thread_exit() {
  Fiber& f = *m.cur;
  Warp& w = warp_of(f);
  f.done = true;
  --m.live;
  w.exited |= 1u << f.tid % 32;
  for (const Copy& c : f.copies)
    if (!c.landed) fail("thread exits with cp.async copies in flight");
  for (const BulkStore& s : f.stores)
    if (!s.released)
      fail("thread exits before wait_group.read: a bulk store still reads its shared memory");
  finish_stores(f, 0, false);
  if (!w.wgmma.empty()) fail("thread exits with wgmma in flight");
  for (const Pending& p : w.pending) {
    if (!(p.mask & w.exited)) continue;
    fail("thread exits while other lanes of its warp wait for it in " + std::string(p.name) +
         " at line " + std::to_string(p.loc.line()));
  }
  reschedule();
}

static void run_thread() {
  std::string what;
  try {
    return m.fn(m.ctx);
  } catch (const std::exception& e) {
    what = e.what();
  }
  fail("exception in a kernel: " + what);
}

static void fiber_main() {
#ifdef PARLO_SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  for (;;) {
    run_thread();
    thread_exit();
  }
}

static void init_fiber(Fiber& f) {
  if (!f.stack) {
    constexpr size_t kPage = 4096;
    void* p = mmap(nullptr, kStackBytes + kPage, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    mprotect(p, kPage, PROT_NONE);
    f.stack = static_cast<char*>(p) + kPage;
  }
#ifdef PARLO_SIMT_ASAN
  __asan_unpoison_memory_region(f.stack, kStackBytes);
#endif
  void** sp = reinterpret_cast<void**>(f.stack + kStackBytes);
  *--sp = nullptr;  // keeps the entry point's stack 16-byte aligned
  *--sp = reinterpret_cast<void*>(&fiber_main);
  f.sp = sp - 6;
  f.fake_stack = nullptr;
}

static void report_deadlock() {
  std::string s =
      "deadlock: no thread of the block can run; " + std::to_string(m.n - m.live) + " exited";
  std::map<std::string, std::pair<uint32_t, int>> groups;  // by reason: first thread, how many
  for (uint32_t t = 0; t < m.n; ++t) {
    const Fiber& f = m.fibers[t];
    if (f.done) continue;
    const std::string key = std::string(f.what) + f.detail + " at " + f.loc.file_name() + ":" +
                            std::to_string(f.loc.line());
    ++groups.emplace(key, std::pair(t, 0)).first->second.second;
  }
  for (const auto& [key, g] : groups) {
    s += "; " + std::to_string(g.second) + " threads (first " + std::to_string(g.first) +
         ") wait in " + key;
  }
  m.error = s;
}

static void reset_memory() {
  const uint32_t used =
      m.smem_top ? std::min(kArenaBytes, (m.smem_top + 4095) & ~4095u) : kArenaBytes;
#ifdef PARLO_SIMT_ASAN
  __asan_unpoison_memory_region(m.arena, used);
#endif
  std::memset(m.arena, 0xFF, used);
#ifdef PARLO_SIMT_ASAN
  __asan_poison_memory_region(m.arena, used);
  __asan_unpoison_memory_region(m.arena + kDynamicBase, m.dynamic_bytes);
#endif
  std::fill(m.slots.begin(), m.slots.end(), 0);
  m.smem_top = kDynamicBase + m.dynamic_bytes;
  m.smem_bytes = m.dynamic_bytes;
  if (!race_on()) return;
  m.shadow.resize(kArenaBytes);
  std::fill_n(m.shadow.begin(), used, Shadow{});
}

static void run_block() {
  reset_memory();
  m.warps.assign((m.n + 31) / 32, {});
  for (Warp& w : m.warps) w.priority = m.rng() >> 24;
  if (m.n % 32) m.warps.back().exited = ~0u << m.n % 32;
  for (Barrier& b : m.bars) b = {};
  m.mbars.clear();
  m.async.clear();
  m.ready.clear();
  m.spinning.clear();
  m.spins = 0;
  if (race_on()) m.main.vc.assign(clock_count(), 0);
  m.live = m.n;
  for (uint32_t t = 0; t < m.n; ++t) {
    Fiber& f = m.fibers[t];
    f.tid = t;
    f.done = f.fenced = false;
    f.copy_groups = f.wgmma_groups = f.store_groups = 0;
    f.proxy_fence = 0;
    f.proxy_seen.clear();
    f.copies.clear();
    f.reported.clear();
    f.stores.clear();
    f.detail.clear();
    f.idx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
    if (race_on()) {
      f.vc.assign(clock_count(), 0);
      f.vc[t] = 1;
    }
    make_ready(&f);
  }
  m.cur = &m.main;
  reschedule();
  if (m.error.empty() && m.live) report_deadlock();
  m.cur = nullptr;
  ++m.stat.blocks;
  m.stat.threads += m.n;
}

static void check_launch(dim3 grid, dim3 block, size_t dynamic_smem) {
  const auto refuse = [](const std::string& what) {
    throw Error("simt: invalid configuration argument: " + what);
  };
  const auto shape = [](dim3 d) {
    return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z);
  };
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7FFFFFFFu || grid.y > 65535 || grid.z > 65535) {
    refuse("grid " + shape(grid));
  }
  if (!block.x || !block.y || !block.z || block.x > 1024 || block.y > 1024 || block.z > 64 ||
      uint64_t(block.x) * block.y * block.z > kMaxThreads) {
    refuse("block " + shape(block));
  }
  if (dynamic_smem > kMaxShared)
    refuse(std::to_string(dynamic_smem) + " bytes of dynamic shared memory");
}

static void start_launch(dim3 grid, dim3 block, size_t dynamic_smem, void (*fn)(void*), void* ctx) {
  if (!m.arena) {
    void* p =
        mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    m.arena = static_cast<unsigned char*>(p);
  }
  m.n = block.x * block.y * block.z;
  if (m.fibers.size() < m.n) m.fibers.resize(m.n);
  for (uint32_t t = 0; t < m.n; ++t)
    if (!m.fibers[t].stack) init_fiber(m.fibers[t]);
  m.dynamic_bytes = uint32_t(dynamic_smem);
  m.fn = fn;
  m.ctx = ctx;
  m.error.clear();
  m.rng.seed(m.opt.seed);
  gridDim = grid;
  blockDim = block;
  m.released.clear();
  if (!race_on()) return;
  const std::lock_guard lock(m.memory);
  for (auto& [p, a] : m.allocations) a.last.clear();
}

void run(dim3 grid, dim3 block, size_t dynamic_smem, void (*fn)(void*), void* ctx) {
  check_launch(grid, block, dynamic_smem);
  const std::lock_guard lock(m.running);
  running_here = true;
  struct Leave {
    ~Leave() { running_here = false; }
  } leave;
  start_launch(grid, block, dynamic_smem, fn, ctx);
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
#ifdef PARLO_SIMT_ASAN
  __lsan::ScopedDisabler no_leaks;  // a failing block abandons its fibers' frames
#endif
  const auto start = std::chrono::steady_clock::now();
  for (uint64_t i = 0; i < blocks && m.error.empty(); ++i) {
    const uint64_t b = m.opt.seed ? blocks - 1 - i : i;  // blocks must not depend on their order
    blockIdx = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
    m.acquired.assign(race_on() ? blocks : 0, false);
    if (race_on()) m.acquired[b] = true;
    run_block();
  }
  m.stat.ms +=
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  if (m.error.empty()) return;
  for (Fiber& f : m.fibers)
    if (f.stack) init_fiber(f);
  throw Error("simt: " + m.error + "; block (" + std::to_string(blockIdx.x) + "," +
              std::to_string(blockIdx.y) + "," + std::to_string(blockIdx.z) + "), schedule seed " +
              std::to_string(m.opt.seed));
}

void fail(const std::string& what, Loc loc) {
  std::string error = what + ";";
  if (!std::strstr(loc.file_name(), "tests/simt/") || std::strstr(loc.file_name(), ".cu")) {
    error += std::string(" at ") + loc.file_name() + ":" + std::to_string(loc.line());
  }
  if (!running_here || !m.cur) throw Error("simt: " + error);
  if (m.cur != &m.main) error += " by thread " + std::to_string(m.cur->tid);
  m.error = error;
  m.in_hook = false;
  m.ready.clear();
  m.async.clear();
  if (m.cur == &m.main) throw Error("simt: " + error);
  switch_to(&m.main);
  __builtin_unreachable();
}

Options& options() {
  return m.opt;
}

Stats& stats() {
  return m.stat;
}

unsigned char* dynamic_shared() {
  return m.arena + kDynamicBase;
}

int new_shared_id() {
  m.slots.push_back(0);
  return int(m.slots.size()) - 1;
}

void* shared_slot(int id, size_t bytes, size_t align) {
  uint32_t& off = m.slots[size_t(id)];
  if (!off) {
    align = std::max<size_t>(align, 16);
    off = uint32_t((m.smem_top + kRedzone + align - 1) / align * align);
    m.smem_bytes += uint32_t(bytes);
    if (m.smem_bytes > kMaxShared || off + bytes > kArenaBytes) fail("too much shared memory");
    m.smem_top = off + uint32_t(bytes);
#ifdef PARLO_SIMT_ASAN
    __asan_unpoison_memory_region(m.arena + off, bytes);
#endif
  }
  return m.arena + off;
}

uint32_t smem_offset(const void* p, Loc loc) {
  if (!in_arena(p)) fail("not a shared-memory address", loc);
  return arena_offset(p);
}

}  // namespace simt

// assert in a kernel reports like any other failure; elsewhere it aborts as always.
extern "C" void __assert_fail(const char* expression, const char* file, unsigned line,
                              const char* function) noexcept {
  if (simt::in_kernel())
    simt::fail(std::string("assertion failed: ") + expression + " at " + file + ":" +
               std::to_string(line));
  std::fprintf(stderr, "%s:%u: %s: assertion failed: %s\n", file, line, function, expression);
  std::abort();
}
