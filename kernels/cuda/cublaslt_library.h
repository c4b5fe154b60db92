// Where cuBLASLt is: parlo links to no part of it, so that one binary runs with the CUDA 12 or 13
// library of a toolkit, a driver package or a Python environment.
#pragma once

namespace parlo::cuda {

// The handle of dlopen. Throws Error saying where was looked and what to install.
void* open_cublaslt();

}  // namespace parlo::cuda
