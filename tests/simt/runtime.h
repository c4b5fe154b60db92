// What the sources of the CUDA runtime twin share. The twin defines the runtime functions that host
// code calls, against the toolkit's own declarations, so that such code links with the simulator in
// place of libcudart. Work runs at once, except on a stream that is being captured.
#pragma once
#include "tests/simt/machine.h"

namespace simt {

// Remembers `e` for cudaGetLastError.
cudaError_t result(cudaError_t e);
bool has_device();

// Runs `work`, or records it when the stream is being captured.
cudaError_t submit(cudaStream_t stream, std::function<void()> work);
// The error of a call that no capture allows (allocation, synchronous copies, device
// synchronisation); such a call spoils the captures that are under way.
cudaError_t check_no_capture();

// Memory that belongs to the stream's graph when the stream is being captured: true, and the graph
// frees it.
bool owned_by_capture(cudaStream_t stream, void* p);
bool graph_owns(cudaStream_t stream, const void* p);

cudaError_t allocate(void** p, size_t bytes);

}  // namespace simt
