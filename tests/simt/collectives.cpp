// Warp operations and block barriers: arguments are kept until the last participant arrives, which
// computes for all. The rendezvous checks names, masks and source lines, so that divergence is an
// error instead of a hang.
#include "tests/simt/machine.h"

namespace simt {

void warp_collective(CollectiveFn fn, uint32_t mask, void* args, const char* name, Loc loc,
                     bool aligned) {
  Fiber& f = *m.cur;
  Warp& w = warp_of(f);
  const uint32_t lane = f.tid % 32, me = 1u << lane;
  if (!(mask & me)) fail(std::string(name) + ": the calling lane is not in its mask", loc);
  if (mask & w.exited)
    fail(std::string(name) + ": its mask names lanes that exited or do not exist", loc);
  size_t i = 0;
  for (; i < w.pending.size(); ++i) {
    const Pending& p = w.pending[i];
    if (!(p.mask & mask)) continue;
    const bool same = p.mask == mask && p.fn == fn && !std::strcmp(p.name, name);
    if (same && (!aligned || p.loc.line() == loc.line())) break;
    // Lanes may be at different operations, unless each of the two needs lanes that wait in the
    // other.
    if (((p.arrived & mask) && (p.mask & me)) || aligned || p.aligned) {
      fail("divergent warp: " + std::string(name) + " here, but other lanes wait in " + p.name +
               " at line " + std::to_string(p.loc.line()),
           loc);
    }
  }
  if (i == w.pending.size()) w.pending.push_back({fn, mask, 0, {}, name, loc, aligned});
  w.pending[i].arrived |= me;
  w.pending[i].args[lane] = args;
  if (w.pending[i].arrived != mask) return block_on(name, loc);
  const Pending p = w.pending[i];
  w.pending.erase(w.pending.begin() + long(i));
  p.fn(p.args, mask);
  for (uint32_t l = 0; l < 32; ++l)
    if (mask >> l & 1 && l != lane) make_ready(&m.fibers[f.tid / 32 * 32 + l]);
}

void syncwarp(uint32_t mask, Loc loc) {
  const auto meet = [](void* const* args, uint32_t lanes) {
    if (!race_on()) return;
    Clocks all;
    each<Fiber>(args, lanes, [&](Fiber& f, int) { join(all, f.vc); });
    each<Fiber>(args, lanes, [&](Fiber& f, int) {
      f.vc = all;
      ++clk(f);
    });
  };
  warp_collective(meet, mask, m.cur, "__syncwarp", loc, false);
}

uint32_t active_lanes() {
  return ~warp_of(*m.cur).exited;
}

// One arrival at a barrier. name: of __syncthreads and its kin, which must be reached from one
// source line.
static void arrive(int id, int count, bool wait, bool vote, const char* name, Loc loc) {
  Barrier& b = m.bars[id];
  Fiber& f = *m.cur;
  if (b.arrived && (b.count != count || b.name != name || (name && b.loc.line() != loc.line()))) {
    fail("divergent barrier " + std::to_string(id) + " for " + std::to_string(count) +
             " threads: others came from line " + std::to_string(b.loc.line()) + " for " +
             std::to_string(b.count),
         loc);
  }
  b.name = name;
  b.loc = loc;
  b.count = count;
  b.votes += vote;
  if (race_on()) join(b.vc, f.vc);
  if (wait) b.waiting.push_back(&f);
  if (++b.arrived < count) {
    if (wait) return block_on(name ? name : "bar.sync", loc);
    if (race_on()) ++clk(f);
    return;
  }
  if (!wait && race_on()) ++clk(f);
  for (Fiber* t : b.waiting) {
    t->votes = b.votes;
    if (race_on()) {
      join(t->vc, b.vc);
      ++clk(*t);
    }
    if (t != &f) make_ready(t);
  }
  b = {};
}

int sync_threads(bool predicate, const char* name, Loc loc) {
  arrive(0, int(m.n), true, predicate, name, loc);
  return m.cur->votes;
}

static void check_named(int id, int threads, Loc loc) {
  if (id < 0 || id > 15) fail("barrier " + std::to_string(id) + " does not exist", loc);
  if (threads <= 0 || threads % 32)
    fail("a barrier's thread count is a positive multiple of the warp size", loc);
  if (threads > int((m.n + 31) / 32 * 32)) {
    fail("barrier for " + std::to_string(threads) + " threads in a block of " + std::to_string(m.n),
         loc);
  }
}

void bar_sync(int id, int threads, Loc loc) {
  check_named(id, threads, loc);
  arrive(id, threads, true, false, nullptr, loc);
}

void bar_arrive(int id, int threads, Loc loc) {
  check_named(id, threads, loc);
  arrive(id, threads, false, false, nullptr, loc);
}

namespace {
struct ShuffleArgs {
  uint64_t in, out;
  Shuffle mode;
  int src, width;
};
struct ReduceArgs {
  uint32_t v;
  Reduction op;
};
struct MatchArgs {
  uint64_t bits;
  uint32_t equal;
};

uint32_t combine(Reduction op, uint32_t r, uint32_t v, int lane) {
  switch (op) {
    case kBallot:
      return r | v << lane;
    case kAll:
    case kAnd:
      return r & v;
    case kAny:
    case kOr:
      return r | v;
    case kXor:
      return r ^ v;
    case kAdd:
      return r + v;
    case kMin:
      return std::min(r, v);
    case kMax:
      return std::max(r, v);
    case kMinSigned:
      return uint32_t(std::min(int32_t(r), int32_t(v)));
    case kMaxSigned:
      return uint32_t(std::max(int32_t(r), int32_t(v)));
  }
  return 0;
}
}  // namespace

uint64_t shfl(uint32_t mask, uint64_t bits, Shuffle mode, int src, int width, Loc loc) {
  if (width < 1 || width > 32 || (width & (width - 1)))
    fail("shuffle width is not a power of two up to 32", loc);
  ShuffleArgs a{bits, 0, mode, src, width};
  const auto exchange = [](void* const* args, uint32_t lanes) {
    each<ShuffleArgs>(args, lanes, [&](ShuffleArgs& x, int l) {
      const int base = l & ~(x.width - 1), end = base + x.width;
      int s = l ^ x.src;
      if (x.mode == kIndex) s = base + (x.src & (x.width - 1));
      if (x.mode == kUp) s = l - x.src < base ? l : l - x.src;
      if (x.mode == kDown) s = l + x.src;
      if (s >= end) s = l;
      // A lane outside the mask gives NaN bytes.
      x.out = lanes >> s & 1 ? static_cast<ShuffleArgs*>(args[s])->in : ~0ull;
    });
  };
  static const char* const kNames[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync",
                                       "__shfl_xor_sync"};
  warp_collective(exchange, mask, &a, kNames[mode], loc, false);
  return a.out;
}

uint32_t warp_reduce(uint32_t mask, uint32_t v, Reduction op, Loc loc) {
  static const char* const kNames[] = {
      "__ballot_sync",     "__all_sync",        "__any_sync",        "__reduce_add_sync",
      "__reduce_min_sync", "__reduce_max_sync", "__reduce_min_sync", "__reduce_max_sync",
      "__reduce_and_sync", "__reduce_or_sync",  "__reduce_xor_sync"};
  ReduceArgs a{v, op};
  const auto reduce = [](void* const* args, uint32_t lanes) {
    const Reduction op = first<ReduceArgs>(args, lanes).op;
    const uint32_t kStart[] = {0, ~0u, 0, 0, ~0u, 0, 0x7FFFFFFFu, 0x80000000u, ~0u, 0, 0};
    uint32_t r = kStart[op];
    each<ReduceArgs>(args, lanes, [&](ReduceArgs& x, int l) { r = combine(op, r, x.v, l); });
    each<ReduceArgs>(args, lanes, [&](ReduceArgs& x, int) { x.v = r; });
  };
  warp_collective(reduce, mask, &a, kNames[op], loc, false);
  return a.v;
}

uint32_t match_any(uint32_t mask, uint64_t bits, Loc loc) {
  MatchArgs a{bits, 0};
  const auto match = [](void* const* args, uint32_t lanes) {
    each<MatchArgs>(args, lanes, [&](MatchArgs& x, int) {
      each<MatchArgs>(args, lanes,
                      [&](MatchArgs& y, int l) { x.equal |= uint32_t(x.bits == y.bits) << l; });
    });
  };
  warp_collective(match, mask, &a, "__match_any_sync", loc, false);
  return a.equal;
}

}  // namespace simt
