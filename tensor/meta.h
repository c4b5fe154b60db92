// Memory of the meta device: counted, never there. Tensors on it have shapes, strides and dtypes;
// kernels do nothing to them, and what is copied from them reads as 0. A whole training step on it
// costs no more than its bookkeeping and tells what the real one will need (`parlo plan`).
#pragma once

#include "tensor/allocator.h"

namespace parlo::meta_memory {

void* allocate(size_t bytes);
void release(void* p);

MemoryStats stats();
void reset_peak();

}  // namespace parlo::meta_memory
