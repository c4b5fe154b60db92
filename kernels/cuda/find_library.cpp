#include "kernels/cuda/find_library.h"

#include <dlfcn.h>
#include <glob.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "tensor/error.h"

namespace parlo::cuda {
namespace {

struct LibrarySearch {
  const char* variable;            // of the environment: a file that goes before everything else
  std::vector<std::string> names;  // of the file, the best first
  const char* advice;              // what to install
};

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

// Folders that may hold a library, in order; with wildcards.
std::vector<std::string> folders() {
  std::vector<std::string> all;
  for (const std::string& root : {environment("CUDA_PATH"), std::string("/usr/local/cuda")}) {
    if (root.empty()) continue;
    all.push_back(root + "/lib64");
    all.push_back(root + "/lib");
  }
  const std::string home = environment("HOME");
  for (const std::string& root :
       {environment("VIRTUAL_ENV"), environment("CONDA_PREFIX"),
        home.empty() ? home : home + "/.local", std::string("/usr/local"), std::string("/usr")}) {
    if (root.empty()) continue;
    all.push_back(root + "/lib/python3*/site-packages/nvidia/*/lib");
    all.push_back(root + "/lib/python3*/dist-packages/nvidia/*/lib");
  }
  return all;
}

std::vector<std::string> matches(const std::string& pattern) {
  std::vector<std::string> paths;
  glob_t found{};
  if (::glob(pattern.c_str(), 0, nullptr, &found) == 0) {
    paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  }
  ::globfree(&found);
  return paths;
}

void* try_open(const std::string& path) {
  return ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
}

void* open_library(const LibrarySearch& search) {
  if (const std::string path = environment(search.variable); !path.empty()) {
    void* library = try_open(path);
    CHECK(library != nullptr, "CUDA: ", search.variable,
          " names a library that does not open: ", ::dlerror());
    return library;
  }
  for (const std::string& name : search.names) {
    if (void* library = try_open(name)) return library;
  }
  std::string looked;
  for (const std::string& folder : folders()) {
    for (const std::string& name : search.names) {
      for (const std::string& path : matches(folder + "/" + name)) {
        if (void* library = try_open(path)) return library;
      }
    }
    looked += ", " + folder;
  }
  std::string names;
  for (const std::string& name : search.names) names += (names.empty() ? "" : " or ") + name;
  throw Error(concat("CUDA: no ", names, " in the loader's path", looked, "; install it (",
                     search.advice, ") or set ", search.variable, " to the file"));
}

}  // namespace

void* open_cublaslt() {
  return open_library({"PARLO_CUBLASLT",
                       {"libcublasLt.so.13", "libcublasLt.so.12"},
                       "pip install nvidia-cublas or nvidia-cublas-cu12, or the CUDA toolkit"});
}

void* open_nccl() {
  return open_library(
      {"PARLO_NCCL",
       {"libnccl.so.2"},
       "pip install nvidia-nccl-cu13 or nvidia-nccl-cu12, or the package libnccl2"});
}

void* find_function(void* library, const char* expected, const char* name) {
  void* const function = ::dlsym(library, name);
  CHECK(function != nullptr, "CUDA: the library has no ", name, ", expected ", expected);
  return function;
}

}  // namespace parlo::cuda
