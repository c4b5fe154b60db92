// Named ranges for profilers (NVTX): ops, gradients and layers above the kernels they start.
// Nothing in a build without a GPU backend, a few nanoseconds where no profiler listens.
#pragma once

namespace parlo {

#ifdef PARLO_GPU
class TraceRange {
 public:
  explicit TraceRange(const char* name);
  ~TraceRange();
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;
};
#else
class TraceRange {
 public:
  explicit TraceRange(const char*) {}
  ~TraceRange() {}  // not trivial: a range is a variable that is used
  TraceRange(const TraceRange&) = delete;
  TraceRange& operator=(const TraceRange&) = delete;
};
#endif

}  // namespace parlo
