// Lint of the race build: shared-memory bank conflicts and uncoalesced accesses to device memory,
// per source line. The n-th execution of an access by the 32 lanes of a warp counts as one
// warp-wide request.
#include <cstdio>
#include <set>

#include "tests/simt/machine.h"

namespace simt {

constexpr uintptr_t kDeviceMemory = uintptr_t(1)
                                    << 63;  // one source line may access both kinds of memory

uintptr_t lint_key(Loc loc) {
  const uintptr_t key = uintptr_t(loc.file_name()) << 16 ^ loc.line();
  if (m.opt.lint)
    m.lint[key].where = std::string(loc.file_name()) + ":" + std::to_string(loc.line());
  return key;
}

// What the memory does for one request: cycles of the busiest bank, or 32-byte sectors.
static uint64_t request_cost(const Request& request, uint32_t bytes, bool shared) {
  const int together = shared ? int(std::max(1u, 128 / bytes)) : 32;  // lanes served at once
  const uintptr_t unit = shared ? 4 : 32;
  uint64_t cost = 0;
  for (int from = 0; from < 32; from += together) {
    std::set<uintptr_t> units;
    std::map<uintptr_t, uint64_t> banks;
    for (int l = from; l < std::min(from + together, 32); ++l) {
      const uintptr_t a = request.addr[l];
      for (uintptr_t u = a / unit; u <= (a + bytes - 1) / unit; ++u)
        if (units.insert(u).second) ++banks[u % 32];
    }
    uint64_t worst = 0;
    for (const auto& [bank, n] : banks) worst = std::max(worst, n);
    cost += shared ? worst : units.size();
  }
  return cost;
}

void lint(uintptr_t key, const void* p, uint32_t bytes) {
  if (!race_on() || !m.opt.lint || !bytes) return;
  const bool shared = in_arena(p);
  Requests& w = warp_of(*m.cur).requests[shared ? key : key ^ kDeviceMemory];
  const uint32_t lane = m.cur->tid % 32, i = w.next[lane]++ - w.done;
  if (w.open.size() <= i) w.open.resize(i + 1);
  w.open[i].addr[lane] = uintptr_t(p);
  if (++w.open[i].lanes < 32 || i) return;
  LintLine& line = m.lint[key];
  line.shared = shared;
  line.cost += request_cost(w.open[0], bytes, shared);
  line.ideal += std::max(1u, shared ? bytes / 4 : bytes);
  ++line.requests;
  ++w.done;
  w.open.pop_front();
}

void print_lint() {
  for (const auto& [key, s] : m.lint) {
    if (!s.requests || double(s.cost) < 1.5 * double(s.ideal)) continue;
    const std::string where = s.where.empty() ? source_of(reinterpret_cast<void*>(key)) : s.where;
    std::printf("lint: %-34s %s: %.1f %s per warp access, %.1f needed (%llu accesses)\n",
                where.c_str(), s.shared ? "shared" : "global", double(s.cost) / double(s.requests),
                s.shared ? "bank cycles" : "sectors", double(s.ideal) / double(s.requests),
                static_cast<unsigned long long>(s.requests));
  }
  m.lint.clear();
}

}  // namespace simt
