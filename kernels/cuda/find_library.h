// Libraries that parlo links to no part of, so that one binary runs with those of a toolkit, a
// driver package or a Python environment.
#pragma once

#include <string>
#include <vector>

namespace parlo::cuda {

struct LibrarySearch {
  const char* variable;            // of the environment: a file that goes before everything else
  std::vector<std::string> names;  // of the file, the best first
  const char* advice;              // what to install
};

// The handle of dlopen: $variable, the loader's path, CUDA_PATH, /usr/local/cuda, then the nvidia
// packages of Python environments. Throws Error saying where was looked and what to install.
void* open_library(const LibrarySearch& search);

}  // namespace parlo::cuda
