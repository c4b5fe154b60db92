// wgmma: warpgroup matrix multiply with operands in shared memory. Descriptors are decoded as the
// hardware does. Its reads last until wait_group, so they belong to an agent of the warp, whose
// clock only the lanes that waited carry on: releasing a stage before the wait is a race with the
// next load. Accumulators are NaN from issue to completion.
#include "tests/simt/machine.h"

namespace simt {
namespace {

struct Descriptor {
  uint32_t start, lbo, sbo;
  Swizzle swizzle;
};
struct WgmmaArgs {
  float* d;
  int n;
  const uint32_t* a_regs;
  uint64_t desc_a, desc_b;
  bool scale_d;
  Format format;
  bool trans_a, trans_b;
  Loc loc;
  Fiber* f;
};

Descriptor decode(uint64_t d, Loc loc) {
  if (d & 0x3FFE'C000'C000'C000ull)
    fail("wgmma descriptor with reserved bits or a base offset set", loc);
  static const Swizzle kModes[] = {kSwizzleNone, kSwizzle128, kSwizzle64, kSwizzle32};
  return {uint32_t(d & 0x3FFF) << 4, uint32_t(d >> 16 & 0x3FFF) << 4,
          uint32_t(d >> 32 & 0x3FFF) << 4, kModes[d >> 62]};
}

// Shared byte offset of element (mn, k), k < 16, of a 16-bit operand. Canonical layouts (PTX ISA,
// CuTe), in 16-byte units: K-major ((8,m),2):((w,SBO),1 or LBO); MN-major
// ((w,m),(8,k)):((1,LBO),(w,SBO)); w = swizzle bytes / 16.
uint32_t element(const Descriptor& d, uint32_t mn, uint32_t k, bool mn_major) {
  constexpr uint32_t kWidth[] = {1, 2, 4, 8};
  const uint32_t w = kWidth[d.swizzle];
  uint32_t off;
  if (!mn_major) {
    off = mn % 8 * w * 16 + mn / 8 * d.sbo + (w == 1 ? k / 8 * d.lbo + k % 8 * 2 : k * 2);
  } else if (w > 1) {
    off = mn % (8 * w) * 2 + mn / (8 * w) * d.lbo + k % 8 * w * 16 + k / 8 * d.sbo;
  } else {
    off = mn % 8 * 2 + mn / 8 * d.sbo + k % 8 * 16 + k / 8 * d.lbo;
  }
  return swizzled(d.start + off, d.swizzle);
}

float load16(uint32_t off, Format format) {
  uint16_t v;
  std::memcpy(&v, m.arena + off, 2);
  return from16(v, format);
}

void execute(Wgmma& op, Loc loc) {
  static float a[16][16], b[16][256];
  const Descriptor db = decode(op.desc_b, loc);
  for (int k = 0; k < 16; ++k)
    for (int j = 0; j < op.n; ++j)
      b[k][j] = load16(element(db, uint32_t(j), uint32_t(k), op.trans_b), op.format);
  if (op.a_regs) {
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 8; ++i) {
        const auto bits = uint16_t(op.a[l][i / 2] >> (i % 2 * 16));
        a[l / 4 + i / 2 % 2 * 8][l % 4 * 2 + i % 2 + i / 4 * 8] = from16(bits, op.format);
      }
  } else {
    const Descriptor da = decode(op.desc_a, loc);
    for (int r = 0; r < 16; ++r)
      for (int k = 0; k < 16; ++k) {
        a[r][k] = load16(element(da, uint32_t(op.warp_in_group * 16 + r), uint32_t(k), op.trans_a),
                         op.format);
      }
  }
  for (int r = 0; r < 16; ++r) {
    float acc[256] = {};
    for (int k = 0; k < 16; ++k)
      for (int j = 0; j < op.n; ++j) acc[j] += a[r][k] * b[k][j];
    for (int j = 0; j < op.n; ++j) {
      const int l = r % 8 * 4 + j % 8 / 2, i = j / 8 * 4 + r / 8 * 2 + j % 2;
      if (!op.saved.empty()) op.d[l][i] = op.saved[size_t(l * op.n / 2 + i)];
      op.d[l][i] = (op.scale_d ? op.d[l][i] : 0.0f) + acc[j];
    }
  }
}

void read_operand(Fiber& f, const Wgmma& op, uint64_t descriptor, uint32_t from, uint32_t count,
                  bool mn_major, Loc loc) {
  const Descriptor d = decode(descriptor, loc);
  const uint32_t agent = wgmma_agent(f.tid / 32);
  for (uint32_t i = from; i < from + count; i += mn_major ? 8 : 1)
    for (uint32_t k = 0; k < 16; k += mn_major ? 1 : 8) {
      const uint32_t off = element(d, i, k, mn_major);
      touch(f, agent, op.clock, off, 16, kRead, true, nullptr, loc);
      check_addressable(m.arena + off, 16, "wgmma operand", loc);
    }
}

// Accumulators as they are now are kept for the execution, the registers become NaN.
void hide_accumulators(Wgmma& op) {
  const size_t count = size_t(op.n / 2);
  op.saved.resize(32 * count);
  for (size_t l = 0; l < 32; ++l) {
    std::memcpy(&op.saved[l * count], op.d[l], count * sizeof(float));
    std::memset(op.d[l], 0xFF, count * sizeof(float));
  }
}

void issue(void* const* args, uint32_t mask) {
  const auto& x = first<WgmmaArgs>(args, mask);
  if (mask != ~0u) fail("wgmma executed by a partial warp", x.loc);
  Fiber& f = *x.f;
  const uint32_t warp = f.tid / 32;
  if ((warp / 4 + 1) * 128 > m.n) fail("wgmma outside a complete warpgroup", x.loc);
  Warp& w = m.warps[warp];
  Wgmma op{};
  op.desc_a = x.desc_a;
  op.desc_b = x.desc_b;
  op.n = x.n;
  op.group = f.wgmma_groups;
  op.warp_in_group = int(warp % 4);
  op.clock = ++w.wgmma_clock;
  op.format = x.format;
  op.a_regs = x.a_regs;
  op.scale_d = x.scale_d;
  op.trans_a = x.trans_a;
  op.trans_b = x.trans_b;
  each<WgmmaArgs>(args, mask, [&](WgmmaArgs& y, int l) {
    if (y.desc_a != x.desc_a || y.desc_b != x.desc_b || y.scale_d != x.scale_d) {
      fail("wgmma operands differ between lanes", x.loc);
    }
    if (!y.f->fenced) fail("wgmma without wgmma.fence after the last wait", x.loc);
    op.d[l] = y.d;
    if (op.a_regs) std::memcpy(op.a[l], y.a_regs, 16);
  });
  if (!op.a_regs)
    read_operand(f, op, op.desc_a, uint32_t(op.warp_in_group) * 16, 16, op.trans_a, x.loc);
  read_operand(f, op, op.desc_b, 0, uint32_t(op.n), op.trans_b, x.loc);
  bool chained =
      false;  // to an earlier one that has not executed: in order, into the same accumulators
  for (const Wgmma& earlier : w.wgmma) chained |= !earlier.executed && earlier.d[0] == op.d[0];
  op.executed = !chained && !late();
  if (op.executed) {
    execute(op, x.loc);
  } else if (!chained) {
    hide_accumulators(op);
  }
  w.wgmma.push_back(std::move(op));
}

struct WaitArgs {
  int pending;
  Loc loc;
  Fiber* f;
};

void wait_all(void* const* args, uint32_t lanes) {
  const auto& x = first<WaitArgs>(args, lanes);
  Warp& w = warp_of(*x.f);
  uint32_t done = 0;
  for (; !w.wgmma.empty() && w.wgmma.front().group < x.f->wgmma_groups - x.pending;
       w.wgmma.pop_front()) {
    done = w.wgmma.front().clock;
    if (!w.wgmma.front().executed) execute(w.wgmma.front(), x.loc);
  }
  const uint32_t agent = wgmma_agent(x.f->tid / 32);
  each<WaitArgs>(args, lanes, [&](WaitArgs& y, int) {
    y.f->fenced = false;
    if (race_on()) y.f->vc[agent] = std::max(y.f->vc[agent], done);
  });
}

}  // namespace

void wgmma_fence() {
  m.cur->fenced = true;
}

void wgmma_commit() {
  ++m.cur->wgmma_groups;
}

void wgmma_wait(int pending_groups, Loc loc) {
  WaitArgs a{pending_groups, loc, m.cur};
  warp_collective(wait_all, ~0u, &a, "wgmma.wait_group", loc, true);
}

void wgmma(float* d, int n, const uint32_t* a_regs, uint64_t desc_a, uint64_t desc_b, bool scale_d,
           Format format, bool trans_a, bool trans_b, Loc loc) {
  if (n < 8 || n > 256 || n % 8) fail("wgmma with n = " + std::to_string(n), loc);
  if (format == kTf32) fail("wgmma takes bf16 and f16 here", loc);
  if (a_regs && trans_a) fail("wgmma: an A operand in registers cannot be transposed", loc);
  WgmmaArgs a{d, n, a_regs, desc_a, desc_b, scale_d, format, trans_a, trans_b, loc, m.cur};
  warp_collective(issue, ~0u, &a, "wgmma", loc, true);
}

}  // namespace simt
