// Tests of wgmma: every N, both formats, A in shared memory or registers, both operands K-major and
// MN-major, every swizzle. Operands with a swizzle come through TMA, so that its layout and the
// descriptors' are checked together.
#include "tests/simt/self_test.cuh"

namespace {

struct Shape {
  int n, depth;  // depth: K of the tile, a multiple of 16
  simt::Swizzle swizzle;
  bool a_regs, trans_a, trans_b, zero_first;
  simt::TensorMap map_a, map_b;
};
constexpr int kBytesA = 16 << 10, kBytesB = 64 << 10;
constexpr int kSpan[] = {16, 32, 64, 128};  // bytes of a row of the swizzle pattern

struct Operand {
  unsigned char* tile;
  uint32_t lbo, sbo, step;  // step: bytes from one block of 16 k to the next
};

__device__ Operand layout(unsigned char* tile, const Shape& s, int mn, bool mn_major) {
  const auto span = uint32_t(kSpan[s.swizzle]), depth = uint32_t(s.depth);
  if (s.swizzle == simt::kSwizzleNone) {  // 8x16-byte core matrices, K-blocks innermost; MN-major:
                                          // MN-blocks innermost
    return mn_major ? Operand{tile, uint32_t(mn) * 16, 128, uint32_t(mn) * 32}
                    : Operand{tile, 128, depth * 16, 256};
  }
  return mn_major ? Operand{tile, depth * span, span * 8, span * 16}
                  : Operand{tile, 0, span * 8, 32};
}

template <class T>
__device__ void fill(const Operand& o, const T* from, int mn, int depth, bool mn_major) {
  for (int i = threadIdx.x; i < mn * depth; i += 128) {
    const int r = i / depth, k = i % depth;
    const uint32_t blocks = uint32_t(r) / 8 * o.sbo + uint32_t(k) / 8 * o.lbo;
    const uint32_t inside = uint32_t(mn_major ? k % 8 * 16 + r % 8 * 2 : r % 8 * 16 + k % 8 * 2);
    const T v = mn_major ? from[k * mn + r] : from[i];
    *reinterpret_cast<uint16_t*>(o.tile + blocks + inside) = std::bit_cast<uint16_t>(v);
  }
}

__device__ uint32_t load(const Operand& o, const simt::TensorMap& map, uint64_t* bar,
                         const Shape& s, int mn, bool mn_major) {
  const uint32_t bytes = map.box[0] * map.box[1] * 2;
  const int width = kSpan[s.swizzle] / 2, boxes = mn_major ? (mn + width - 1) / width : 1;
  for (int i = 0; i < boxes; ++i)
    simt::tma_load(o.tile + uint32_t(i) * bytes, map, bar, {i * width, 0});
  return uint32_t(boxes) * bytes;
}

template <class T>
__global__ void wgmma_kernel(float* d, const T* a, const T* b, Shape s) {
  SMEM_DYNAMIC(smem);
  SMEM(uint64_t, bar, [1]);
  const int t = threadIdx.x, row = t / 32 * 16 + t % 32 / 4, col = t % 4 * 2;
  const Operand oa = layout(smem, s, 64, s.trans_a), ob = layout(smem + kBytesA, s, s.n, s.trans_b);
  if (s.swizzle == simt::kSwizzleNone) {
    fill(oa, a, 64, s.depth, s.trans_a);
    fill(ob, b, s.n, s.depth, s.trans_b);
    simt::fence_proxy_async();
    __syncthreads();
  } else {
    if (t == 0) simt::mbar_init(bar, 1);
    __syncthreads();
    if (t == 0) {
      const uint32_t bytes =
          load(oa, s.map_a, bar, s, 64, s.trans_a) + load(ob, s.map_b, bar, s, s.n, s.trans_b);
      simt::mbar_arrive_expect_tx(bar, bytes);
    }
    simt::mbar_wait(bar, 0);
  }
  float acc[128];
  for (int i = 0; i < s.n / 2; ++i) acc[i] = s.zero_first ? NAN : 1.0f;
  simt::wgmma_fence();
  for (int k = 0; k < s.depth; k += 16) {
    uint32_t regs[4];
    for (int i = 0; i < 4 && s.a_regs; ++i) {
      const T* p = a + (row + i % 2 * 8) * s.depth + k + col + i / 2 * 8;
      regs[i] = std::bit_cast<uint16_t>(p[0]) | uint32_t(std::bit_cast<uint16_t>(p[1])) << 16;
    }
    const uint64_t da = descriptor(oa.tile, uint32_t(k / 16) * oa.step, oa.lbo, oa.sbo, s.swizzle);
    const uint64_t db = descriptor(ob.tile, uint32_t(k / 16) * ob.step, ob.lbo, ob.sbo, s.swizzle);
    simt::wgmma(acc, s.n, s.a_regs ? regs : nullptr, da, db, k > 0 || !s.zero_first,
                std::is_same_v<T, __half> ? simt::kF16 : simt::kBf16, s.trans_a, s.trans_b);
  }
  simt::wgmma_commit();
  simt::wgmma_wait(0);
  for (int i = 0; i < s.n / 2; ++i)
    d[(row + i / 2 % 2 * 8) * s.n + col + i / 4 * 8 + i % 2] = acc[i];
}

template <class T>
std::vector<T> transposed(const std::vector<T>& v, int rows, int cols) {
  std::vector<T> out(v.size());
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < cols; ++c) out[size_t(c * rows + r)] = v[size_t(r * cols + c)];
  return out;
}

