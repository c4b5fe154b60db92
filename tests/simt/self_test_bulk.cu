// Tests of asynchronous copies: TMA loads and stores of every rank and swizzle with boxes that
// leave the tensor, plain bulk copies, cp.async of every size, and mbarrier phases.
#include <array>

#include "tests/simt/self_test.cuh"

namespace {

constexpr uint32_t kBox[] = {0, 5, 3, 2, 2};  // dimension 0 is chosen by the swizzle
constexpr uint64_t kDims[] = {0, 7, 4, 3, 2};
constexpr int kOutside[][5] = {
    {0, 0, 0, 0, 0}, {3, 1, 1, 1, 0}, {-5, -2, 2, -1, 1}, {100, 0, 0, 0, 0}};

struct Tensor {
  int rank;
  uint32_t elem, box[5], bytes = 0;
  uint64_t dims[5], strides[4];  // in bytes, padded
  size_t size;
  Tensor(int rank, uint32_t elem, simt::Swizzle swizzle) : rank(rank), elem(elem) {
    constexpr uint32_t kSpan[] = {64, 32, 64, 128};
    bytes = elem;
    uint64_t stride = 0;
    for (int d = 0; d < rank; ++d) {
      box[d] = d ? kBox[d] : kSpan[swizzle] / elem;
      dims[d] = d ? kDims[d] : box[0] + 3;
      bytes *= box[d];
      if (d) strides[d - 1] = stride;
      stride = d ? stride * dims[d] + 32 : (dims[0] * elem + 31) / 16 * 16;
    }
    size = stride;
  }
  simt::TensorMap map(const void* base, simt::Swizzle swizzle) const {
    return simt::tensor_map(base, elem, rank, dims, strides, box, swizzle);
  }
};

// f(byte of the box, byte in the tensor, or -1 outside) for every element of the box at `at`.
template <class F>
void each_element(const Tensor& t, const int* at, F f) {
  for (uint32_t i = 0; i < t.bytes / t.elem; ++i) {
    int64_t offset = 0;
    uint32_t rest = i;
    bool inside = true;
    for (int d = 0; d < t.rank; ++d) {
      const int64_t c = at[d] + int64_t(rest % t.box[d]);
      rest /= t.box[d];
      inside &= c >= 0 && c < int64_t(t.dims[d]);
      offset += c * int64_t(d ? t.strides[d - 1] : t.elem);
    }
    f(i * t.elem, inside ? offset : -1);
  }
}

uint32_t swizzle_of(uint32_t byte, simt::Swizzle swizzle) {  // 16-byte chunks, by 128-byte lines
  const uint32_t line = byte / 128, chunk = byte / 16;
  const uint32_t rows[] = {0, line & 1, line & 3, line & 7};
  return (chunk ^ (swizzle == simt::kSwizzleNone ? 0 : rows[swizzle])) * 16 + byte % 16;
}

struct At {
  int c[5];
};
template <class F>
__device__ void with_coordinates(const At& a, int rank, F f) {
  if (rank == 1) f({a.c[0]});
  if (rank == 2) f({a.c[0], a.c[1]});
  if (rank == 3) f({a.c[0], a.c[1], a.c[2]});
  if (rank == 4) f({a.c[0], a.c[1], a.c[2], a.c[3]});
  if (rank == 5) f({a.c[0], a.c[1], a.c[2], a.c[3], a.c[4]});
}

__global__ void load_kernel(unsigned char* out, simt::TensorMap map, At at, int rank, int bytes) {
  SMEM_DYNAMIC(smem);
  SMEM(uint64_t, bar, [1]);
  if (threadIdx.x == 0) {
    simt::mbar_init(bar, 1);
    simt::mbar_arrive_expect_tx(bar, uint32_t(bytes));
    with_coordinates(at, rank, [&](simt::Coords c) { simt::tma_load(smem, map, bar, c); });
  }
  __syncthreads();
  simt::mbar_wait(bar, 0);
  for (int i = threadIdx.x; i < bytes; i += blockDim.x) out[i] = smem[i];
}

__global__ void store_kernel(const unsigned char* in, simt::TensorMap map, At at, int rank,
                             int bytes) {
  SMEM_DYNAMIC(smem);
  for (int i = threadIdx.x; i < bytes; i += blockDim.x) smem[i] = in[i];
  simt::fence_proxy_async();
  __syncthreads();
  if (threadIdx.x) return;
  with_coordinates(at, rank, [&](simt::Coords c) { simt::tma_store(map, smem, c); });
  simt::bulk_commit();
  simt::bulk_wait(0, true);
}

std::vector<unsigned char> numbers(size_t n) {
  std::vector<unsigned char> v(n);
  for (size_t i = 0; i < n; ++i) v[i] = (unsigned char)(i * 7 + i / 251);
  return v;
}

void test_box(const Tensor& t, simt::Swizzle swizzle, const int* at) {
  const auto source = numbers(t.size), box = numbers(t.bytes);
  const Device<unsigned char> tensor(source), loaded(t.bytes),
      stored(std::vector<unsigned char>(t.size, 0)), tile(box);
  At a{};
  std::copy(at, at + t.rank, a.c);
  launch(load_kernel, dim3(1), dim3(64), t.bytes, loaded.p, t.map(tensor.p, swizzle), a, t.rank,
         int(t.bytes));
  launch(store_kernel, dim3(1), dim3(64), t.bytes, tile.p, t.map(stored.p, swizzle), a, t.rank,
         int(t.bytes));
  std::vector<unsigned char> want_loaded(t.bytes), want_stored(t.size, 0);
  each_element(t, at, [&](uint32_t byte, int64_t place) {
    for (uint32_t e = 0; e < t.elem; ++e) {
      const uint32_t shared = swizzle_of(byte + e, swizzle);
      want_loaded[shared] = place < 0 ? 0 : source[size_t(place) + e];
      if (place >= 0) want_stored[size_t(place) + e] = box[shared];
    }
  });
  EXPECT(loaded.get() == want_loaded);
  EXPECT(stored.get() == want_stored);
}

void test_tensors() {
  for (int rank = 1; rank <= 5; ++rank)
    for (const uint32_t elem : {2u, 4u})
      for (int swizzle = 0; swizzle < 4; ++swizzle) {
        const Tensor t(rank, elem, simt::Swizzle(swizzle));
        for (const auto& at : kOutside) test_box(t, simt::Swizzle(swizzle), at);
      }
}

void test_refusals() {
  const Device<float> p(1024);
  const auto refused = [&](const void* base, uint32_t elem, uint64_t stride, uint32_t width,
                           uint32_t height, simt::Swizzle swizzle) {
    const uint64_t dims[] = {64, 16};
    const uint32_t box[] = {width, height};
    return fails_with("refuse",
                      [&] { simt::tensor_map(base, elem, 2, dims, &stride, box, swizzle); });
  };
  EXPECT(refused(p.p + 1, 4, 256, 32, 8, simt::kSwizzleNone) &&
         refused(p.p, 8, 512, 32, 8, simt::kSwizzleNone));
  EXPECT(refused(p.p, 4, 264, 32, 8, simt::kSwizzleNone) &&
         refused(p.p, 4, 256, 3, 8, simt::kSwizzleNone));
  EXPECT(refused(p.p, 4, 256, 32, 257, simt::kSwizzleNone) &&
         refused(p.p, 4, 256, 32, 8, simt::kSwizzle64));
}

__global__ void bulk_kernel(float* out, const float* in) {
  SMEM_DYNAMIC(smem);
  SMEM(uint64_t, bar, [1]);
  float* tile = reinterpret_cast<float*>(smem);
  if (threadIdx.x == 0) {
    simt::mbar_init(bar, 1);
    simt::bulk_load(tile, in, 2048, bar);
    simt::mbar_expect_tx(bar, 2048);
    simt::mbar_arrive(bar);
  }
  __syncthreads();
  while (!simt::mbar_try_wait(bar, 0)) continue;
  for (int i = threadIdx.x; i < 512; i += blockDim.x) tile[i] *= 2;
  simt::fence_proxy_async();
  __syncthreads();
  if (threadIdx.x) return;
  for (int i = 0; i < 4; ++i) {
    simt::bulk_store(out + i * 128, tile + i * 128, 512);
    simt::bulk_commit();
  }
  simt::bulk_wait(1, false);
  const float done = out[0];  // the first three groups are written and visible here
  simt::bulk_wait(0, true);
  if (done != tile[0]) simt::fail("a waited-for bulk store is not visible");
}

template <int Bytes>
__global__ void cp_async_kernel(unsigned char* out, const unsigned char* in, bool by_mbarrier) {
  SMEM(unsigned char, tile, [3][64 * Bytes]);
  SMEM(uint64_t, bar, [3]);
  const int t = threadIdx.x;
  if (t < 3) simt::mbar_init(&bar[t], 64);
  __syncthreads();
  for (int s = 0; s < 3;
       ++s) {  // the last third of the threads asks for half its bytes, the rest becomes zero
    const int n = t < 40 ? Bytes : Bytes / 2, i = (s * 64 + t) * Bytes;
    simt::cp_async(&tile[s][t * Bytes], in + i, Bytes, n);
    if (by_mbarrier) {
      simt::cp_async_mbar_arrive(&bar[s]);
    } else {
      simt::cp_async_commit();
    }
  }
  for (int s = 0; s < 3; ++s) {
    if (by_mbarrier) {
      simt::mbar_wait(&bar[s], 0);
    } else {
      simt::cp_async_wait(2 - s);
      __syncthreads();
    }
    for (int i = t; i < 64 * Bytes; i += 64) out[s * 64 * Bytes + i] = tile[s][64 * Bytes - 1 - i];
  }
}

template <int Bytes>
void test_cp_async() {
  const auto in = numbers(3 * 64 * Bytes);
  for (const bool by_mbarrier : {false, true}) {
    const Device<unsigned char> source(in), out(in.size());
    launch(cp_async_kernel<Bytes>, dim3(1), dim3(64), 0, out.p, source.p, by_mbarrier);
    bool right = true;
    for (int i = 0; i < 3 * 64 * Bytes; ++i) {
      const int s = i / (64 * Bytes), from = 64 * Bytes - 1 - i % (64 * Bytes);
      const bool copied = from / Bytes < 40 || from % Bytes < Bytes / 2;
      right &= out.p[i] == (copied ? in[size_t(s * 64 * Bytes + from)] : 0);
    }
    EXPECT(right);
  }
}

// A ring of two stages between a producer and a consumer warp, five times round; then the barriers
// are used again.
__global__ void ring_kernel(int* out) {
  SMEM(int, stage, [2]);
  SMEM(uint64_t, full, [2]);
  SMEM(uint64_t, empty, [2]);
  const int t = threadIdx.x;
  for (int again = 0; again < 2; ++again) {
    if (t < 2) {
      simt::mbar_init(&full[t], 1);
      simt::mbar_init(&empty[t], 32);
    }
    __syncthreads();
    for (int i = 0; i < 10; ++i) {
      const int s = i % 2, parity = i / 2 % 2;
      if (t == 0) {
        simt::mbar_wait(&empty[s], parity ^ 1);
        stage[s] = i * i;
        simt::mbar_arrive(&full[s]);
      } else if (t >= 32) {
        simt::mbar_wait(&full[s], parity);
        if (t == 32) out[again * 10 + i] = stage[s];
        simt::mbar_arrive(&empty[s]);
      }
    }
    __syncthreads();
    if (t < 2) {
      simt::mbar_inval(&full[t]);
      simt::mbar_inval(&empty[t]);
    }
    __syncthreads();
  }
}

}  // namespace

void test_bulk() {
  test_tensors();
  test_refusals();
  const auto in = random_values<float>(512, 1);
  const Device<float> source(in), out(512);
  launch(bulk_kernel, dim3(1), dim3(64), 2048, out.p, source.p);
  for (size_t i = 0; i < 512; ++i) EXPECT(out.p[i] == 2 * in[i]);
  test_cp_async<4>();
  test_cp_async<8>();
  test_cp_async<16>();
  const Device<int> ring(20);
  launch(ring_kernel, dim3(1), dim3(64), 0, ring.p);
  for (int i = 0; i < 20; ++i) EXPECT(ring.p[i] == i % 10 * (i % 10));
}
