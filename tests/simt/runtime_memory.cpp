// CUDA runtime twin: device and pinned memory, copies. Device memory is heap memory that the
// simulator knows: a copy whose device side is not inside one allocation is refused, which catches
// host pointers and overruns. PARLO_SIMT_MEMORY_MB limits it.
#include <cstdlib>
#include <set>

#include "tests/simt/runtime.h"

namespace simt {
namespace {

// Guarded by m.memory. Never destroyed, since static objects may free memory at exit.
size_t in_use = 0;
auto& pinned = *new std::set<const void*>;

size_t capacity() {
  const char* mb = std::getenv("PARLO_SIMT_MEMORY_MB");
  return mb ? size_t(std::strtoull(mb, nullptr, 10)) << 20 : size_t(16) << 30;
}

enum Place { kHost, kDevice, kOutOfRange };

Place place_of(const void* p, size_t bytes) {
  const std::lock_guard lock(m.memory);
  auto it = m.allocations.upper_bound(uintptr_t(p));
  if (it == m.allocations.begin()) return kHost;
  const auto& [base, allocation] = *--it;
  if (uintptr_t(p) >= base + allocation.bytes) return kHost;
  return bytes <= base + allocation.bytes - uintptr_t(p) ? kDevice : kOutOfRange;
}

bool allowed(const void* dst, size_t dst_bytes, const void* src, size_t src_bytes,
             cudaMemcpyKind kind) {
  if (!dst || !src) return false;
  const Place to = place_of(dst, dst_bytes), from = place_of(src, src_bytes);
  if (to == kOutOfRange || from == kOutOfRange) return false;
  switch (kind) {
    case cudaMemcpyHostToHost:
      return to == kHost && from == kHost;
    case cudaMemcpyHostToDevice:
      return to == kDevice && from == kHost;
    case cudaMemcpyDeviceToHost:
      return to == kHost && from == kDevice;
    case cudaMemcpyDeviceToDevice:
      return to == kDevice && from == kDevice;
    default:
      return kind == cudaMemcpyDefault;
  }
}

cudaError_t copy(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind,
                 cudaStream_t stream) {
  if (!bytes) return cudaSuccess;
  if (!allowed(dst, bytes, src, bytes, kind)) return cudaErrorInvalidValue;
  return submit(stream, [=] { std::memmove(dst, src, bytes); });
}

cudaError_t fill(void* p, int value, size_t bytes, cudaStream_t stream) {
  if (!bytes) return cudaSuccess;
  if (place_of(p, bytes) != kDevice) return cudaErrorInvalidValue;
  return submit(stream, [=] { std::memset(p, value, bytes); });
}

cudaError_t release(void* p) {
  if (!p) return cudaSuccess;
  {
    const std::lock_guard lock(m.memory);
    if (!m.allocations.count(uintptr_t(p))) return cudaErrorInvalidValue;
  }
  device_free(p);
  return cudaSuccess;
}

}  // namespace

void* device_alloc(size_t bytes) {
  void* p = nullptr;
  if (posix_memalign(&p, 256, std::max<size_t>(bytes, 1))) throw std::bad_alloc();
  std::memset(p, 0xFF, bytes);
  const std::lock_guard lock(m.memory);
  m.allocations[uintptr_t(p)].bytes = bytes;
  in_use += bytes;
  ++m.memory_version;
  return p;
}

void device_free(void* p) {
  {
    const std::lock_guard lock(m.memory);
    const auto it = m.allocations.find(uintptr_t(p));
    if (it == m.allocations.end()) return;
    in_use -= it->second.bytes;
    m.allocations.erase(it);
    ++m.memory_version;
  }
  std::free(p);
}

cudaError_t allocate(void** p, size_t bytes) {
  *p = nullptr;
  if (!has_device()) return cudaErrorNoDevice;
  if (!bytes) return cudaSuccess;
  {
    const std::lock_guard lock(m.memory);
    if (bytes > capacity() || in_use > capacity() - bytes) return cudaErrorMemoryAllocation;
  }
  try {
    *p = device_alloc(bytes);
  } catch (const std::bad_alloc&) {
    return cudaErrorMemoryAllocation;
  }
  return cudaSuccess;
}

}  // namespace simt

using simt::check_no_capture;
using simt::result;

