// Tests of the CUDA runtime twin: memory and its errors, streams, events, capture and graphs, the
// absent device.
#include "tests/simt/self_test.cuh"

namespace {

bool ok(cudaError_t e) {
  if (e) std::printf("%s: %s\n", cudaGetErrorName(e), cudaGetErrorString(e));
  return e == cudaSuccess;
}

__global__ void add_kernel(int* p, int v) {
  p[threadIdx.x] += v;
}
__global__ void failing_kernel() {
  simt::fail("planted");
}

void test_device() {
  int count = 0, value = 0;
  EXPECT(ok(cudaGetDeviceCount(&count)) && count == 1 && ok(cudaSetDevice(0)));
  EXPECT(cudaSetDevice(1) == cudaErrorInvalidDevice &&
         cudaPeekAtLastError() == cudaErrorInvalidDevice);
  EXPECT(cudaGetLastError() == cudaErrorInvalidDevice && cudaGetLastError() == cudaSuccess);
  EXPECT(ok(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMajor, 0)) && value == 9);
  EXPECT(ok(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0)) &&
         value == 227 << 10);
  cudaDeviceProp prop;
  EXPECT(ok(cudaGetDeviceProperties(&prop, 0)) && std::string(prop.name) == "simulated" &&
         prop.warpSize == 32);
  EXPECT(prop.multiProcessorCount > 0 && prop.maxGridSize[1] == 65535 &&
         prop.maxThreadsDim[2] == 64);
  const auto* kernel = reinterpret_cast<const void*>(add_kernel);
  EXPECT(ok(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10)));
  EXPECT(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10) ==
         cudaErrorInvalidValue);
  EXPECT(ok(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&value, kernel, 256, 100 << 10)) &&
         value == 2);
  EXPECT(std::string(cudaGetErrorString(cudaErrorInvalidValue)) == "invalid argument");
  setenv("PARLO_SIMT_DEVICES", "0", 1);
  void* p = nullptr;
  EXPECT(cudaGetDeviceCount(&count) == cudaErrorNoDevice && count == 0 &&
         cudaMalloc(&p, 16) == cudaErrorNoDevice);
  unsetenv("PARLO_SIMT_DEVICES");
  cudaGetLastError();
}

