#include "kernels/cuda/nccl_library.h"

#include "kernels/cuda/find_library.h"

namespace parlo::cuda {

void* open_nccl() {
  return open_library(
      {"PARLO_NCCL",
       {"libnccl.so.2"},
       "pip install nvidia-nccl-cu13 or nvidia-nccl-cu12, or the package libnccl2"});
}

}  // namespace parlo::cuda
