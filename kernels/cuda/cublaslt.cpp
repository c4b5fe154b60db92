#ifndef PARLO_SIMT
#include "kernels/cuda/cublaslt.h"

#include <dlfcn.h>

#include "kernels/cuda/cublaslt_library.h"

namespace parlo::cuda {
namespace {

template <class F>
void load(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(::dlsym(library, name));
  CHECK(function != nullptr, "CUDA: cuBLASLt has no ", name, ": ", ::dlerror());
}

CublasLt load_all() {
  void* const library = open_cublaslt();
  CublasLt t;
  load(library, "cublasLtCreate", t.create);
  load(library, "cublasLtGetVersion", t.version);
  load(library, "cublasLtGetStatusString", t.status_string);
  load(library, "cublasLtMatmul", t.matmul);
  load(library, "cublasLtMatmulAlgoGetHeuristic", t.heuristic);
  load(library, "cublasLtMatmulAlgoCheck", t.check);
  load(library, "cublasLtMatmulDescCreate", t.desc_create);
  load(library, "cublasLtMatmulDescDestroy", t.desc_destroy);
  load(library, "cublasLtMatmulDescSetAttribute", t.desc_set);
  load(library, "cublasLtMatrixLayoutCreate", t.layout_create);
  load(library, "cublasLtMatrixLayoutDestroy", t.layout_destroy);
  load(library, "cublasLtMatrixLayoutSetAttribute", t.layout_set);
  load(library, "cublasLtMatmulPreferenceCreate", t.preference_create);
  load(library, "cublasLtMatmulPreferenceDestroy", t.preference_destroy);
  load(library, "cublasLtMatmulPreferenceSetAttribute", t.preference_set);
  return t;
}

}  // namespace

const CublasLt& cublaslt() {
  static const CublasLt table = load_all();  // a throw leaves it for the next call to try again
  return table;
}

}  // namespace parlo::cuda
#endif
