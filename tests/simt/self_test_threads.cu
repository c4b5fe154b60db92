// Tests of threads, warps and barriers: shuffles, votes, atomics, failures, and that the machine
// survives them.
#include <cassert>
#include <thread>

#include "tests/simt/self_test.cuh"

namespace {

template <class T>
__global__ void shuffle_kernel(T* out) {
  const int l = threadIdx.x;
  const T v = T(float(l));
  out[l] = __shfl_sync(~0u, v, 5);
  out[32 + l] = __shfl_up_sync(~0u, v, 3);
  out[64 + l] = __shfl_down_sync(~0u, v, 2, 16);
  out[96 + l] = __shfl_xor_sync(~0u, v, 9);
}

template <class T>
void test_shuffles() {
  const Device<T> out(128);
  launch(shuffle_kernel<T>, dim3(1), dim3(32), 0, out.p);
  for (int l = 0; l < 32; ++l) {
    EXPECT(float(out.p[l]) == 5);
    EXPECT(float(out.p[32 + l]) == float(l < 3 ? l : l - 3));
    EXPECT(float(out.p[64 + l]) == float(l % 16 + 2 < 16 ? l + 2 : l));
    EXPECT(float(out.p[96 + l]) == float(l ^ 9));
  }
}

__global__ void vote_kernel(uint32_t* out, int* signs) {
  const int l = threadIdx.x, x = (l * 7 + 3) % 11 - 5;
  out[0] = __ballot_sync(~0u, l % 3 == 0);
  out[1] = __all_sync(~0u, l < 32);
  out[2] = __all_sync(~0u, l < 31);
  out[3] = __any_sync(~0u, l == 31);
  out[4] = __reduce_add_sync(~0u, unsigned(l));
  out[5] = __reduce_max_sync(~0u, unsigned(l ^ 21));
  out[6] = __reduce_and_sync(~0u, 0xF0u | l);
  out[7] = __reduce_or_sync(~0u, unsigned(l) << 8);
  out[8] = __reduce_xor_sync(~0u, unsigned(l * l));
  signs[0] = __reduce_min_sync(~0u, x);
  signs[1] = __reduce_max_sync(~0u, x);
  signs[2] = __reduce_add_sync(~0u, x);
  if (l % 2) out[9] = __ballot_sync(0xAAAAAAAAu, l > 16);
  out[10 + l] = __match_any_sync(~0u, l / 5);
  out[42] = __activemask();
}

void test_votes() {
  const Device<uint32_t> out(43);
  const Device<int> signs(3);
  launch(vote_kernel, dim3(1), dim3(32), 0, out.p, signs.p);
  uint32_t ballot = 0, ors = 0, ands = ~0u, xors = 0, largest = 0;
  int low = 99, high = -99, sum = 0;
  for (int l = 0; l < 32; ++l) {
    const int x = (l * 7 + 3) % 11 - 5;
    low = std::min(low, x), high = std::max(high, x), sum += x;
    ballot |= uint32_t(l % 3 == 0) << l;
    ands &= 0xF0u | unsigned(l), ors |= unsigned(l) << 8, xors ^= unsigned(l * l);
    largest = std::max(largest, unsigned(l ^ 21));
    uint32_t same = 0;
    for (int o = 0; o < 32; ++o) same |= uint32_t(o / 5 == l / 5) << o;
    EXPECT(out.p[10 + l] == same);
  }
  EXPECT(out.p[0] == ballot);
  EXPECT(out.p[1] == 1 && out.p[2] == 0 && out.p[3] == 1 && out.p[4] == 496);
  EXPECT(out.p[5] == largest && out.p[6] == ands && out.p[7] == ors && out.p[8] == xors);
  EXPECT(out.p[9] == 0xAAAA0000u && out.p[42] != 0);
  EXPECT(signs.p[0] == low && signs.p[1] == high && signs.p[2] == sum);
}

__global__ void barrier_kernel(int* out) {
  const int t = threadIdx.x;
  const int count = __syncthreads_count(t % 3 == 0), some = __syncthreads_or(t == 17),
            every = __syncthreads_and(t < 96);
  const int none = __syncthreads_or(0), most = __syncthreads_and(t != 5);
  if (t == 0) out[0] = count, out[1] = some, out[2] = every, out[3] = none, out[4] = most;
  SMEM(int, ring, [2]);  // two producer warps and one consumer, two named barriers
  for (int i = 0; i < 4; ++i) {
    if (t < 64) {
      simt::bar_sync(2, 96);
      if (t % 32 == 0) ring[t / 32] = i * 10 + t / 32;
      simt::bar_arrive(1, 96);
    } else {
      simt::bar_arrive(2, 96);
      simt::bar_sync(1, 96);
      if (t == 64) out[5 + i] = ring[0] + ring[1];
    }
  }
}

void test_barriers() {
  const Device<int> out(9);
  launch(barrier_kernel, dim3(1), dim3(96), 0, out.p);
  EXPECT(out.p[0] == 32 && out.p[1] == 1 && out.p[2] == 1 && out.p[3] == 0 && out.p[4] == 0);
  for (int i = 0; i < 4; ++i) EXPECT(out.p[5 + i] == i * 20 + 1);
}

__global__ void atomic_kernel(float* f, double* d, int* i, unsigned* u, unsigned long long* l) {
  const int t = threadIdx.x;
  atomicAdd(f, 1.0f);
  atomicAdd(d, 0.5);
  atomicAdd(i, 2);
  atomicAdd(u, 3u);
  atomicAdd(l, 1ull << 33);
  atomicMax(i + 1, t);
  atomicMin(i + 2, t - 7);
  atomicOr(u + 1, 1u << t % 32);
  atomicAnd(u + 2, ~(1u << t % 32));
  atomicCAS(i + 3, t, t + 1);
  if (t == 0) atomicExch(u + 3, 42u);
  SMEM(int, shared, [1]);
  if (t == 0) *shared = 0;
  __syncthreads();
  atomicAdd(shared, 1);
  __syncthreads();
  if (t == 0) i[4] = *shared;
}

void test_atomics() {
  const Device<float> f(std::vector<float>{0});
  const Device<double> d(std::vector<double>{0});
  const Device<int> i(std::vector<int>{0, -1, 99, 0, 0});
  const Device<unsigned> u(std::vector<unsigned>{0, 0, ~0u, 0});
  const Device<unsigned long long> l(std::vector<unsigned long long>{0});
  launch(atomic_kernel, dim3(1), dim3(64), 0, f.p, d.p, i.p, u.p, l.p);
  EXPECT(*f.p == 64 && *d.p == 32 && i.p[0] == 128 && u.p[0] == 192 && *l.p == 64ull << 33);
  EXPECT(i.p[1] == 63 && i.p[2] == -7 && u.p[1] == ~0u && u.p[2] == 0 && u.p[3] == 42 &&
         i.p[4] == 64);
  EXPECT(i.p[3] > 0 && i.p[3] <= 64);
}

void test_scalars() {
  EXPECT(__brev(0x80000001u) == 0x80000001u && __brev(6) == 0x60000000u);
  EXPECT(__byte_perm(0x33221100u, 0x77665544u, 0x7041) == 0x77004411u);
  EXPECT(__funnelshift_l(0x80000000u, 1, 1) == 3 && __funnelshift_r(2, 1, 1) == 0x80000001u);
  EXPECT(__umulhi(0x80000000u, 6) == 3 && __mulhi(-0x40000000, 8) == -2);
  EXPECT(__clz(1) == 31 && __clzll(1) == 63 && __ffs(8) == 4 && __ffsll(1ll << 40) == 41);
  EXPECT(__popc(0xFFu) == 8 && __popcll(~0ull) == 64);
  EXPECT(__float2int_rn(2.5f) == 2 && __float2int_rn(3.5f) == 4 &&
         __float2int_rn(1e20f) == 0x7FFFFFFF);
  EXPECT(__float_as_int(1.0f) == 0x3F800000 && __int_as_float(0x40000000) == 2.0f);
  EXPECT(__longlong_as_double(__double_as_longlong(0.3)) == 0.3);
  EXPECT(max(1, 2u) == 2u && min(2.0f, 1) == 1.0f && max(NAN, 1.0f) == 1.0f &&
         min(1.0f, NAN) == 1.0f);
  float s = 0, c = 0;
  sincospif(0.5f, &s, &c);
  EXPECT(std::fabs(s - 1) < 1e-6f && std::fabs(c) < 1e-6f && rsqrtf(4.0f) == 0.5f &&
         __fmaf_rn(2, 3, 4) == 10);
  const float4 v = make_float4(1, 2, 3, 4);
  const uint2 w = make_uint2(5, 6);
  EXPECT(__ldg(&v).w == 4 && __ldcs(&v).y == 2 && __ldcg(&w).y == 6);
  float4 stored;
  __stcs(&stored, v);
  EXPECT(stored.z == 3);
}

__global__ void good_kernel(int* out) {
  atomicAdd(out, 1);
}
__global__ void trap_kernel(int at) {
  if (int(threadIdx.x) == at) __trap();
}
__global__ void throwing_kernel() {
  throw std::runtime_error("thrown");
}
__global__ void stuck_kernel() {
  SMEM(uint64_t, bar, [1]);
  if (threadIdx.x == 0) simt::mbar_init(bar, 2);
  __syncthreads();
  if (threadIdx.x == 0) simt::mbar_arrive(bar);
  simt::mbar_wait(bar, 0);
}
__global__ void clock_kernel(long long* out) {
  out[threadIdx.x] = clock64() - clock64();
}
__global__ void asserting_kernel(int x) {
  assert(x == 0);
}

bool works() {
  const Device<int> out(std::vector<int>{0});
  launch(good_kernel, dim3(2, 3), dim3(40), 0, out.p);
  return *out.p == 240;
}

void test_failures() {
  EXPECT(fails_with("__trap", [] { launch(trap_kernel, dim3(1), dim3(64), 0, 40); }) && works());
  EXPECT(fails_with("thrown", [] { launch(throwing_kernel, dim3(1), dim3(64), 0); }) && works());
  EXPECT(fails_with("pending arrivals 1", [] { launch(stuck_kernel, dim3(1), dim3(64), 0); }) &&
         works());
  EXPECT(fails_with("x == 0", [] { launch(asserting_kernel, dim3(1), dim3(1), 0, 1); }) && works());
  const auto refused = [](dim3 grid, dim3 block, size_t smem) {
    return fails_with("invalid configuration", [&] { launch(trap_kernel, grid, block, smem, -1); });
  };
  EXPECT(refused(dim3(0), dim3(32), 0) && refused(dim3(1, 0), dim3(32), 0) &&
         refused(dim3(1, 65536), dim3(32), 0));
  EXPECT(refused(dim3(1), dim3(1025), 0) && refused(dim3(1), dim3(1, 1, 65), 0) &&
         refused(dim3(1), dim3(0), 0));
  EXPECT(refused(dim3(1), dim3(32), (227 << 10) + 1) && works());
  const Device<long long> ticks(32);
  launch(clock_kernel, dim3(1), dim3(32), 0, ticks.p);
  EXPECT(ticks.p[3] == -1);
}

void test_host_threads() {
  std::vector<int> good(4, 0);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&good, i] { good[size_t(i)] = works(); });
  for (auto& t : threads) t.join();
  for (const int g : good) EXPECT(g);
}

}  // namespace

void test_threads() {
  test_shuffles<int>();
  test_shuffles<float>();
  test_shuffles<double>();
  test_shuffles<uint64_t>();
  test_shuffles<__half>();
  test_shuffles<__nv_bfloat16>();
  test_votes();
  test_barriers();
  test_atomics();
  test_scalars();
  test_failures();
  test_host_threads();
}
