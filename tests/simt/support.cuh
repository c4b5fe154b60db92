// What the simulator's own tests share: launches, device buffers, comparisons and the wgmma matrix
// descriptor.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "tests/simt/simt.h"

template <class... P, class... A>
void launch_on(cudaStream_t stream, void (*kernel)(P...), dim3 grid, dim3 block, size_t smem,
               A&&... args) {
  struct Call {
    void (*kernel)(P...);
    std::tuple<std::remove_cv_t<P>...> args;
    static void run(void* p) {
      const auto* call = static_cast<Call*>(p);
      std::apply(call->kernel, call->args);
    }
  } call{kernel, {std::forward<A>(args)...}};
  if (simt::capture(stream, [=]() mutable { simt::run(grid, block, smem, Call::run, &call); }))
    return;
  simt::run(grid, block, smem, Call::run, &call);
}
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, A&&... args) {
  launch_on(nullptr, kernel, grid, block, smem, std::forward<A>(args)...);
}

template <class T>
struct Device {
  T* p;
  size_t n;
  explicit Device(size_t n) : p(static_cast<T*>(simt::device_alloc(n * sizeof(T)))), n(n) {}
  explicit Device(const std::vector<T>& v) : Device(v.size()) {
    std::memcpy(static_cast<void*>(p), v.data(), n * sizeof(T));
  }
  Device(const Device&) = delete;
  ~Device() { simt::device_free(p); }
  std::vector<T> get() const { return std::vector<T>(p, p + n); }
};

template <class T>
std::vector<T> random_values(size_t n, unsigned seed) {
  std::mt19937 rng(seed);
  std::uniform_real_distribution<float> u(-1.0f, 1.0f);
  std::vector<T> v(n);
  for (T& x : v) x = T(u(rng));
  return v;
}

inline float f32(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
inline float f32(__half x) {
  return __half2float(x);
}
inline float f32(float x) {
  return x;
}

// Equal within `tolerance` of 1 + |want|; a NaN never is.
template <class T>
bool close(const char* what, const std::vector<T>& got, const std::vector<float>& want,
           float tolerance) {
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::fabs(f32(got[i]) - want[i]) <= tolerance * (1.0f + std::fabs(want[i]))) continue;
    std::printf("FAIL %s: [%zu] = %g, expected %g\n", what, i, double(f32(got[i])),
                double(want[i]));
    return false;
  }
  return true;
}

// Shared-memory matrix descriptor of wgmma (PTX ISA): 16-byte units, swizzle mode in the top bits.
inline uint64_t descriptor(const void* tile, uint32_t byte_offset, uint32_t lbo, uint32_t sbo,
                           simt::Swizzle swizzle, SIMT_HERE) {
  constexpr uint64_t kModes[] = {0, 3, 2, 1};
  const uint64_t address = simt::smem_offset(tile, loc) + byte_offset;
  return (address & 0x3FFFF) >> 4 | uint64_t(lbo >> 4) << 16 | uint64_t(sbo >> 4) << 32 |
         kModes[swizzle] << 62;
}

// A row-major [rows, cols] matrix of 16-bit elements as a tensor map with the given box.
inline simt::TensorMap matrix_map(const void* p, uint64_t rows, uint64_t cols, uint32_t box_rows,
                                  uint32_t box_cols, simt::Swizzle swizzle) {
  const uint64_t dims[] = {cols, rows}, strides[] = {cols * 2};
  const uint32_t box[] = {box_cols, box_rows};
  return simt::tensor_map(p, 2, 2, dims, strides, box, swizzle);
}
