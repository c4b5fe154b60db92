// The bulk copies of the async proxy: TMA tensor loads and stores of rank 1 to 5, and plain
// cp.async.bulk. Each is an agent with its own clock. A load's target is NaN until it completes; a
// store reads its source and writes its target at issue, as late as the waits allow, or at random.
#include "tests/simt/machine.h"

namespace simt {

static uint32_t box_bytes(const TensorMap& t) {
  uint32_t bytes = t.elem;
  for (uint32_t d = 0; d < t.rank; ++d) bytes *= t.box[d];
  return bytes;
}

// f(row, global address of element 0 or 0 when the row is outside, first and last + 1 element
// inside), row by row.
template <class F>
static void each_row(const TensorMap& t, const std::array<int, 5>& at, F f) {
  uint32_t rows = 1;
  for (uint32_t d = 1; d < t.rank; ++d) rows *= t.box[d];
  const int64_t from = std::max<int64_t>(at[0], 0);
  const int64_t to = std::min<int64_t>(int64_t(at[0]) + t.box[0], int64_t(t.dims[0]));
  for (uint32_t r = 0; r < rows; ++r) {
    bool inside = from < to;
    uintptr_t p = uintptr_t(t.base);
    for (uint32_t d = 1, rest = r; d < t.rank; rest /= t.box[d], ++d) {
      const int64_t c = int64_t(at[d]) + rest % t.box[d];
      inside &= c >= 0 && c < int64_t(t.dims[d]);
      p += uintptr_t(c) * t.strides[d];
    }
    f(r, inside ? p : 0, from, to);
  }
}

static void check_rows(const TensorMap& t, const std::array<int, 5>& at, Access kind,
                       const char* what, Loc loc) {
  each_row(t, at, [&](uint32_t, uintptr_t row, int64_t from, int64_t to) {
    if (!row) return;
    const auto* p = reinterpret_cast<const void*>(row + uintptr_t(from) * t.elem);
    check_addressable(p, size_t(to - from) * t.elem, what, loc);
    touch_global(p, uint32_t(to - from) * t.elem, kind, nullptr, loc);
  });
}

// Shared memory to or from `rows` packed rows, through the swizzle.
template <class F>
static void each_chunk(const TensorMap& t, uint32_t off, F f) {
  const uint32_t chunk = t.swizzle == kSwizzleNone ? box_bytes(t) : 16;
  for (uint32_t i = 0; i < box_bytes(t); i += chunk)
    f(m.arena + swizzled(off + i, t.swizzle), i, chunk);
}

static std::vector<unsigned char> read_box(const TensorMap& t, const std::array<int, 5>& at) {
  std::vector<unsigned char> data(box_bytes(t), 0);
  each_row(t, at, [&](uint32_t r, uintptr_t row, int64_t from, int64_t to) {
    if (!row) return;
    const size_t skip = (size_t(r) * t.box[0] + size_t(from - at[0])) * t.elem;
    std::memcpy(&data[skip], reinterpret_cast<const void*>(row + uintptr_t(from) * t.elem),
                size_t(to - from) * t.elem);
  });
  return data;
}

// `data`: packed rows, or null to fill with NaN.
static void write_box(const TensorMap& t, const std::array<int, 5>& at, const unsigned char* data) {
  each_row(t, at, [&](uint32_t r, uintptr_t row, int64_t from, int64_t to) {
    if (!row) return;
    const size_t skip = (size_t(r) * t.box[0] + size_t(from - at[0])) * t.elem,
                 bytes = size_t(to - from) * t.elem;
    auto* p = reinterpret_cast<void*>(row + uintptr_t(from) * t.elem);
    if (data) {
      std::memcpy(p, data + skip, bytes);
    } else {
      std::memset(p, 0xFF, bytes);
    }
  });
}

TensorMap tensor_map(const void* base, uint32_t elem, int rank, const uint64_t* dims,
                     const uint64_t* strides, const uint32_t* box, Swizzle swizzle) {
  const auto refuse = [](const char* why) {
    throw Error(std::string("simt: cuTensorMapEncodeTiled would refuse this tensor map: ") + why);
  };
  if (rank < 1 || rank > 5) refuse("rank");
  if (elem != 2 && elem != 4) refuse("element size");
  if (!base || uintptr_t(base) % 16) refuse("the address is not 16-byte aligned");
  TensorMap t{};
  t.base = static_cast<unsigned char*>(const_cast<void*>(base));
  t.rank = uint32_t(rank);
  t.elem = elem;
  t.swizzle = swizzle;
  t.strides[0] = elem;
  for (int d = 0; d < rank; ++d) {
    t.dims[d] = dims[d];
    t.box[d] = box[d];
    if (!dims[d] || dims[d] > 1ull << 32) refuse("dimension");
    if (!box[d] || box[d] > 256) refuse("box dimension");
    if (!d) continue;
    t.strides[d] = strides[d - 1];
    if (t.strides[d] % 16 || t.strides[d] >= 1ull << 40) refuse("stride");
  }
  constexpr uint32_t kSpan[] = {1u << 30, 32, 64, 128};
  if (box[0] * elem % 16) refuse("the box's rows are not a multiple of 16 bytes");
  if (box[0] * elem > kSpan[swizzle]) refuse("the box's rows are longer than the swizzle");
  return t;
}

static std::array<int, 5> coordinates(const TensorMap& t, Coords at, Loc loc) {
  if (at.size() != t.rank)
    fail("TMA coordinates for rank " + std::to_string(at.size()) + ", the map's is " +
             std::to_string(t.rank),
         loc);
  std::array<int, 5> out{};
  std::copy(at.begin(), at.end(), out.begin());
  return out;
}

static uint32_t shared_target(const TensorMap& t, const void* p, Loc loc) {
  constexpr uint32_t kPattern[] = {128, 256, 512, 1024};
  const uint32_t off = smem_offset(p, loc);
  if (off % kPattern[t.swizzle])
    fail("the shared-memory side of a TMA copy is not aligned to its swizzle", loc);
  return off;
}

// A one-dimensional "tensor" of bytes: plain bulk copies.
static TensorMap byte_map(const void* global, uint32_t bytes, const void* shared, Loc loc) {
  if (uintptr_t(global) % 16 || uintptr_t(shared) % 16 || bytes % 16 || !bytes) {
    fail("cp.async.bulk: addresses and size must be multiples of 16", loc);
  }
  TensorMap t{};
  t.base = static_cast<unsigned char*>(const_cast<void*>(global));
  t.rank = t.elem = 1;
  t.strides[0] = 1;
  t.dims[0] = bytes;
  t.box[0] = bytes;
  return t;
}

static void load(uint32_t off, const TensorMap& map, void* bar, std::array<int, 5> at, Loc loc) {
  const uint32_t index = uint32_t(&usable_mbarrier(bar, "TMA load", loc) - m.mbars.data());
  const uint32_t bytes = box_bytes(map), agent = mbarrier_agent(index);
  // Loads on one mbarrier complete in any order, so its agent's clock keeps the largest.
  const uint32_t clock = race_on() ? ++m.main.vc[agent] : 0;
  touch(*m.cur, agent, clock, off, bytes, kWrite, true, nullptr, loc);
  check_addressable(m.arena + off, bytes, "TMA target", loc);
  check_rows(map, at, kRead, "TMA source", loc);
  std::memset(m.arena + off, 0xFF, bytes);
  start_async([=] {
    const auto data = read_box(map, at);
    each_chunk(map, off,
               [&](unsigned char* p, uint32_t i, uint32_t n) { std::memcpy(p, &data[i], n); });
    mbar_release(index, agent, clock, bytes);
  });
}

void tma_load(void* dst, const TensorMap& map, void* bar, Coords at, Loc loc) {
  load(shared_target(map, dst, loc), map, bar, coordinates(map, at, loc), loc);
}

void bulk_load(void* dst, const void* src, uint32_t bytes, void* bar, Loc loc) {
  load(smem_offset(dst, loc), byte_map(src, bytes, dst, loc), bar, {}, loc);
}

// --- stores ---
static void read_source(BulkStore& s) {
  if (s.read) return;
  s.read = true;
  s.data.resize(box_bytes(s.map));
  each_chunk(s.map, s.src,
             [&](unsigned char* p, uint32_t i, uint32_t n) { std::memcpy(&s.data[i], p, n); });
}

static void write_target(BulkStore& s) {
  read_source(s);
  if (!s.written) write_box(s.map, s.at, s.data.data());
  s.written = true;
}

static void store(uint32_t off, const TensorMap& map, std::array<int, 5> at, Loc loc) {
  Fiber& f = *m.cur;
  Warp& w = warp_of(f);
  BulkStore s{map, at, off, ++w.store_clock, f.store_groups, false, false, false, {}};
  const uint32_t bytes = box_bytes(map);
  touch(f, store_agent(f.tid / 32), s.clock, off, bytes, kRead, true, nullptr, loc);
  check_addressable(m.arena + off, bytes, "bulk store source", loc);
  check_rows(map, at, kWrite, "bulk store target", loc);
  if (!late()) read_source(s);
  if (s.read && !late()) {
    write_target(s);
  } else {
    write_box(map, at, nullptr);
  }
  f.stores.push_back(std::move(s));
}

void tma_store(const TensorMap& map, const void* src, Coords at, Loc loc) {
  store(shared_target(map, src, loc), map, coordinates(map, at, loc), loc);
}

void bulk_store(void* dst, const void* src, uint32_t bytes, Loc loc) {
  store(smem_offset(src, loc), byte_map(dst, bytes, src, loc), {}, loc);
}

void bulk_commit() {
  ++m.cur->store_groups;
}

void finish_stores(Fiber& f, int pending_groups, bool read) {
  const uint32_t agent = store_agent(f.tid / 32);
  for (BulkStore& s : f.stores) {
    if (s.group >= f.store_groups - pending_groups) continue;
    if (read) {
      read_source(s);
    } else {
      write_target(s);
    }
    s.released = true;
    if (race_on()) f.vc[agent] = std::max(f.vc[agent], s.clock);
  }
  std::erase_if(f.stores, [](const BulkStore& s) { return s.released && s.written; });
}

void bulk_wait(int pending_groups, bool read) {
  finish_stores(*m.cur, pending_groups, read);
}

}  // namespace simt