extern "C" {

cudaError_t cudaMalloc(void** p, size_t bytes) {
  if (const cudaError_t e = check_no_capture()) return result(e);
  return result(simt::allocate(p, bytes));
}

cudaError_t cudaFree(void* p) {
  if (const cudaError_t e = check_no_capture()) return result(e);
  return result(simt::release(p));
}

cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t e = simt::allocate(p, bytes)) return result(e);
  void* at = *p;
  // The memory of a graph has no defined contents when the graph starts.
  if (simt::owned_by_capture(stream, at)) return result(simt::fill(at, 0xFF, bytes, stream));
  return result(simt::submit(stream, [] {}));
}

cudaError_t cudaFreeAsync(void* p, cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (const cudaError_t e = cudaStreamIsCapturing(stream, &status)) return result(e);
  if (status == cudaStreamCaptureStatusNone) return result(simt::release(p));
  return result(simt::graph_owns(stream, p) ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  if (const cudaError_t e = check_no_capture()) return result(e);
  *p = nullptr;
  if (bytes && posix_memalign(p, 256, bytes)) return result(cudaErrorMemoryAllocation);
  const std::lock_guard lock(simt::m.memory);
  if (*p) simt::pinned.insert(*p);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** p, size_t bytes) {
  return cudaHostAlloc(p, bytes, 0);
}

cudaError_t cudaFreeHost(void* p) {
  if (const cudaError_t e = check_no_capture()) return result(e);
  if (!p) return cudaSuccess;
  {
    const std::lock_guard lock(simt::m.memory);
    if (!simt::pinned.erase(p)) return result(cudaErrorInvalidValue);
  }
  std::free(p);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind) {
  if (const cudaError_t e = check_no_capture()) return result(e);
  return result(simt::copy(dst, src, bytes, kind, nullptr));
}

cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return result(simt::copy(dst, src, bytes, kind, stream));
}

cudaError_t cudaMemcpy2DAsync(void* dst, size_t dst_pitch, const void* src, size_t src_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  if (!width || !height) return cudaSuccess;
  if (dst_pitch < width || src_pitch < width) return result(cudaErrorInvalidValue);
  const size_t rows = height - 1;
  if (!simt::allowed(dst, rows * dst_pitch + width, src, rows * src_pitch + width, kind)) {
    return result(cudaErrorInvalidValue);
  }
  return result(simt::submit(stream, [=] {
    for (size_t r = 0; r < height; ++r) {
      std::memcpy(static_cast<char*>(dst) + r * dst_pitch,
                  static_cast<const char*>(src) + r * src_pitch, width);
    }
  }));
}

cudaError_t cudaMemcpy2D(void* dst, size_t dst_pitch, const void* src, size_t src_pitch,
                         size_t width, size_t height, cudaMemcpyKind kind) {
  if (const cudaError_t e = check_no_capture()) return result(e);
  return cudaMemcpy2DAsync(dst, dst_pitch, src, src_pitch, width, height, kind, nullptr);
}

cudaError_t cudaMemset(void* p, int value, size_t bytes) {
  if (const cudaError_t e = check_no_capture()) return result(e);
  return result(simt::fill(p, value, bytes, nullptr));
}

cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  return result(simt::fill(p, value, bytes, stream));
}

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  *total = simt::capacity();
  const std::lock_guard lock(simt::m.memory);
  *available = *total - std::min(*total, simt::in_use);
  return result(simt::has_device() ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  static int the_pool;
  *pool = reinterpret_cast<cudaMemPool_t>(&the_pool);
  return result(device               ? cudaErrorInvalidDevice
                : simt::has_device() ? cudaSuccess
                                     : cudaErrorNoDevice);
}

static uint64_t release_threshold = 0;

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr attr, void* value) {
  if (attr == cudaMemPoolAttrReleaseThreshold)
    std::memcpy(&release_threshold, value, sizeof release_threshold);
  return cudaSuccess;
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr attr, void* value) {
  const std::lock_guard lock(simt::m.memory);
  uint64_t v = simt::in_use;  // nothing is kept beyond what is in use
  if (attr == cudaMemPoolAttrReleaseThreshold) v = release_threshold;
  if (attr < cudaMemPoolAttrReleaseThreshold) {
    const int on = 1;
    std::memcpy(value, &on, sizeof on);
  } else {
    std::memcpy(value, &v, sizeof v);
  }
  return cudaSuccess;
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) {
  return cudaSuccess;
}

}  // extern "C"
