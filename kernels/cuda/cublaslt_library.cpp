#include "kernels/cuda/cublaslt_library.h"

#include "kernels/cuda/find_library.h"

namespace parlo::cuda {

void* open_cublaslt() {
  return open_library({"PARLO_CUBLASLT",
                       {"libcublasLt.so.13", "libcublasLt.so.12"},
                       "pip install nvidia-cublas or nvidia-cublas-cu12, or the CUDA toolkit"});
}

}  // namespace parlo::cuda
