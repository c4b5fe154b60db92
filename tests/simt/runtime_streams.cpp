// CUDA runtime twin: streams, events, stream capture and graphs. Work runs when it is submitted, so
// synchronising only checks its arguments; a captured stream's work is kept in submission order,
// which is an order that its dependencies allow, and run by cudaGraphLaunch.
#include <chrono>
#include <set>
#include <thread>

#include "tests/simt/runtime.h"

namespace simt {

struct Graph {
  std::vector<std::function<void()>> nodes;
  std::vector<void*> memory;
  ~Graph() {
    for (void* p : memory) device_free(p);
  }
};
struct Capture {
  std::shared_ptr<Graph> graph = std::make_shared<Graph>();
  cudaStream_t origin = nullptr;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::thread::id thread = std::this_thread::get_id();
  std::set<CUstream_st*> forked;  // streams that joined through an event
  bool invalid = false;
};

}  // namespace simt

struct CUstream_st {
  unsigned flags = 0;
  std::shared_ptr<simt::Capture> capture;
  size_t work = 0, joined = 0;  // captured here / of that, waited for by another stream
};
struct CUevent_st {
  unsigned flags = 0;
  bool recorded = false;
  std::chrono::steady_clock::time_point time;
  std::shared_ptr<simt::Capture> capture;
  CUstream_st* stream = nullptr;
  size_t work = 0;
};
struct CUgraph_st {
  std::shared_ptr<simt::Graph> graph;
};
struct CUgraphExec_st {
  std::shared_ptr<simt::Graph> graph;
};

namespace simt {
namespace {

std::mutex state;
// Never destroyed, since static objects may free streams at exit.
auto& handles = *new std::set<const void*>;  // live streams, events, graphs
auto& captures = *new std::set<std::shared_ptr<Capture>>;

CUstream_st* find_stream(cudaStream_t stream) {
  static CUstream_st legacy, per_thread;
  if (!stream || stream == cudaStreamLegacy) return &legacy;
  if (stream == cudaStreamPerThread) return &per_thread;
  return handles.count(stream) ? stream : nullptr;
}

bool is_legacy(const CUstream_st* s) {
  return s == find_stream(nullptr);
}

// The legacy stream waits for all blocking streams, which a capture cannot express.
cudaError_t check_legacy(const CUstream_st* s) {
  if (!is_legacy(s)) return cudaSuccess;
  for (const auto& c : captures) {
    if (c->origin->flags & cudaStreamNonBlocking) continue;
    c->invalid = true;
    return cudaErrorStreamCaptureImplicit;
  }
  return cudaSuccess;
}

// Records `work` when the stream is being captured; otherwise leaves it.
cudaError_t record(cudaStream_t stream, std::function<void()>& work, bool& recorded) {
  const std::lock_guard lock(state);
  recorded = false;
  CUstream_st* s = find_stream(stream);
  if (!s) return cudaErrorInvalidResourceHandle;
  if (const cudaError_t e = check_legacy(s)) return e;
  if (!s->capture) return cudaSuccess;
  if (s->capture->invalid) return cudaErrorStreamCaptureInvalidated;
  s->capture->graph->nodes.push_back(std::move(work));
  ++s->work;
  recorded = true;
  return cudaSuccess;
}

template <class T>
cudaError_t create(T** handle) {
  if (!has_device()) return cudaErrorNoDevice;
  const std::lock_guard lock(state);
  *handle = new T;
  handles.insert(*handle);
  return cudaSuccess;
}

template <class T>
cudaError_t destroy(T* handle) {
  const std::lock_guard lock(state);
  if (!handles.erase(handle)) return cudaErrorInvalidResourceHandle;
  delete handle;
  return cudaSuccess;
}

bool valid(const void* handle) {
  return handles.count(handle) > 0;
}

// Waiting for a stream: not while it is being captured.
cudaError_t synchronize(cudaStream_t stream) {
  const std::lock_guard lock(state);
  CUstream_st* s = find_stream(stream);
  if (!s) return cudaErrorInvalidResourceHandle;
  if (const cudaError_t e = check_legacy(s)) return e;
  if (!s->capture) return cudaSuccess;
  s->capture->invalid = true;
  return cudaErrorStreamCaptureUnsupported;
}

cudaError_t check_event(cudaEvent_t event) {
  const std::lock_guard lock(state);
  if (!valid(event)) return cudaErrorInvalidResourceHandle;
  if (!event->capture) return cudaSuccess;
  event->capture->invalid = true;
  return cudaErrorCapturedEvent;
}

cudaError_t wait_event(cudaStream_t stream, cudaEvent_t event) {
  CUstream_st* s = find_stream(stream);
  if (!s || !valid(event)) return cudaErrorInvalidResourceHandle;
  if (!event->capture) {
    if (!s->capture || !event->recorded) return cudaSuccess;
    s->capture->invalid = true;
    return cudaErrorStreamCaptureIsolation;
  }
  if (is_legacy(s)) return cudaErrorStreamCaptureImplicit;
  if (s->capture && s->capture != event->capture) return cudaErrorStreamCaptureMerge;
  if (!s->capture) {  // the stream joins the capture
    s->capture = event->capture;
    s->capture->forked.insert(s);
    s->work = s->joined = 0;
  }
  if (event->stream != s && handles.count(event->stream)) {
    event->stream->joined = std::max(event->stream->joined, event->work);
  }
  return cudaSuccess;
}

cudaError_t end_capture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  CUstream_st* s = find_stream(stream);
  if (!s) return cudaErrorInvalidResourceHandle;
  if (!s->capture) return cudaErrorInvalidValue;
  const auto capture = s->capture;
  if (capture->origin != s) return cudaErrorStreamCaptureUnmatched;
  if (capture->mode != cudaStreamCaptureModeRelaxed &&
      capture->thread != std::this_thread::get_id()) {
    return cudaErrorStreamCaptureWrongThread;
  }
  bool unjoined = false;
  for (CUstream_st* fork : capture->forked) {
    unjoined |= fork->joined < fork->work;
    fork->capture = nullptr;
  }
  captures.erase(capture);
  s->capture = nullptr;
  if (capture->invalid) return cudaErrorStreamCaptureInvalidated;
  if (unjoined) return cudaErrorStreamCaptureUnjoined;
  *graph = new CUgraph_st{capture->graph};
  handles.insert(*graph);
  return cudaSuccess;
}

}  // namespace

