// Memory of any device behind one interface, which the Tensor is built on. A build without a GPU
// backend (tensor/no_cuda.cpp) knows the CPU only.
#pragma once

#include <cstddef>
#include <string>

#include "tensor/allocator.h"
#include "tensor/device.h"

namespace parlo {

class Tensor;

// Uninitialised; bytes == 0 gives a valid pointer. Throws Error naming the size, what is in use and
// the way out when the device has no memory left, or when there is no such device.
void* allocate_memory(size_t bytes, Device device);
void release_memory(void* p, Device device);
MemoryStats memory_stats(Device device);

// Contiguous bytes between or within devices, in order with the work on both. Returns when the
// source may be changed and, with a destination on the CPU, when the bytes are there.
void copy_memory(void* to, Device to_device, const void* from, Device from_device, size_t bytes);

// dst and src on one GPU, equal shapes, any strides and dtypes; converts as Tensor::copy_from says.
void copy_on_gpu(const Tensor& dst, const Tensor& src);
// Every element of a view on a GPU becomes the value, converted the same way.
void fill_on_gpu(const Tensor& dst, double value);

// Waits for the work given to the device so far.
void synchronize(Device device);

// After every kernel: wait, and name the one that failed. Nothing without a GPU backend.
void set_sync_debug(bool on);

// GPUs that this process can use; 0 with the reason in one line.
int gpu_count();
std::string why_no_gpu();
// "NVIDIA H100 80GB HBM3, 9.0, 79 GiB"; "simulated GPU" in the tests.
std::string gpu_name(int index);

}  // namespace parlo
