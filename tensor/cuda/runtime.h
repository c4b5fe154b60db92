// What the GPU backend needs of the CUDA runtime: checked calls, one compute stream a device,
// owners of events, graphs and pinned memory. Host code only; kernels start through launch.cuh.
// Source: CUDA Runtime API reference, "Stream Ordered Memory Allocator" and "Graph Management".
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "tensor/device.h"
#include "tensor/error.h"

namespace parlo::cuda {

[[noreturn]] void fail(cudaError_t error, const char* call, const char* file, int line);

// Throws Error naming the call, the error and the place.
#define CUDA_CHECK(call)                                            \
  do {                                                              \
    if (const cudaError_t error_ = (call); error_ != cudaSuccess) { \
      ::parlo::cuda::fail(error_, #call, __FILE__, __LINE__);       \
    }                                                               \
  } while (0)

// The stream of all kernels and copies of a device, made current for the calling thread. One stream
// only: what was freed may be used again by the next kernel without an event.
cudaStream_t stream_of(Device device);

struct Properties {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  size_t shared_bytes = 0;  // a block may ask for
  size_t l2_bytes = 0;
  size_t memory_bytes = 0;
};
const Properties& properties(Device device);

// Called by launch() after each kernel; see set_sync_debug.
void launched(const char* name, cudaStream_t stream);

class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream);
  void wait() const;  // on the host
  // Milliseconds from `start` to this; both were waited for.
  float ms_since(const Event& start) const;

 private:
  cudaEvent_t event_ = nullptr;
};

// Work captured once and started again with one call; scalars that change live in device memory.
class Graph {
 public:
  // Records what body() gives to the device's stream, without running it.
  static Graph capture(Device device, const std::function<void()>& body);
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&& other) noexcept;
  ~Graph();
  void launch() const;

 private:
  Graph() = default;
  Device device_;
  cudaGraphExec_t exec_ = nullptr;
};

// Page-locked host memory, from which copies run beside kernels.
class Pinned {
 public:
  explicit Pinned(size_t bytes);
  ~Pinned();
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Bytes the pool holds from the driver beyond what is in tensors: what fragmentation costs.
int64_t pool_slack_bytes(Device device);
void reset_peak(Device device);

}  // namespace parlo::cuda
