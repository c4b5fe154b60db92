// Warp-level matrix instructions: ldmatrix, stmatrix and mma.sync. The lane that gives a row's
// address is the one whose access the race detector sees.
#include "tests/simt/machine.h"

namespace simt {

// --- ldmatrix, stmatrix ---
namespace {
struct MatrixArgs {
  uint32_t* regs;
  void* row;
  int n;
  bool trans, store;
  Loc loc;
  Fiber* f;
};

// Element e (0 or 1) of a register of lane l: its place in the 8x8 matrix.
std::pair<int, int> place(int l, int e, bool trans) {
  const int row = l / 4, col = l % 4 * 2 + e;
  return trans ? std::pair(col, row) : std::pair(row, col);
}

void move_matrices(void* const* args, uint32_t lanes) {
  const auto& x = first<MatrixArgs>(args, lanes);
  if (lanes != ~0u) fail("ldmatrix or stmatrix executed by a partial warp", x.loc);
  uint16_t mat[4][8][8] = {};
  const auto each_row = [&](bool to_shared) {
    for (int i = 0; i < x.n * 8; ++i) {
      const auto& owner = *static_cast<MatrixArgs*>(args[i]);
      if (to_shared) {
        std::memcpy(owner.row, mat[i / 8][i % 8], 16);
      } else {
        std::memcpy(mat[i / 8][i % 8], owner.row, 16);
      }
    }
  };
  for (int i = 0; i < x.n * 8; ++i) {
    const auto& owner = *static_cast<MatrixArgs*>(args[i]);
    if (uintptr_t(owner.row) % 16) fail("misaligned ldmatrix or stmatrix row", x.loc);
    Fiber& f = *owner.f;
    touch(f, f.tid, race_on() ? clk(f) : 0, smem_offset(owner.row, x.loc), 16,
          x.store ? kWrite : kRead, false, nullptr, x.loc);
    check_addressable(owner.row, 16, "ldmatrix or stmatrix row", x.loc);
  }
  if (!x.store) each_row(false);
  each<MatrixArgs>(args, lanes, [&](MatrixArgs& y, int l) {
    for (int i = 0; i < y.n; ++i) {
      const auto [r0, c0] = place(l, 0, y.trans);
      const auto [r1, c1] = place(l, 1, y.trans);
      if (y.store) {
        mat[i][r0][c0] = uint16_t(y.regs[i]);
        mat[i][r1][c1] = uint16_t(y.regs[i] >> 16);
      } else {
        y.regs[i] = mat[i][r0][c0] | uint32_t(mat[i][r1][c1]) << 16;
      }
    }
  });
  if (x.store) each_row(true);
}

void matrices(uint32_t* regs, int n, bool trans, bool store, void* row, const char* name, Loc loc) {
  if (n != 1 && n != 2 && n != 4)
    fail(std::string(name) + " of " + std::to_string(n) + " matrices", loc);
  MatrixArgs a{regs, row, n, trans, store, loc, m.cur};
  if (int(m.cur->tid % 32) < n * 8) lint(lint_key(loc), row, 16);
  warp_collective(move_matrices, ~0u, &a, name, loc, true);
}
}  // namespace

void ldmatrix(uint32_t* out, int n, bool trans, const void* row, Loc loc) {
  matrices(out, n, trans, false, const_cast<void*>(row), trans ? "ldmatrix.trans" : "ldmatrix",
           loc);
}

void stmatrix(void* row, int n, bool trans, const uint32_t* in, Loc loc) {
  matrices(const_cast<uint32_t*>(in), n, trans, true, row, trans ? "stmatrix.trans" : "stmatrix",
           loc);
}

// --- mma.sync ---
namespace {
struct MmaArgs {
  float* d;
  const uint32_t *a, *b;
  const float* c;
  Format format;
  Loc loc;
};

float from_tf32(uint32_t bits) {
  return std::bit_cast<float>(bits & 0xFFFFE000u);
}

// 16-bit element i of a fragment.
float element16(const uint32_t* regs, int i, Format format) {
  return from16(uint16_t(regs[i / 2] >> (i % 2 * 16)), format);
}

void mma_all(void* const* args, uint32_t lanes) {
  const Format format = first<MmaArgs>(args, lanes).format;
  if (lanes != ~0u) fail("mma.sync executed by a partial warp", first<MmaArgs>(args, lanes).loc);
  float a[16][16] = {}, b[16][8] = {}, acc[16][8];
  each<MmaArgs>(args, lanes, [&](MmaArgs& y, int l) {
    const int g = l / 4, t = l % 4;
    if (format == kTf32) {
      for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][t + i / 2 * 4] = from_tf32(y.a[i]);
      for (int i = 0; i < 2; ++i) b[t + i * 4][g] = from_tf32(y.b[i]);
    } else {
      for (int i = 0; i < 8; ++i)
        a[g + i / 2 % 2 * 8][t * 2 + i % 2 + i / 4 * 8] = element16(y.a, i, format);
      for (int i = 0; i < 4; ++i) b[t * 2 + i % 2 + i / 2 * 8][g] = element16(y.b, i, format);
    }
    for (int i = 0; i < 4; ++i) acc[g + i / 2 * 8][t * 2 + i % 2] = y.c[i];
  });
  const int depth = format == kTf32 ? 8 : 16;
  for (int r = 0; r < 16; ++r)
    for (int k = 0; k < depth; ++k)
      for (int j = 0; j < 8; ++j) acc[r][j] += a[r][k] * b[k][j];
  each<MmaArgs>(args, lanes, [&](MmaArgs& y, int l) {
    for (int i = 0; i < 4; ++i) y.d[i] = acc[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
  });
}
}  // namespace

void mma(float* d, const uint32_t* a, const uint32_t* b, const float* c, Format format, Loc loc) {
  MmaArgs args{d, a, b, c, format, loc};
  static const char* const kNames[] = {"mma.sync bf16", "mma.sync f16", "mma.sync tf32"};
  warp_collective(mma_all, ~0u, &args, kNames[format], loc, true);
}

}  // namespace simt
