// gemm of blas.h by cuBLASLt. Its matrices are column-major: c' = b' a' is computed, so that what
// it calls rows are our columns, and its bias runs along N.
//
// An algorithm is asked for once, for a usual number of rows, and used for any number of rows:
// tiles and the order of the sum then depend on N and K only. Nothing is cut along K but where the
// caller allows it; there the whole size is the key, and parts are added up in f32 in a fixed
// order.
#ifndef PARLO_SIMT
#include "kernels/cuda/blas.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "kernels/cuda/blas_key.h"
#include "kernels/cuda/cublaslt.h"
#include "tensor/cuda/runtime.h"

namespace parlo::cuda {
namespace {

constexpr uint64_t kMostWorkspace = uint64_t{32} << 20;

cudaDataType_t type_of(DType dtype) {
  return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

cublasLtEpilogue_t epilogue_of(const GemmArgs& g) {
  int bits = 0;
  if (g.bias) bits |= CUBLASLT_EPILOGUE_BIAS;
  if (g.gelu) bits |= g.aux ? CUBLASLT_EPILOGUE_GELU_AUX : CUBLASLT_EPILOGUE_GELU;
  return bits == 0 ? CUBLASLT_EPILOGUE_DEFAULT : static_cast<cublasLtEpilogue_t>(bits);
}

// A product in the library's words: its A is our b.
struct Problem {
  MatmulDesc desc;
  MatrixLayout a, b, c;

  explicit Problem(const GemmArgs& g)
      : a(type_of(g.in), g.trans_b ? g.n : g.k, g.trans_b ? g.k : g.n, g.b_row),
        b(type_of(g.in), g.trans_a ? g.k : g.m, g.trans_a ? g.m : g.k, g.a_row),
        c(type_of(g.out), g.m, g.n, g.c_row) {
    desc.set(CUBLASLT_MATMUL_DESC_TRANSA, g.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    desc.set(CUBLASLT_MATMUL_DESC_TRANSB, g.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    desc.set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(g));
    if (g.bias) desc.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
    if (g.aux) {
      desc.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, g.aux);
      desc.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, g.c_row);
    }
    if (g.batch > 1) {
      a.set_batch(g.batch, g.b_step);
      b.set_batch(g.batch, g.a_step);
      c.set_batch(g.batch, g.c_step);
    }
  }
};

struct Gpu {
  std::mutex mutex;
  cublasLtHandle_t handle = nullptr;
  std::unique_ptr<AlgorithmCache> disk;
  std::map<AlgorithmKey, std::optional<Algorithm>> chosen;  // nothing: the library has none
  // By key, rows and entries.
  std::map<std::pair<AlgorithmKey, std::pair<int64_t, int64_t>>, std::optional<Algorithm>> fitted;

  explicit Gpu(Device device) {
    stream_of(device);  // the handle belongs to the current device
    check_cublaslt(cublaslt().create(&handle), "cublasLtCreate");
    int driver = 0;
    CUDA_CHECK(cudaDriverGetVersion(&driver));
    const std::string& name = properties(device).name;
    disk = std::make_unique<AlgorithmCache>(
        algorithm_cache_path(name, driver),
        concat(name, ", driver ", driver, ", library ", cublaslt().version()));
  }
};

Gpu& gpu_of(Device device) {
  static std::mutex mutex;
  // Never destroyed: the driver may be gone before static objects are.
  static auto* const all = new std::map<int, std::unique_ptr<Gpu>>;
  const std::lock_guard lock(mutex);
  std::unique_ptr<Gpu>& gpu = (*all)[device.index];
  if (!gpu) gpu = std::make_unique<Gpu>(device);
  return *gpu;
}

std::optional<Algorithm> ask(const Gpu& gpu, const GemmArgs& g, const Alignments& at) {
  const Problem p(g);
  MatmulPreference wish;
  wish.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMostWorkspace);
  wish.set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           static_cast<uint32_t>(g.split_k ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
                                           : CUBLASLT_REDUCTION_SCHEME_NONE));
  wish.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(at.b));
  wish.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(at.a));
  wish.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(at.add));
  wish.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(at.out));
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status =
      cublaslt().heuristic(gpu.handle, p.desc.get(), p.a.get(), p.b.get(), p.c.get(), p.c.get(),
                           wish.get(), 1, &found, &count);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return {};
  check_cublaslt(status, "cublasLtMatmulAlgoGetHeuristic");
  if (count == 0 || found.state != CUBLAS_STATUS_SUCCESS) return {};
  Algorithm algorithm;
  std::copy_n(found.algo.data, algorithm.words.size(), algorithm.words.begin());
  algorithm.workspace = found.workspaceSize;
  return algorithm;
}