cudaError_t submit(cudaStream_t stream, std::function<void()> work) {
  bool recorded = false;
  if (const cudaError_t e = record(stream, work, recorded)) return e;
  if (!recorded) work();
  return cudaSuccess;
}

bool capture(cudaStream_t stream, std::function<void()> work) {
  bool recorded = false;
  if (const cudaError_t e = record(stream, work, recorded)) {
    throw Error(std::string("simt: ") + cudaGetErrorString(result(e)));
  }
  return recorded;
}

cudaError_t check_no_capture() {
  const std::lock_guard lock(state);
  cudaError_t e = cudaSuccess;
  for (const auto& c : captures) {
    if (c->mode == cudaStreamCaptureModeRelaxed) continue;
    if (c->mode == cudaStreamCaptureModeThreadLocal && c->thread != std::this_thread::get_id())
      continue;
    c->invalid = true;
    e = cudaErrorStreamCaptureUnsupported;
  }
  return e;
}

bool owned_by_capture(cudaStream_t stream, void* p) {
  const std::lock_guard lock(state);
  CUstream_st* s = find_stream(stream);
  if (!s || !s->capture) return false;
  s->capture->graph->memory.push_back(p);
  return true;
}

bool graph_owns(cudaStream_t stream, const void* p) {
  const std::lock_guard lock(state);
  const CUstream_st* s = find_stream(stream);
  if (!s || !s->capture) return false;
  const auto& memory = s->capture->graph->memory;
  return std::find(memory.begin(), memory.end(), p) != memory.end();
}

}  // namespace simt

using simt::result;

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (flags & ~unsigned(cudaStreamNonBlocking)) return result(cudaErrorInvalidValue);
  const cudaError_t e = simt::create(stream);
  if (!e) (*stream)->flags = flags;
  return result(e);
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  {
    const std::lock_guard lock(simt::state);
    if (!simt::valid(stream)) return result(cudaErrorInvalidResourceHandle);
    if (stream->capture) {
      stream->capture->invalid = true;
      stream->capture->forked.erase(stream);
      if (stream->capture->origin == stream) simt::captures.erase(stream->capture);
    }
  }
  return result(simt::destroy(stream));
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return result(simt::synchronize(stream));
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return result(simt::synchronize(stream));
}

cudaError_t cudaDeviceSynchronize() {
  return result(simt::check_no_capture());
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const std::lock_guard lock(simt::state);
  return result(simt::wait_event(stream, event));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  const cudaError_t e = simt::create(event);
  if (!e) (*event)->flags = flags;
  return result(e);
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return result(simt::destroy(event));
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard lock(simt::state);
  CUstream_st* s = simt::find_stream(stream);
  if (!s || !simt::valid(event)) return result(cudaErrorInvalidResourceHandle);
  if (const cudaError_t e = simt::check_legacy(s)) return result(e);
  event->recorded = !s->capture;
  event->capture = s->capture;
  event->stream = s;
  event->work = s->work;
  event->time = std::chrono::steady_clock::now();
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return result(simt::check_event(event));
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return result(simt::check_event(event));
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  for (const cudaEvent_t event : {start, end}) {
    if (const cudaError_t e = simt::check_event(event)) return result(e);
    if (!event->recorded || event->flags & cudaEventDisableTiming)
      return result(cudaErrorInvalidResourceHandle);
  }
  *ms = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  const std::lock_guard lock(simt::state);
  CUstream_st* s = simt::find_stream(stream);
  if (!s) return result(cudaErrorInvalidResourceHandle);
  if (simt::is_legacy(s)) return result(cudaErrorStreamCaptureUnsupported);
  if (s->capture) return result(cudaErrorIllegalState);
  s->capture = std::make_shared<simt::Capture>();
  s->capture->origin = s;
  s->capture->mode = mode;
  simt::captures.insert(s->capture);
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard lock(simt::state);
  return result(simt::end_capture(stream, graph));
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const std::lock_guard lock(simt::state);
  const CUstream_st* s = simt::find_stream(stream);
  if (!s) return result(cudaErrorInvalidResourceHandle);
  *status = !s->capture           ? cudaStreamCaptureStatusNone
            : s->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                  : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  {
    const std::lock_guard lock(simt::state);
    if (!simt::valid(graph)) return result(cudaErrorInvalidValue);
  }
  const cudaError_t e = simt::create(exec);
  if (!e) (*exec)->graph = graph->graph;
  return result(e);
}

// A failing kernel throws simt::Error from here, as it does from a launch.
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  std::shared_ptr<simt::Graph> graph;
  {
    const std::lock_guard lock(simt::state);
    if (!simt::valid(exec)) return result(cudaErrorInvalidValue);
    graph = exec->graph;
  }
  return result(simt::submit(stream, [graph] {
    for (const auto& node : graph->nodes) node();
  }));
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  return result(simt::destroy(exec));
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return result(simt::destroy(graph));
}

}  // extern "C"