template <class T>
bool check(int n, simt::Swizzle swizzle, bool a_regs, bool trans_a, bool trans_b, bool zero_first) {
  const int depth = swizzle == simt::kSwizzleNone ? 32 : kSpan[swizzle] / 2;
  const auto a = random_values<T>(size_t(64 * depth), 1),
             b = random_values<T>(size_t(n * depth), 2);
  std::vector<float> want(size_t(64 * n), zero_first ? 0.0f : 1.0f);
  for (int i = 0; i < 64; ++i)
    for (int k = 0; k < depth; ++k)
      for (int j = 0; j < n; ++j)
        want[size_t(i * n + j)] += f32(a[size_t(i * depth + k)]) * f32(b[size_t(j * depth + k)]);
  const Device<T> da(trans_a ? transposed(a, 64, depth) : a),
      db(trans_b ? transposed(b, n, depth) : b);
  const Device<float> d(want.size());
  Shape s{n, depth, swizzle, a_regs, trans_a, trans_b, zero_first, {}, {}};
  if (swizzle != simt::kSwizzleNone) {
    const auto width = uint32_t(kSpan[swizzle] / 2), k = uint32_t(depth);
    s.map_a = trans_a ? matrix_map(da.p, k, 64, k, width, swizzle)
                      : matrix_map(da.p, 64, k, 64, k, swizzle);
    s.map_b = trans_b ? matrix_map(db.p, k, uint64_t(n), k, width, swizzle)
                      : matrix_map(db.p, uint64_t(n), k, uint32_t(n), k, swizzle);
  }
  launch(wgmma_kernel<T>, dim3(1), dim3(128), kBytesA + kBytesB, d.p, da.p, db.p, s);
  return close("wgmma", d.get(), want, 1e-5f);
}

void check_sources(int n, simt::Swizzle swizzle, bool half) {
  const auto f = half ? check<__half> : check<__nv_bfloat16>;
  for (const bool trans_b : {false, true}) {
    EXPECT(f(n, swizzle, false, false, trans_b, true));
    EXPECT(f(n, swizzle, false, true, trans_b, false));
    EXPECT(f(n, swizzle, true, false, trans_b, false));
  }
}

}  // namespace

void test_wgmma() {
  for (int n = 8; n <= 256; n += 8)
    check_sources(n, simt::Swizzle((n / 8 + int(simt::options().seed)) % 4), n / 8 % 2);
  for (int swizzle = 0; swizzle < 4; ++swizzle)
    for (const bool half : {false, true}) check_sources(64, simt::Swizzle(swizzle), half);
}