cublasLtMatmulAlgo_t unpacked(const Algorithm& algorithm) {
  cublasLtMatmulAlgo_t algo;
  std::copy_n(algorithm.words.begin(), algorithm.words.size(), algo.data);
  return algo;
}

// The algorithm with the workspace these sizes need, where it can do them.
std::optional<Algorithm> fit(const Gpu& gpu, const GemmArgs& g, Algorithm algorithm) {
  const Problem p(g);
  const cublasLtMatmulAlgo_t algo = unpacked(algorithm);
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t status = cublaslt().check(gpu.handle, p.desc.get(), p.a.get(), p.b.get(),
                                                 p.c.get(), p.c.get(), &algo, &result);
  if (status != CUBLAS_STATUS_SUCCESS || result.workspaceSize > kMostWorkspace) return {};
  algorithm.workspace = result.workspaceSize;
  return algorithm;
}

const std::optional<Algorithm>& choose(Gpu& gpu, const GemmArgs& g, const Alignments& at,
                                       const AlgorithmKey& key) {
  const auto known = gpu.chosen.find(key);
  if (known != gpu.chosen.end()) return known->second;
  const GemmArgs typical = g.split_k ? g : usual_problem(g, at);
  std::optional<Algorithm> found;
  // What a file says is believed only if the library takes it.
  if (const Algorithm* stored = gpu.disk->find(key)) found = fit(gpu, typical, *stored);
  if (!found) {
    found = ask(gpu, typical, at);
    // Whole sizes are too many for a file, and mostly seen once.
    if (found && !g.split_k) gpu.disk->insert(key, *found);
  }
  return gpu.chosen[key] = found;
}

std::optional<Algorithm> choose_for_rows(Gpu& gpu, const GemmArgs& g, const Alignments& at,
                                         const AlgorithmKey& key) {
  const std::optional<Algorithm>& chosen = choose(gpu, g, at, key);
  if (!chosen) return {};
  if (const std::optional<Algorithm> fitted = fit(gpu, g, *chosen)) return fitted;
  std::fprintf(
      stderr,
      "parlo: cuBLASLt: the algorithm for N %lld, K %lld does not take %lld rows; they get "
      "one of their own\n",
      static_cast<long long>(g.n), static_cast<long long>(g.k), static_cast<long long>(g.m));
  return ask(gpu, g, at);
}

std::optional<Algorithm> algorithm_for(Gpu& gpu, const GemmArgs& g) {
  const Alignments at(g);
  const AlgorithmKey key = algorithm_key(g, at);
  const auto sizes = std::make_pair(key, std::make_pair(g.m, g.batch));
  const std::lock_guard lock(gpu.mutex);
  if (const auto known = gpu.fitted.find(sizes); known != gpu.fitted.end()) return known->second;
  constexpr size_t kMostSizes = 10000;  // sequences of all lengths must not fill the memory
  if (gpu.fitted.size() >= kMostSizes) gpu.fitted.clear(), gpu.chosen.clear();
  return gpu.fitted[sizes] = choose_for_rows(gpu, g, at, key);
}

void multiply(const Gpu& gpu, const GemmArgs& g, const Algorithm& algorithm) {
  const Problem p(g);
  const cublasLtMatmulAlgo_t algo = unpacked(algorithm);
  const auto bytes = static_cast<int64_t>(algorithm.workspace);
  const Tensor workspace = bytes > 0 ? Tensor::empty({bytes}, DType::u8, g.device) : Tensor();
  const cudaStream_t stream = stream_of(g.device);
  const cublasStatus_t status =
      cublaslt().matmul(gpu.handle, p.desc.get(), &g.alpha, g.b, p.a.get(), g.a, p.b.get(), &g.beta,
                        g.add ? g.add : g.c, p.c.get(), g.c, p.c.get(), &algo,
                        bytes > 0 ? workspace.raw() : nullptr, algorithm.workspace, stream);
  check_cublaslt(status, "cublasLtMatmul");
  launched("gemm", stream);
}

}  // namespace

bool try_gemm(const GemmArgs& g) {
  if (g.m == 0 || g.n == 0 || g.batch == 0) return true;
  const Alignments at(g);
  // The library's own conditions on the pre-activation.
  if (g.aux && (at.out < 16 || g.c_row % 8 != 0)) return false;
  Gpu& gpu = gpu_of(g.device);
  const std::optional<Algorithm> algorithm = algorithm_for(gpu, g);
  if (!algorithm) return false;
  multiply(gpu, g, *algorithm);
  return true;
}

void gemm(const GemmArgs& g) {
  CHECK(try_gemm(g), "CUDA: cuBLASLt has no product of [", g.m, ", ", g.k, "] and [", g.k, ", ",
        g.n, "] of ", dtype_name(g.in), " into ", dtype_name(g.out));
}

}  // namespace parlo::cuda
#endif
