// cp.async and mbarriers. Until a copy completes its target holds NaN bytes; it completes at issue,
// as late as the program allows, or at random (see Options). An mbarrier carries the clocks of its
// arrivals, and of the asynchronous loads that report to it, to the threads that wait.
#include "tests/simt/machine.h"

namespace simt {

// --- cp.async ---
// The copy counts as its thread's write at `clock`: when it was issued, then when it was waited
// for.
static void set_pending(const Copy& c, bool on, uint32_t clock) {
  if (!race_on()) return;
  for (int i = 0; i < c.bytes; ++i) {
    Shadow& s = m.shadow[arena_offset(c.dst) + uint32_t(i)];
    s.pending = on;
    s.wclk = clock;
  }
}

static void land(Copy& c, uint32_t clock) {
  if (c.landed) return;
  if (c.src) {
    std::memcpy(c.dst, c.src, size_t(c.src_bytes));
    std::memset(static_cast<char*>(c.dst) + c.src_bytes, 0, size_t(c.bytes - c.src_bytes));
  }
  set_pending(c, false, c.clock ? c.clock : clock);
  c.landed = true;
}

void cp_async(void* dst, const void* src, int bytes, int src_bytes, Loc loc) {
  if (bytes != 4 && bytes != 8 && bytes != 16)
    fail("cp.async of " + std::to_string(bytes) + " bytes", loc);
  if (src_bytes < 0 || src_bytes > bytes) fail("cp.async: source size exceeds the copy", loc);
  if (uintptr_t(dst) % unsigned(bytes) || (src_bytes && uintptr_t(src) % unsigned(bytes))) {
    fail("misaligned cp.async", loc);
  }
  const uint32_t off = smem_offset(dst, loc);
  Fiber& f = *m.cur;
  touch(f, f.tid, race_on() ? clk(f) : 0, off, uint32_t(bytes), kWrite, false, nullptr, loc);
  if (src_bytes) check_addressable(src, size_t(src_bytes), "cp.async source", loc);
  check_addressable(dst, size_t(bytes), "cp.async target", loc);
  if (touch_global(src, uint32_t(src_bytes), kRead, nullptr, loc))
    lint(lint_key(loc), src, uint32_t(src_bytes));
  lint(lint_key(loc), dst, uint32_t(bytes));
  const uint32_t now = race_on() ? clk(f) : 0;
  Copy c{dst, src, bytes, src_bytes, f.copy_groups, false, 0};
  if (late()) {
    std::memset(dst, 0xFF, size_t(bytes));
  } else {
    land(c, now);
    c.src = nullptr;
    c.landed = false;  // the data is there, but the thread may not know
  }
  set_pending(c, true, now);
  f.copies.push_back(c);
}

void cp_async_commit() {
  ++m.cur->copy_groups;
}

void cp_async_wait(int pending_groups) {
  Fiber& f = *m.cur;
  const int end = f.copy_groups - pending_groups;
  const uint32_t now = race_on() ? clk(f) : 0;
  size_t i = 0;
  for (; i < f.copies.size() && f.copies[i].group < end; ++i) land(f.copies[i], now);
  f.copies.erase(f.copies.begin(), f.copies.begin() + long(i));
  for (auto& batch : f.reported)
    for (Copy& c : *batch)
      if (c.group < end) land(c, now);
}

// --- mbarriers ---
static Mbarrier& find_mbarrier(const void* bar, const char* what, Loc loc) {
  const uint32_t off = smem_offset(bar, loc);
  for (Mbarrier& b : m.mbars)
    if (b.off == off && b.valid) return b;
  fail(std::string(what) + " on an uninitialised mbarrier at shared offset " + std::to_string(off),
       loc);
}

Mbarrier& usable_mbarrier(void* bar, const char* what, Loc loc) {
  Mbarrier& b = find_mbarrier(bar, what, loc);
  uint64_t bits;
  std::memcpy(&bits, bar, sizeof bits);
  if (bits != 0xABABABABABABABABull) fail("mbarrier storage was overwritten", loc);
  if (race_on()) {
    const Shadow& s = m.shadow[b.off];
    if (m.cur->vc[s.wtid] < s.wclk) fail("mbarrier used before its initialisation is visible", loc);
  }
  return b;
}

static void check_phase(Mbarrier& b) {
  if (b.pending || b.tx) return;
  b.phase ^= 1;
  b.pending = b.count;
  join(b.visible, b.cur);
  b.cur.clear();
  for (Fiber* f : b.waiting) make_ready(f);
  b.waiting.clear();
}

void mbar_init(void* bar, uint32_t count, Loc loc) {
  if (uintptr_t(bar) % 8) fail("misaligned mbarrier", loc);
  if (!count || count >= 1u << 20) fail("mbarrier count " + std::to_string(count), loc);
  const uint32_t off = smem_offset(bar, loc);
  for (Mbarrier& b : m.mbars)
    if (b.off == off && b.valid) fail("mbarrier initialised twice without mbarrier.inval", loc);
  if (m.mbars.size() == kMaxMbarriers) fail("too many mbarriers for the simulator", loc);
  touch_self(bar, 8, kWrite, nullptr, loc);
  Mbarrier b;
  b.off = off;
  b.count = b.pending = count;
  b.visible = m.cur->vc;
  m.mbars.push_back(b);
  std::memset(bar, 0xAB, 8);
}

void mbar_inval(void* bar, Loc loc) {
  Mbarrier& b = usable_mbarrier(bar, "inval", loc);
  if (!b.waiting.empty()) fail("mbarrier.inval while threads wait on it", loc);
  touch_self(bar, 8, kWrite, nullptr, loc);
  std::memset(bar, 0xFF, 8);
  b.valid = false;
}

static void arrive(Mbarrier& b, const Clocks& vc, Loc loc) {
  if (!b.pending) fail("more mbarrier arrivals than its count in one phase", loc);
  if (race_on()) join(b.cur, vc);
  --b.pending;
  check_phase(b);
}

void mbar_arrive(void* bar, Loc loc) {
  arrive(usable_mbarrier(bar, "arrive", loc), m.cur->vc, loc);
  if (race_on()) ++clk(*m.cur);
}

void mbar_expect_tx(void* bar, uint32_t tx_bytes, Loc loc) {
  usable_mbarrier(bar, "expect_tx", loc).tx += tx_bytes;
}

void mbar_arrive_expect_tx(void* bar, uint32_t tx_bytes, Loc loc) {
  mbar_expect_tx(bar, tx_bytes, loc);
  mbar_arrive(bar, loc);
}

bool mbar_try_wait(void* bar, uint32_t parity, Loc loc) {
  const Mbarrier& b = usable_mbarrier(bar, "wait", loc);
  if (b.phase == (parity & 1)) {
    yield(loc);
    return false;
  }
  if (race_on()) join(m.cur->vc, b.visible);
  return true;
}

void mbar_wait(void* bar, uint32_t parity, Loc loc) {
  const size_t i = size_t(&usable_mbarrier(bar, "wait", loc) - m.mbars.data());
  const auto waits = [&] { return m.mbars[i].phase == (parity & 1); };
  while (waits()) {
    const Mbarrier& b = m.mbars[i];
    m.cur->detail = " mbarrier #" + std::to_string(i) + " parity " + std::to_string(parity) +
                    " (pending arrivals " + std::to_string(b.pending) + ", tx bytes " +
                    std::to_string(b.tx) + ")";
    m.mbars[i].waiting.push_back(m.cur);
    block_on("mbarrier.wait", loc);
  }
  m.cur->detail.clear();
  if (race_on()) join(m.cur->vc, m.mbars[i].visible);
}

// A load has completed: its agent's clock and its bytes reach the barrier.
void mbar_release(uint32_t index, uint32_t agent, uint32_t clock, int64_t tx) {
  Mbarrier& b = m.mbars[index];
  if (race_on()) {
    if (b.cur.size() < clock_count()) b.cur.resize(clock_count());
    b.cur[agent] = std::max(b.cur[agent], clock);
  }
  b.tx -= tx;
  check_phase(b);
}

void cp_async_mbar_arrive(void* bar, Loc loc) {
  const uint32_t index = uint32_t(&usable_mbarrier(bar, "cp.async arrive", loc) - m.mbars.data());
  Fiber& f = *m.cur;
  std::erase_if(f.reported,
                [](const auto& batch) { return batch->empty() || batch->back().landed; });
  const auto batch = std::make_shared<std::vector<Copy>>(std::move(f.copies));
  f.copies.clear();
  f.reported.push_back(batch);
  const uint32_t now = race_on() ? clk(f) : 0;
  for (Copy& c : *batch) c.clock = now;
  start_async([index, batches = f.reported, now, vc = f.vc, loc] {
    for (const auto& earlier : batches)
      for (Copy& c : *earlier) land(c, now);
    arrive(m.mbars[index], vc, loc);
  });
  if (race_on()) ++clk(f);
}

void fence_proxy_async() {
  if (!race_on()) return;
  m.cur->proxy_seen = m.cur->vc;
  m.cur->proxy_fence = clk(*m.cur)++;
}

}  // namespace simt