void test_memory() {
  int *p = nullptr, *q = nullptr, *pinned = nullptr, host[64];
  for (int i = 0; i < 64; ++i) host[i] = i;
  EXPECT(ok(cudaMalloc(reinterpret_cast<void**>(&p), 256)) && uintptr_t(p) % 256 == 0 &&
         p[63] == -1);
  EXPECT(ok(cudaMallocAsync(reinterpret_cast<void**>(&q), 256, nullptr)));
  EXPECT(ok(cudaMallocHost(reinterpret_cast<void**>(&pinned), 256)));
  EXPECT(ok(cudaMemcpy(p, host, 256, cudaMemcpyHostToDevice)));
  EXPECT(ok(cudaMemcpyAsync(q, p, 128, cudaMemcpyDeviceToDevice, nullptr)));
  EXPECT(ok(cudaMemcpy(pinned, q, 128, cudaMemcpyDefault)) && pinned[31] == 31);
  EXPECT(ok(cudaMemset(q, 0, 64)) && q[15] == 0 && q[16] == 16);
  EXPECT(ok(cudaMemcpy2DAsync(q, 32, p, 64, 16, 4, cudaMemcpyDeviceToDevice, nullptr)) &&
         q[8] == 16 && q[27] == 51);

  EXPECT(cudaMemcpy(p, host, 257, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  EXPECT(cudaMemcpy(p + 1, host, 256, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  EXPECT(cudaMemcpy(host, pinned, 64, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  EXPECT(cudaMemcpy(host, p, 64, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  EXPECT(cudaMemset(host, 0, 16) == cudaErrorInvalidValue &&
         cudaMemset(p, 0, 260) == cudaErrorInvalidValue);
  EXPECT(cudaFree(host) == cudaErrorInvalidValue && cudaFree(p + 1) == cudaErrorInvalidValue);
  EXPECT(cudaFreeHost(host) == cudaErrorInvalidValue && ok(cudaFree(nullptr)));
  EXPECT(cudaMemcpy2DAsync(q, 8, p, 64, 16, 4, cudaMemcpyDeviceToDevice, nullptr) ==
         cudaErrorInvalidValue);

  size_t before = 0, after = 0, total = 0;
  EXPECT(ok(cudaMemGetInfo(&before, &total)) && ok(cudaFree(p)) &&
         ok(cudaMemGetInfo(&after, &total)));
  EXPECT(after == before + 256 && cudaFree(p) == cudaErrorInvalidValue);
  EXPECT(ok(cudaFreeAsync(q, nullptr)) && ok(cudaFreeHost(pinned)));
  setenv("PARLO_SIMT_MEMORY_MB", "1", 1);
  void* big = nullptr;
  EXPECT(cudaMalloc(&big, 2 << 20) == cudaErrorMemoryAllocation && !big &&
         ok(cudaMalloc(&big, 1 << 16)));
  EXPECT(ok(cudaFree(big)));
  unsetenv("PARLO_SIMT_MEMORY_MB");
  cudaMemPool_t pool;
  uint64_t threshold = 5;
  EXPECT(ok(cudaDeviceGetDefaultMemPool(&pool, 0)) && ok(cudaMemPoolTrimTo(pool, 0)));
  EXPECT(ok(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold)));
  EXPECT(ok(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold)) &&
         threshold == 5);
  cudaGetLastError();
}

void test_streams() {
  cudaStream_t s;
  cudaEvent_t a, b, untimed;
  EXPECT(ok(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking)) && ok(cudaEventCreate(&a)) &&
         ok(cudaEventCreate(&b)));
  EXPECT(ok(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming)));
  const Device<int> d(std::vector<int>(32, 1));
  float ms = -1;
  EXPECT(cudaEventElapsedTime(&ms, a, b) == cudaErrorInvalidResourceHandle);
  EXPECT(ok(cudaEventRecord(a, s)));
  launch_on(s, add_kernel, dim3(1), dim3(32), 0, d.p, 4);
  EXPECT(ok(cudaEventRecord(b, s)) && ok(cudaStreamWaitEvent(nullptr, b, 0)) &&
         ok(cudaStreamSynchronize(s)));
  EXPECT(ok(cudaEventSynchronize(b)) && ok(cudaEventQuery(b)) && ok(cudaStreamQuery(s)) &&
         ok(cudaDeviceSynchronize()));
  EXPECT(ok(cudaEventElapsedTime(&ms, a, b)) && ms >= 0 && d.p[31] == 5);
  EXPECT(ok(cudaEventRecord(untimed, s)) &&
         cudaEventElapsedTime(&ms, a, untimed) == cudaErrorInvalidResourceHandle);
  EXPECT(ok(cudaEventDestroy(a)) && ok(cudaEventDestroy(b)) && ok(cudaEventDestroy(untimed)) &&
         ok(cudaStreamDestroy(s)));
  EXPECT(cudaStreamSynchronize(s) == cudaErrorInvalidResourceHandle &&
         cudaStreamDestroy(s) != cudaSuccess);
  EXPECT(fails_with("invalid resource",
                    [&] { launch_on(s, add_kernel, dim3(1), dim3(32), 0, d.p, 4); }));
  cudaGetLastError();
}

void test_graphs() {
  cudaStream_t s, fork;
  cudaEvent_t e, join;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  cudaStreamCaptureStatus status;
  EXPECT(ok(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking)) &&
         ok(cudaStreamCreateWithFlags(&fork, cudaStreamNonBlocking)));
  EXPECT(ok(cudaEventCreate(&e)) && ok(cudaEventCreate(&join)));
  const Device<int> d(std::vector<int>(32, 1)), copy(32);
  int* temporary = nullptr;
  EXPECT(ok(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal)) &&
         ok(cudaStreamIsCapturing(s, &status)));
  EXPECT(status == cudaStreamCaptureStatusActive);
  launch_on(s, add_kernel, dim3(1), dim3(32), 0, d.p, 10);
  EXPECT(ok(cudaMallocAsync(reinterpret_cast<void**>(&temporary), 128, s)));
  EXPECT(ok(cudaMemsetAsync(temporary, 0, 128, s)));
  EXPECT(ok(cudaEventRecord(e, s)) && ok(cudaStreamWaitEvent(fork, e, 0)));
  launch_on(fork, add_kernel, dim3(1), dim3(32), 0, temporary, 3);
  EXPECT(ok(cudaEventRecord(join, fork)) && ok(cudaStreamWaitEvent(s, join, 0)));
  EXPECT(ok(cudaMemcpyAsync(copy.p, temporary, 128, cudaMemcpyDeviceToDevice, s)) &&
         ok(cudaFreeAsync(temporary, s)));
  EXPECT(ok(cudaStreamEndCapture(s, &graph)) && d.p[0] == 1 && copy.p[0] == -1);
  EXPECT(ok(cudaGraphInstantiate(&exec, graph, 0)) && ok(cudaGraphDestroy(graph)));
  for (int i = 1; i <= 3; ++i)
    EXPECT(ok(cudaGraphLaunch(exec, s)) && d.p[31] == 1 + 10 * i && copy.p[7] == 3);
  EXPECT(ok(cudaGraphExecDestroy(exec)) && cudaGraphLaunch(exec, s) == cudaErrorInvalidValue);

  EXPECT(ok(cudaStreamBeginCapture(
      s, cudaStreamCaptureModeGlobal)));  // a failing kernel fails when it is replayed
  launch_on(s, failing_kernel, dim3(1), dim3(32), 0);
  EXPECT(ok(cudaStreamEndCapture(s, &graph)) && ok(cudaGraphInstantiate(&exec, graph, 0)));
  EXPECT(fails_with("planted", [&] { cudaGraphLaunch(exec, s); }));
  EXPECT(ok(cudaGraphExecDestroy(exec)) && ok(cudaGraphDestroy(graph)));

  const auto spoiled = [&](auto call,
                           cudaError_t want) {  // during a capture `call` is an error that ends it
    EXPECT(ok(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal)));
    EXPECT(call() == want);
    EXPECT(cudaStreamEndCapture(s, &graph) == cudaErrorStreamCaptureInvalidated && !graph);
  };
  void* p = nullptr;
  spoiled([&] { return cudaStreamSynchronize(s); }, cudaErrorStreamCaptureUnsupported);
  spoiled([&] { return cudaMalloc(&p, 16); }, cudaErrorStreamCaptureUnsupported);
  spoiled([&] { return cudaDeviceSynchronize(); }, cudaErrorStreamCaptureUnsupported);
  spoiled([&] { return cudaMemset(d.p, 0, 16); }, cudaErrorStreamCaptureUnsupported);
  spoiled([&] { return cudaEventRecord(e, s), cudaEventSynchronize(e); }, cudaErrorCapturedEvent);
  EXPECT(ok(cudaStreamBeginCapture(s, cudaStreamCaptureModeRelaxed)) && ok(cudaMalloc(&p, 16)) &&
         ok(cudaFree(p)));
  EXPECT(ok(cudaEventRecord(e, s)) && ok(cudaStreamWaitEvent(fork, e, 0)));
  launch_on(fork, add_kernel, dim3(1), dim3(32), 0, d.p, 3);
  EXPECT(cudaStreamEndCapture(s, &graph) == cudaErrorStreamCaptureUnjoined);
  EXPECT(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal) ==
         cudaErrorStreamCaptureUnsupported);
  EXPECT(ok(cudaEventDestroy(e)) && ok(cudaEventDestroy(join)) && ok(cudaStreamDestroy(fork)) &&
         ok(cudaStreamDestroy(s)));
  cudaGetLastError();
}

}  // namespace

void test_runtime() {
  test_device();
  test_memory();
  test_streams();
  test_graphs();
}
