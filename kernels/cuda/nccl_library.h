// Where NCCL is; looked for as find_library.h says, or where PARLO_NCCL points.
#pragma once

namespace parlo::cuda {

// The handle of dlopen. Throws Error saying where was looked and what to install.
void* open_nccl();

}  // namespace parlo::cuda
