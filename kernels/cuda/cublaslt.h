// The calls of cuBLASLt that blas.cpp makes, through a table filled at the first use, and owners of
// its descriptors. Source: cuBLASLt API reference; types from <cublasLt.h>.
#pragma once

#include <cublasLt.h>

#include <string>

#include "tensor/error.h"

namespace parlo::cuda {

struct CublasLt {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtGetVersion) version;
  decltype(&cublasLtGetStatusString) status_string;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulAlgoCheck) check;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
};

const CublasLt& cublaslt();

inline void check_cublaslt(cublasStatus_t status, const char* call) {
  CHECK(status == CUBLAS_STATUS_SUCCESS, "CUDA: ", call,
        " failed: ", cublaslt().status_string(status));
}

class MatmulDesc {
 public:
  MatmulDesc() {
    check_cublaslt(cublaslt().desc_create(&desc_, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                   "cublasLtMatmulDescCreate");
  }
  ~MatmulDesc() { cublaslt().desc_destroy(desc_); }
  MatmulDesc(const MatmulDesc&) = delete;
  MatmulDesc& operator=(const MatmulDesc&) = delete;
  template <class T>
  void set(cublasLtMatmulDescAttributes_t which, const T& value) {
    check_cublaslt(cublaslt().desc_set(desc_, which, &value, sizeof value),
                   "cublasLtMatmulDescSetAttribute");
  }
  cublasLtMatmulDesc_t get() const { return desc_; }

 private:
  cublasLtMatmulDesc_t desc_ = nullptr;
};

// A row-major [rows, width] is the library's column-major [width, rows].
class MatrixLayout {
 public:
  MatrixLayout(cudaDataType_t type, int64_t rows, int64_t width, int64_t row_distance) {
    check_cublaslt(cublaslt().layout_create(&layout_, type, static_cast<uint64_t>(width),
                                            static_cast<uint64_t>(rows), row_distance),
                   "cublasLtMatrixLayoutCreate");
  }
  ~MatrixLayout() { cublaslt().layout_destroy(layout_); }
  MatrixLayout(const MatrixLayout&) = delete;
  MatrixLayout& operator=(const MatrixLayout&) = delete;
  void set_batch(int64_t count, int64_t step) {
    const auto narrow = static_cast<int32_t>(count);
    check_cublaslt(
        cublaslt().layout_set(layout_, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &narrow, sizeof narrow),
        "cublasLtMatrixLayoutSetAttribute");
    check_cublaslt(cublaslt().layout_set(layout_, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                         &step, sizeof step),
                   "cublasLtMatrixLayoutSetAttribute");
  }
  cublasLtMatrixLayout_t get() const { return layout_; }

 private:
  cublasLtMatrixLayout_t layout_ = nullptr;
};

class MatmulPreference {
 public:
  MatmulPreference() {
    check_cublaslt(cublaslt().preference_create(&preference_), "cublasLtMatmulPreferenceCreate");
  }
  ~MatmulPreference() { cublaslt().preference_destroy(preference_); }
  MatmulPreference(const MatmulPreference&) = delete;
  MatmulPreference& operator=(const MatmulPreference&) = delete;
  template <class T>
  void set(cublasLtMatmulPreferenceAttributes_t which, T value) {
    check_cublaslt(cublaslt().preference_set(preference_, which, &value, sizeof value),
                   "cublasLtMatmulPreferenceSetAttribute");
  }
  cublasLtMatmulPreference_t get() const { return preference_; }

 private:
  cublasLtMatmulPreference_t preference_ = nullptr;
};

}  // namespace parlo::cuda
