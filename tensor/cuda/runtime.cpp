#include "tensor/cuda/runtime.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "tensor/device_memory.h"

namespace parlo::cuda {

void fail(cudaError_t error, const char* call, const char* file, int line) {
  cudaGetLastError();  // what can be cleared must not reach the next, innocent call
  const std::string path = file;
  throw Error(concat("CUDA: ", cudaGetErrorName(error), " (", cudaGetErrorString(error), ") in ",
                     call, " at ", path.substr(path.find_last_of('/') + 1), ":", line));
}

namespace {

struct Gpu {
  Properties properties;
  cudaStream_t stream = nullptr;
};

struct Gpus {
  std::vector<Gpu> all;
  std::string why_none;
};

int attribute(cudaDeviceAttr which, int index) {
  int value = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&value, which, index));
  return value;
}

Gpu open(int index) {
  CUDA_CHECK(cudaSetDevice(index));
  cudaDeviceProp prop{};
  CUDA_CHECK(cudaGetDeviceProperties(&prop, index));
  Gpu gpu;
  Properties& p = gpu.properties;
  p.name = prop.name;
  p.major = prop.major, p.minor = prop.minor;
  p.multiprocessors = prop.multiProcessorCount;
  p.memory_bytes = prop.totalGlobalMem;
  p.shared_bytes = static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index));
  p.l2_bytes = static_cast<size_t>(attribute(cudaDevAttrL2CacheSize, index));
  CHECK(p.major >= 8, "CUDA: ", p.name, " has compute capability ", p.major, ".", p.minor,
        ", expected 8.0 or higher; use --device cpu");
  CUDA_CHECK(cudaStreamCreateWithFlags(&gpu.stream, cudaStreamNonBlocking));
  // Freed memory stays with the pool: giving it back to the driver stalls the device.
  cudaMemPool_t pool = nullptr;
  CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool, index));
  uint64_t threshold = UINT64_MAX;
  CUDA_CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
  return gpu;
}

// Opened at the first use and kept until the process ends: the driver may already be gone when
// static objects are destroyed.
const Gpus& gpus() {
  static const Gpus* const opened = [] {
    auto* found = new Gpus;
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0) {
      cudaGetLastError();
      int driver = 0;
      cudaDriverGetVersion(&driver);
      found->why_none = driver == 0            ? "no NVIDIA driver is loaded"
                        : error == cudaSuccess ? "the driver lists no GPU"
                                               : cudaGetErrorString(error);
      return found;
    }
    for (int i = 0; i < count; ++i) found->all.push_back(open(i));
    CUDA_CHECK(cudaSetDevice(0));
    return found;
  }();
  return *opened;
}

const Gpu& gpu(Device device) {
  CHECK(device.is_cuda(), "CUDA: asked for the GPU of a tensor on ", to_string(device));
  const Gpus& all = gpus();
  CHECK(!all.all.empty(), "CUDA: no GPU can be used: ", all.why_none, "; use --device cpu");
  CHECK(device.index >= 0 && device.index < static_cast<int>(all.all.size()), "CUDA: there is no ",
        to_string(device), "; this machine has ", all.all.size(), " GPU(s)");
  return all.all[static_cast<size_t>(device.index)];
}

std::atomic<bool> sync_after_launch{false};

}  // namespace

cudaStream_t stream_of(Device device) {
  const Gpu& g = gpu(device);
  thread_local int current = -1;
  if (current != device.index) {
    CUDA_CHECK(cudaSetDevice(device.index));
    current = device.index;
  }
  return g.stream;
}

const Properties& properties(Device device) {
  return gpu(device).properties;
}

void launched(const char* name, cudaStream_t stream) {
  cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess && sync_after_launch) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
    if (status == cudaStreamCaptureStatusNone) error = cudaStreamSynchronize(stream);
  }
  if (error == cudaSuccess) return;
  throw Error(concat("CUDA: kernel ", name, " failed: ", cudaGetErrorName(error), " (",
                     cudaGetErrorString(error), ")"));
}

Event::Event() {
  CUDA_CHECK(cudaEventCreate(&event_));
}
Event::~Event() {
  cudaEventDestroy(event_);
}
void Event::record(cudaStream_t stream) {
  CUDA_CHECK(cudaEventRecord(event_, stream));
}
void Event::wait() const {
  CUDA_CHECK(cudaEventSynchronize(event_));
}
float Event::ms_since(const Event& start) const {
  float ms = 0;
  CUDA_CHECK(cudaEventElapsedTime(&ms, start.event_, event_));
  return ms;
}

Graph Graph::capture(Device device, const std::function<void()>& body) {
  const cudaStream_t stream = stream_of(device);
  CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    body();
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
  Graph out;
  out.device_ = device;
  const cudaError_t error = cudaGraphInstantiate(&out.exec_, graph, 0);
  cudaGraphDestroy(graph);
  CUDA_CHECK(error);
  return out;
}

Graph::Graph(Graph&& other) noexcept
    : device_(other.device_), exec_(std::exchange(other.exec_, nullptr)) {}

Graph& Graph::operator=(Graph&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(exec_, other.exec_);
  return *this;
}

Graph::~Graph() {
  if (exec_ != nullptr) cudaGraphExecDestroy(exec_);
}

void Graph::launch() const {
  CUDA_CHECK(cudaGraphLaunch(exec_, stream_of(device_)));
}

Pinned::Pinned(size_t bytes) : bytes_(bytes) {
  CUDA_CHECK(cudaMallocHost(&data_, bytes > 0 ? bytes : 1));
}
Pinned::~Pinned() {
  cudaFreeHost(data_);
}

}  // namespace parlo::cuda

namespace parlo {

void set_sync_debug(bool on) {
  cuda::sync_after_launch = on;
}

int gpu_count() {
  return static_cast<int>(cuda::gpus().all.size());
}

std::string why_no_gpu() {
  return cuda::gpus().why_none;
}

std::string gpu_name(int index) {
  const cuda::Properties& p = cuda::properties({Device::Kind::cuda, index});
  return concat(p.name, ", compute capability ", p.major, ".", p.minor, ", ", p.memory_bytes >> 30,
                " GiB");
}

void synchronize(Device device) {
  if (device.is_cuda()) CUDA_CHECK(cudaStreamSynchronize(cuda::stream_of(device)));
}

}  // namespace parlo
