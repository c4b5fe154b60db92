#if !defined(PARLO_SIMT) && __has_include(<nccl.h>)
#include "kernels/cuda/nccl_table.h"

#include <dlfcn.h>

#include "kernels/cuda/nccl_library.h"
#include "tensor/error.h"

namespace parlo::cuda {
namespace {

template <class F>
void load(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(::dlsym(library, name));
  CHECK(function != nullptr, "CUDA: NCCL has no ", name, ", expected 2.14 or later");
}

NcclTable load_all() {
  void* const library = open_nccl();
  NcclTable t;
  load(library, "ncclGetUniqueId", t.get_unique_id);
  load(library, "ncclCommInitRankConfig", t.init);
  load(library, "ncclCommGetAsyncError", t.async_error);
  load(library, "ncclCommFinalize", t.finalize);
  load(library, "ncclCommDestroy", t.destroy);
  load(library, "ncclCommAbort", t.abort);
  load(library, "ncclGetErrorString", t.error_string);
  load(library, "ncclGetLastError", t.last_error);
  load(library, "ncclAllReduce", t.all_reduce);
  load(library, "ncclBroadcast", t.broadcast);
  load(library, "ncclAllGather", t.all_gather);
  return t;
}

}  // namespace

const NcclTable& nccl() {
  static const NcclTable table = load_all();  // a throw leaves it for the next call to try again
  return table;
}

}  // namespace parlo::cuda
#endif
