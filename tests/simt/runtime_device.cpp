// CUDA runtime twin: the simulated device and its limits, and error reporting. The figures are an
// H100's, except for a small number of multiprocessors, so that persistent kernels go round more
// than once. PARLO_SIMT_DEVICES=0: no device. PARLO_SIMT_CAPABILITY=80: says it is an sm_80, so
// that kernels for older GPUs run.
#include <cstdlib>

#include "tests/simt/runtime.h"

namespace simt {

constexpr int kMultiprocessors = 4, kL2Bytes = 50 << 20, kThreadsPerMultiprocessor = 2048;
constexpr int kSharedPerMultiprocessor = 228 << 10, kSharedPerBlock = 48 << 10,
              kReservedShared = 1 << 10;

static thread_local cudaError_t last_error = cudaSuccess;

cudaError_t result(cudaError_t e) {
  if (e != cudaSuccess && e != cudaErrorNotReady) last_error = e;
  return e;
}

bool has_device() {
  const char* devices = std::getenv("PARLO_SIMT_DEVICES");
  return !devices || std::strcmp(devices, "0") != 0;
}

static cudaError_t check_device(int device) {
  if (!has_device()) return cudaErrorNoDevice;
  return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

struct ErrorName {
  cudaError_t code;
  const char *name, *text;
};
#define NAMED(code, text) \
  { code, #code, text }
constexpr ErrorName kErrors[] = {
    NAMED(cudaSuccess, "no error"),
    NAMED(cudaErrorInvalidValue, "invalid argument"),
    NAMED(cudaErrorMemoryAllocation, "out of memory"),
    NAMED(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    NAMED(cudaErrorInvalidDeviceFunction, "invalid device function"),
    NAMED(cudaErrorNoDevice, "no CUDA-capable device is detected"),
    NAMED(cudaErrorInvalidDevice, "invalid device ordinal"),
    NAMED(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    NAMED(cudaErrorIllegalState, "the operation cannot be performed in the present state"),
    NAMED(cudaErrorNotReady, "device not ready"),
    NAMED(cudaErrorNotSupported, "operation not supported"),
    NAMED(cudaErrorLaunchFailure, "unspecified launch failure"),
    NAMED(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing"),
    NAMED(cudaErrorStreamCaptureInvalidated,
          "operation failed due to a previous error during capture"),
    NAMED(cudaErrorStreamCaptureUnmatched, "capture was not ended in the same stream as it began"),
    NAMED(cudaErrorStreamCaptureUnjoined, "capturing stream has unjoined work"),
    NAMED(cudaErrorStreamCaptureIsolation,
          "dependency created on uncaptured work in another stream"),
    NAMED(cudaErrorStreamCaptureImplicit,
          "operation would make the legacy stream depend on a capturing blocking stream"),
    NAMED(cudaErrorCapturedEvent,
          "operation not permitted on an event last recorded in a capturing stream"),
};
#undef NAMED

static const ErrorName* find_error(cudaError_t code) {
  for (const ErrorName& e : kErrors)
    if (e.code == code) return &e;
  return nullptr;
}

static int capability() {
  const char* said = std::getenv("PARLO_SIMT_CAPABILITY");
  return said ? std::atoi(said) : 90;
}

static int attribute(cudaDeviceAttr attr) {
  switch (attr) {
    case cudaDevAttrComputeCapabilityMajor:
      return capability() / 10;
    case cudaDevAttrComputeCapabilityMinor:
      return capability() % 10;
    case cudaDevAttrMultiProcessorCount:
      return kMultiprocessors;
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY:
      return 1024;
    case cudaDevAttrMaxBlockDimZ:
      return 64;
    case cudaDevAttrMaxGridDimX:
      return 0x7FFFFFFF;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
      return 65535;
    case cudaDevAttrWarpSize:
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      return 32;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      return kThreadsPerMultiprocessor;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      return 65536;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      return kSharedPerBlock;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return int(kMaxShared);
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      return kSharedPerMultiprocessor;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      return kReservedShared;
    case cudaDevAttrL2CacheSize:
      return kL2Bytes;
    case cudaDevAttrClockRate:
      return 1'980'000;
    case cudaDevAttrMemoryClockRate:
      return 2'619'000;
    case cudaDevAttrGlobalMemoryBusWidth:
      return 5120;
    case cudaDevAttrMemoryPoolsSupported:
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrConcurrentKernels:
      return 1;
    default:
      return 0;
  }
}

}  // namespace simt

using simt::result;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = simt::has_device() ? 1 : 0;
  return result(*count ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return result(simt::check_device(0));
}

cudaError_t cudaSetDevice(int device) {
  return result(simt::check_device(device));
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attr, int device) {
  *value = simt::attribute(attr);
  return result(simt::check_device(device));
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* prop, int device) {
  *prop = {};
  const auto get = [](cudaDeviceAttr a) { return simt::attribute(a); };
  std::strcpy(prop->name, "simulated");
  size_t available = 0;
  cudaMemGetInfo(&available, &prop->totalGlobalMem);
  prop->major = get(cudaDevAttrComputeCapabilityMajor);
  prop->minor = get(cudaDevAttrComputeCapabilityMinor);
  prop->multiProcessorCount = get(cudaDevAttrMultiProcessorCount);
  prop->warpSize = get(cudaDevAttrWarpSize);
  prop->maxThreadsPerBlock = get(cudaDevAttrMaxThreadsPerBlock);
  prop->maxThreadsPerMultiProcessor = get(cudaDevAttrMaxThreadsPerMultiProcessor);
  prop->maxBlocksPerMultiProcessor = get(cudaDevAttrMaxBlocksPerMultiprocessor);
  prop->regsPerBlock = prop->regsPerMultiprocessor = get(cudaDevAttrMaxRegistersPerBlock);
  prop->sharedMemPerBlock = size_t(get(cudaDevAttrMaxSharedMemoryPerBlock));
  prop->sharedMemPerBlockOptin = size_t(get(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  prop->sharedMemPerMultiprocessor = size_t(get(cudaDevAttrMaxSharedMemoryPerMultiprocessor));
  prop->reservedSharedMemPerBlock = size_t(get(cudaDevAttrReservedSharedMemoryPerBlock));
  prop->l2CacheSize = get(cudaDevAttrL2CacheSize);
  prop->memoryBusWidth = get(cudaDevAttrGlobalMemoryBusWidth);
  prop->memoryPoolsSupported = prop->unifiedAddressing = prop->concurrentKernels = 1;
  for (int i = 0; i < 3; ++i) {
    prop->maxThreadsDim[i] = get(cudaDeviceAttr(cudaDevAttrMaxBlockDimX + i));
    prop->maxGridSize[i] = get(cudaDeviceAttr(cudaDevAttrMaxGridDimX + i));
  }
  return result(simt::check_device(device));
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = simt::has_device() ? CUDART_VERSION : 0;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* func, cudaFuncAttribute attr, int value) {
  if (!func) return result(cudaErrorInvalidDeviceFunction);
  const bool too_much =
      attr == cudaFuncAttributeMaxDynamicSharedMemorySize && value > int(simt::kMaxShared);
  return result(value < -1 || too_much ? cudaErrorInvalidValue : cudaSuccess);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* func, int block,
                                                          size_t dynamic) {
  if (!func) return result(cudaErrorInvalidDeviceFunction);
  if (block <= 0 || block > int(simt::kMaxThreads)) return result(cudaErrorInvalidValue);
  const int by_memory =
      int(size_t(simt::kSharedPerMultiprocessor) / (dynamic + simt::kReservedShared));
  *blocks = std::min({32, simt::kThreadsPerMultiprocessor / block, by_memory});
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  return std::exchange(simt::last_error, cudaSuccess);
}

cudaError_t cudaPeekAtLastError() {
  return simt::last_error;
}

const char* cudaGetErrorName(cudaError_t code) {
  const auto* e = simt::find_error(code);
  return e ? e->name : "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t code) {
  const auto* e = simt::find_error(code);
  return e ? e->text : "unrecognized error code";
}

}  // extern "C"
