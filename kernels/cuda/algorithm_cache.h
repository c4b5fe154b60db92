// What cuBLASLt answered when asked for an algorithm, kept on disk: the answer costs far more than
// the question, and a later run computes the same bits.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

namespace parlo::cuda {

using AlgorithmKey = std::array<int64_t, 5>;

// The library's 64 opaque bytes, valid for one version of it, and the workspace they ask for.
struct Algorithm {
  std::array<uint64_t, 8> words{};
  uint64_t workspace = 0;
};

class AlgorithmCache {
 public:
  // Reads the file. One that is damaged, or was written for another `owner` (GPU, driver, library),
  // counts as empty and is replaced at the next insert. An empty path: in memory only.
  AlgorithmCache(std::filesystem::path path, std::string owner);

  const Algorithm* find(const AlgorithmKey& key) const;
  // Writes the file as well, whole and atomically; a folder that cannot be written to is no error.
  // A full cache stays as it is.
  void insert(const AlgorithmKey& key, const Algorithm& algorithm);

 private:
  bool parse(const std::string& text);
  std::string text() const;

  std::filesystem::path path_;
  std::string owner_;
  std::map<AlgorithmKey, Algorithm> known_;
};

// $XDG_CACHE_HOME/parlo/cublaslt-GPU-DRIVER.txt, by default in ~/.cache; empty without a home.
std::filesystem::path algorithm_cache_path(const std::string& gpu, int driver);

}  // namespace parlo::cuda
