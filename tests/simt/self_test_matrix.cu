// Tests of ldmatrix, stmatrix and mma.sync, by the fragment layouts of the PTX ISA.
#include "tests/simt/self_test.cuh"

namespace {

__global__ void ldmatrix_kernel(uint32_t* out, int n, bool trans) {
  SMEM(uint16_t, tile, [32][24]);  // padded rows of 8 elements
  const int l = threadIdx.x;
  for (int i = 0; i < 8; ++i) tile[l][i] = uint16_t(l * 8 + i);
  __syncwarp();
  uint32_t r[4] = {};
  simt::ldmatrix(r, n, trans, tile[l]);
  for (int i = 0; i < n; ++i) out[l * 4 + i] = r[i];
}

__global__ void stmatrix_kernel(uint16_t* out, int n, bool trans) {
  SMEM(uint16_t, tile, [32][24]);
  const int l = threadIdx.x;
  uint32_t r[4];
  for (int i = 0; i < 4; ++i) r[i] = uint32_t(l * 8 + i * 2) | uint32_t(l * 8 + i * 2 + 1) << 16;
  simt::stmatrix(tile[l], n, trans, r);
  __syncwarp();
  if (l < n * 8)
    for (int i = 0; i < 8; ++i) out[l * 8 + i] = tile[l][i];
}

void test_moves() {
  for (const int n : {1, 2, 4})
    for (const bool trans : {false, true}) {
      const Device<uint32_t> loaded(128);
      const Device<uint16_t> stored(256);
      launch(ldmatrix_kernel, dim3(1), dim3(32), 0, loaded.p, n, trans);
      launch(stmatrix_kernel, dim3(1), dim3(32), 0, stored.p, n, trans);
      for (int l = 0; l < 32; ++l)
        for (int i = 0; i < n; ++i)
          for (int e = 0; e < 2; ++e) {
            const int row = trans ? l % 4 * 2 + e : l / 4, col = trans ? l / 4 : l % 4 * 2 + e;
            EXPECT(int(loaded.p[l * 4 + i] >> e * 16 & 0xFFFF) == (i * 8 + row) * 8 + col);
            EXPECT(stored.p[(i * 8 + row) * 8 + col] == l * 8 + i * 2 + e);
          }
    }
}

template <class T>
constexpr simt::Format kFormat = simt::kTf32;
template <>
constexpr simt::Format kFormat<__nv_bfloat16> = simt::kBf16;
template <>
constexpr simt::Format kFormat<__half> = simt::kF16;

template <class T>
__device__ uint32_t pack(T lo, T hi) {
  return std::bit_cast<uint16_t>(lo) | uint32_t(std::bit_cast<uint16_t>(hi)) << 16;
}

// d[16][8] = a[16][16] b[16][8] + c
template <class T>
__global__ void mma16_kernel(float* d, const T* a, const T* b, const float* c) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4 * 2;
  const auto row_pair = [&](int r, int k) { return pack(a[r * 16 + k], a[r * 16 + k + 1]); };
  const auto column_pair = [&](int k) { return pack(b[k * 8 + g], b[(k + 1) * 8 + g]); };
  const uint32_t ra[] = {row_pair(g, t), row_pair(g + 8, t), row_pair(g, t + 8),
                         row_pair(g + 8, t + 8)};
  const uint32_t rb[] = {column_pair(t), column_pair(t + 8)};
  const float rc[] = {c[g * 8 + t], c[g * 8 + t + 1], c[(g + 8) * 8 + t], c[(g + 8) * 8 + t + 1]};
  float rd[4];
  simt::mma(rd, ra, rb, rc, kFormat<T>);
  d[g * 8 + t] = rd[0], d[g * 8 + t + 1] = rd[1], d[(g + 8) * 8 + t] = rd[2],
            d[(g + 8) * 8 + t + 1] = rd[3];
}

// d[16][8] = a[16][8] b[8][8] + c
__global__ void mma8_kernel(float* d, const float* a, const float* b, const float* c) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  const auto bits = [](float x) {
    return __float_as_uint(x) | 0x1FFFu;
  };  // the low bits do not count
  const uint32_t ra[] = {bits(a[g * 8 + t]), bits(a[(g + 8) * 8 + t]), bits(a[g * 8 + t + 4]),
                         bits(a[(g + 8) * 8 + t + 4])};
  const uint32_t rb[] = {bits(b[t * 8 + g]), bits(b[(t + 4) * 8 + g])};
  float r[] = {c[g * 8 + t * 2], c[g * 8 + t * 2 + 1], c[(g + 8) * 8 + t * 2],
               c[(g + 8) * 8 + t * 2 + 1]};
  simt::mma(r, ra, rb, r, simt::kTf32);
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = r[i];
}

template <class T>
void test_mma(int depth) {
  auto a = random_values<T>(size_t(16 * depth), 1), b = random_values<T>(size_t(depth * 8), 2);
  if constexpr (std::is_same_v<T, float>)
    for (auto* v : {&a, &b})
      for (float& x : *v) x = __uint_as_float(__float_as_uint(x) & 0xFFFFE000u);
  const auto c = random_values<float>(128, 3);
  std::vector<float> want(128);
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j) {
      double s = c[size_t(i * 8 + j)];
      for (int k = 0; k < depth; ++k)
        s += double(f32(a[size_t(i * depth + k)])) * f32(b[size_t(k * 8 + j)]);
      want[size_t(i * 8 + j)] = float(s);
    }
  const Device<T> da(a), db(b);
  const Device<float> dc(c), d(128);
  if constexpr (std::is_same_v<T, float>) {
    launch(mma8_kernel, dim3(1), dim3(32), 0, d.p, da.p, db.p, dc.p);
  } else {
    launch(mma16_kernel<T>, dim3(1), dim3(32), 0, d.p, da.p, db.p, dc.p);
  }
  EXPECT(close("mma", d.get(), want, 1e-6f));
}

}  // namespace

void test_matrix() {
  test_moves();
  test_mma<__nv_bfloat16>(16);
  test_mma<__half>(16);
  test_mma<float>(8);
}
