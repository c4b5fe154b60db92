// Libraries that parlo links to no part of, so that one binary runs with those of a toolkit (CUDA
// 12 or 13), a driver package or a Python environment.
#pragma once

namespace parlo::cuda {

// The handle of dlopen: the file that $PARLO_CUBLASLT or $PARLO_NCCL names, the loader's path,
// CUDA_PATH, /usr/local/cuda, then the nvidia packages of Python environments. Throws Error saying
// where was looked and what to install.
void* open_cublaslt();
void* open_nccl();

// `expected`, as "NCCL 2.14 or later", is for the Error where there is none of that name.
void* find_function(void* library, const char* expected, const char* name);

// f = the function of that name.
template <class F>
void load_function(void* library, const char* expected, const char* name, F& f) {
  f = reinterpret_cast<F>(find_function(library, expected, name));
}

}  // namespace parlo::cuda
