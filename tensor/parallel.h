// One thread pool for the process. Workers spin for a short while, then park; a fork-join costs
// about 1 us while they spin. The split into chunks depends only on n and grain, never on the
// number of threads, so a loop whose chunks write disjoint results is bit-identical for any count.
#pragma once

#include <cstdint>
#include <type_traits>

namespace parlo {

// Threads used by parallel_for, caller included. Default: PARLO_NUM_THREADS, or the cores available
// to the process within its container's CPU limit. n >= 1; not to be changed while a loop runs.
void set_num_threads(int n);
int num_threads();

// True inside a chunk of parallel_for; nested calls run serially there.
bool in_parallel_region();

namespace detail {
using ChunkFn = void (*)(void* context, int64_t begin, int64_t end);
void parallel_run(int64_t n, int64_t grain, ChunkFn fn, void* context);
}  // namespace detail

// Calls fn(begin, end) on chunks of at most `grain` that cover [0, n). An exception thrown by a
// chunk is rethrown in the caller after all chunks ended. Denormal numbers are zero inside.
template <class Fn>
void parallel_for(int64_t n, int64_t grain, Fn&& fn) {
  using F = std::remove_reference_t<Fn>;
  detail::parallel_run(
      n, grain,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<F*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&fn)));
}

}  // namespace parlo
