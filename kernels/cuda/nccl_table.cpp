#if !defined(PARLO_SIMT) && __has_include(<nccl.h>)
#include "kernels/cuda/nccl_table.h"

#include "kernels/cuda/find_library.h"

namespace parlo::cuda {
namespace {

NcclTable load_all() {
  void* const library = open_nccl();
  const auto load = [library](const char* name, auto& f) {
    load_function(library, "NCCL 2.14 or later", name, f);
  };
  NcclTable t;
  load("ncclGetUniqueId", t.get_unique_id);
  load("ncclCommInitRankConfig", t.init);
  load("ncclCommGetAsyncError", t.async_error);
  load("ncclCommFinalize", t.finalize);
  load("ncclCommDestroy", t.destroy);
  load("ncclCommAbort", t.abort);
  load("ncclGetErrorString", t.error_string);
  load("ncclGetLastError", t.last_error);
  load("ncclAllReduce", t.all_reduce);
  load("ncclBroadcast", t.broadcast);
  load("ncclAllGather", t.all_gather);
  return t;
}

}  // namespace

const NcclTable& nccl() {
  static const NcclTable table = load_all();  // a throw leaves it for the next call to try again
  return table;
}

}  // namespace parlo::cuda
#endif
