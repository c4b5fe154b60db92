// Memory of the meta device: counted, never there. Tensors on it have shapes, strides and dtypes;
// kernels do nothing to them, and what is copied from them reads as 0. A whole training step on it
// costs no more than its bookkeeping and tells what the real one will need (`parlo plan`).
#pragma once

#include "tensor/allocator.h"
#include "tensor/device.h"

namespace parlo {

inline constexpr Device kMeta{Device::Kind::meta, 0};

}  // namespace parlo

namespace parlo::meta_memory {

void* allocate(size_t bytes);
void release(void* p);

MemoryStats stats();
void reset_peak();

}  // namespace parlo::meta_memory
