#ifndef PARLO_SIMT
#include "kernels/cuda/cublaslt.h"

#include "kernels/cuda/find_library.h"

namespace parlo::cuda {
namespace {

CublasLt load_all() {
  void* const library = open_cublaslt();
  const auto load = [library](const char* name, auto& f) {
    load_function(library, "cuBLASLt 12 or later", name, f);
  };
  CublasLt t;
  load("cublasLtCreate", t.create);
  load("cublasLtGetVersion", t.version);
  load("cublasLtGetStatusString", t.status_string);
  load("cublasLtMatmul", t.matmul);
  load("cublasLtMatmulAlgoGetHeuristic", t.heuristic);
  load("cublasLtMatmulAlgoCheck", t.check);
  load("cublasLtMatmulDescCreate", t.desc_create);
  load("cublasLtMatmulDescDestroy", t.desc_destroy);
  load("cublasLtMatmulDescSetAttribute", t.desc_set);
  load("cublasLtMatrixLayoutCreate", t.layout_create);
  load("cublasLtMatrixLayoutDestroy", t.layout_destroy);
  load("cublasLtMatrixLayoutSetAttribute", t.layout_set);
  load("cublasLtMatmulPreferenceCreate", t.preference_create);
  load("cublasLtMatmulPreferenceDestroy", t.preference_destroy);
  load("cublasLtMatmulPreferenceSetAttribute", t.preference_set);
  return t;
}

}  // namespace

const CublasLt& cublaslt() {
  static const CublasLt table = load_all();  // a throw leaves it for the next call to try again
  return table;
}

}  // namespace parlo::cuda
#endif
