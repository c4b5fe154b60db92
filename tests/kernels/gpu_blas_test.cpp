// What blas.h remembers and where it finds its library.
#include <cstdlib>

#include "kernels/cuda/blas_key.h"
#include "kernels/cuda/find_library.h"
#include "tensor/file.h"
#include "tests/gpu_support.h"

namespace parlo::test {
namespace {

using cuda::Algorithm;
using cuda::AlgorithmCache;
using cuda::AlgorithmKey;

Algorithm algorithm(uint64_t seed) {
  Algorithm a;
  for (uint64_t& word : a.words) word = seed = seed * 6364136223846793005u + 1442695040888963407u;
  a.workspace = seed >> 40;
  return a;
}

bool holds(const AlgorithmCache& cache, const AlgorithmKey& key, const Algorithm& want) {
  const Algorithm* found = cache.find(key);
  return found != nullptr && found->words == want.words && found->workspace == want.workspace;
}

cuda::GemmArgs linear_product(const Tensor& x, const Tensor& w, const Tensor& y) {
  cuda::GemmArgs g;
  g.in = x.dtype(), g.out = y.dtype();
  g.m = x.dim(0), g.n = w.dim(0), g.k = x.dim(1);
  g.a = x.raw(), g.b = w.raw(), g.c = y.raw();
  g.trans_b = true;
  g.a_row = x.strides()[0], g.b_row = w.strides()[0], g.c_row = y.strides()[0];
  return g;
}

AlgorithmKey key(const cuda::GemmArgs& g) {
  return cuda::algorithm_key(g, cuda::Alignments(g));
}

}  // namespace

TEST_CASE("gpu: algorithms come back from disk") {
  const TemporaryFolder folder;
  const std::string path = folder / "a/b/algorithms.txt";
  const AlgorithmKey first{1, 2, 3, 0, 0}, second{-1, int64_t{1} << 40, 3, 4, 5};
  {
    AlgorithmCache cache(path, "GPU, 1");
    CHECK(cache.find(first) == nullptr);
    cache.insert(first, algorithm(1));
    cache.insert(second, algorithm(2));
    cache.insert(first, algorithm(3));
  }
  const AlgorithmCache again(path, "GPU, 1");
  CHECK(holds(again, first, algorithm(3)));
  CHECK(holds(again, second, algorithm(2)));
  CHECK(AlgorithmCache(path, "GPU, 2").find(first) == nullptr);
}

TEST_CASE("gpu: a damaged file of algorithms is ignored and replaced") {
  const TemporaryFolder folder;
  const std::string path = folder / "algorithms.txt";
  const AlgorithmKey key{1, 2, 3, 0, 0};
  AlgorithmCache(path, "GPU").insert(key, algorithm(1));
  const std::string good = read_file(path);
  std::string flipped = good;
  flipped[good.find("\n") + 3] ^= 1;
  for (const std::string& bad : {std::string(), std::string("sum 0\n"), good.substr(0, 40),
                                 good.substr(1), good + "x", flipped}) {
    write_file(path, bad);
    AlgorithmCache cache(path, "GPU");
    CHECK(cache.find(key) == nullptr);
    cache.insert(key, algorithm(2));
    CHECK(holds(AlgorithmCache(path, "GPU"), key, algorithm(2)));
  }
  // Nowhere to write: in memory only.
  AlgorithmCache cache("/proc/nowhere/algorithms.txt", "GPU");
  cache.insert(key, algorithm(1));
  CHECK(holds(cache, key, algorithm(1)));
}

TEST_CASE("gpu: the key of a product does not depend on its rows") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t k : {64, 66, 65, 4}) {
      const Tensor x = gpu_output({50, k}, dtype), w = gpu_output({40, k}, dtype);
      const Tensor y = gpu_output({50, 40}, dtype);
      const AlgorithmKey whole = key(linear_product(x, w, y));
      for (int64_t i = 0; i < 50; ++i) {
        const cuda::GemmArgs g = linear_product(x.slice(0, i, i + 1), w, y.slice(0, i, i + 1));
        CHECK(key(g) == whole);
        // Nor does the problem that the algorithm is chosen for, and it is no better aligned.
        const cuda::Alignments at(g);
        const cuda::GemmArgs usual = cuda::usual_problem(g, at);
        const auto bytes = [&](int64_t row) {
          return row * static_cast<int64_t>(dtype_size(dtype));
        };
        CHECK(usual.a_row >= k);
        CHECK(bytes(usual.a_row) % at.a == 0);
        if (at.a < 16) CHECK(bytes(usual.a_row) % (2 * at.a) != 0);
      }
      cuda::GemmArgs other = linear_product(x, w, y);
      other.split_k = true;
      CHECK(key(other) != whole);
      other = linear_product(x, w, y);
      other.bias = w.raw();
      CHECK(key(other) != whole);
    }
  }
}

TEST_CASE("gpu: a library that is not there is named") {
  const char* before = std::getenv("PARLO_CUBLASLT");
  const std::string kept = before ? before : "";
  ::setenv("PARLO_CUBLASLT", "/nowhere/libcublasLt.so", 1);
  const std::string message = message_of([] { cuda::open_cublaslt(); });
  CHECK(contains(message, "PARLO_CUBLASLT"));
  CHECK(contains(message, "/nowhere/libcublasLt.so"));
  if (before) {
    ::setenv("PARLO_CUBLASLT", kept.c_str(), 1);
  } else {
    ::unsetenv("PARLO_CUBLASLT");
  }
  const std::string lacking =
      message_of([] { cuda::find_function(nullptr, "NCCL 2.14 or later", "ncclNothing"); });
  CHECK(contains(lacking, "no ncclNothing, expected NCCL 2.14 or later"));
}

TEST_CASE("gpu: the file of algorithms lies in the user's cache") {
  const char* before = std::getenv("XDG_CACHE_HOME");
  const std::string kept = before ? before : "";
  ::setenv("XDG_CACHE_HOME", "/cache", 1);
  CHECK(cuda::algorithm_cache_path("NVIDIA H100 80GB/HBM3", 13000) ==
        "/cache/parlo/cublaslt-NVIDIA-H100-80GB-HBM3-13000.txt");
  if (before) {
    ::setenv("XDG_CACHE_HOME", kept.c_str(), 1);
  } else {
    ::unsetenv("XDG_CACHE_HOME");
  }
}

}  // namespace parlo::test
