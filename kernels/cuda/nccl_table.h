// The calls of NCCL that collective_nccl.cpp makes, through a table filled at the first use.
// Source: NCCL documentation, "Communicator Creation and Management"; types from <nccl.h>.
#pragma once

#include <nccl.h>

namespace parlo::cuda {

struct NcclTable {
  decltype(&ncclGetUniqueId) get_unique_id;
  decltype(&ncclCommInitRankConfig) init;
  decltype(&ncclCommGetAsyncError) async_error;
  decltype(&ncclCommFinalize) finalize;
  decltype(&ncclCommDestroy) destroy;
  decltype(&ncclCommAbort) abort;
  decltype(&ncclGetErrorString) error_string;
  decltype(&ncclGetLastError) last_error;
  decltype(&ncclAllReduce) all_reduce;
  decltype(&ncclBroadcast) broadcast;
  decltype(&ncclAllGather) all_gather;
};

const NcclTable& nccl();

}  // namespace parlo::cuda
