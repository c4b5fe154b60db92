// The file: a line naming the owner, a line of numbers an algorithm, a checksum of all before it.
#include "kernels/cuda/algorithm_cache.h"

#include <cctype>
#include <cstdlib>
#include <sstream>

#include "tensor/error.h"
#include "tensor/file.h"

namespace parlo::cuda {
namespace {

constexpr const char* kTitle = "parlo cublaslt ";

// FNV-1a.
uint64_t checksum(std::string_view text) {
  uint64_t hash = 14695981039346656037u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return hash;
}

std::string sum_line(std::string_view text) {
  return concat("sum ", checksum(text), "\n");
}

}  // namespace

AlgorithmCache::AlgorithmCache(std::filesystem::path path, std::string owner)
    : path_(std::move(path)), owner_(std::move(owner)) {
  if (path_.empty()) return;
  std::error_code none;
  if (!std::filesystem::is_regular_file(path_, none)) return;
  try {
    if (!parse(read_file(path_))) known_.clear();
  } catch (const Error&) {  // not readable
    known_.clear();
  }
}

bool AlgorithmCache::parse(const std::string& text) {
  const size_t end = text.rfind("sum ");
  if (end == std::string::npos || text.substr(end) != sum_line(text.substr(0, end))) return false;
  std::istringstream lines(text.substr(0, end));
  std::string line;
  if (!std::getline(lines, line) || line != kTitle + owner_) return false;
  while (std::getline(lines, line)) {
    std::istringstream numbers(line);
    AlgorithmKey key;
    Algorithm found;
    for (int64_t& part : key) numbers >> part;
    for (uint64_t& word : found.words) numbers >> word;
    if (!(numbers >> found.workspace)) return false;
    known_[key] = found;
  }
  return true;
}

std::string AlgorithmCache::text() const {
  std::ostringstream out;
  out << kTitle << owner_ << "\n";
  for (const auto& [key, algorithm] : known_) {
    for (const int64_t part : key) out << part << " ";
    for (const uint64_t word : algorithm.words) out << word << " ";
    out << algorithm.workspace << "\n";
  }
  return out.str();
}

const Algorithm* AlgorithmCache::find(const AlgorithmKey& key) const {
  const auto found = known_.find(key);
  return found == known_.end() ? nullptr : &found->second;
}

void AlgorithmCache::insert(const AlgorithmKey& key, const Algorithm& algorithm) {
  constexpr size_t kMost = 1000;  // sizes that change from call to call must not fill the disk
  if (known_.size() >= kMost) return;
  known_[key] = algorithm;
  if (path_.empty()) return;
  try {
    make_folders(path_.parent_path());
    const std::string body = text();
    AtomicFile file(path_);
    file.write(body + sum_line(body));
    file.commit();
  } catch (const Error&) {
    path_.clear();  // the next run asks the library again
  }
}

std::filesystem::path algorithm_cache_path(const std::string& gpu, int driver) {
  std::filesystem::path folder;
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != 0) {
    folder = cache;
  } else if (const char* home = std::getenv("HOME"); home != nullptr && *home != 0) {
    folder = std::filesystem::path(home) / ".cache";
  } else {
    return {};
  }
  std::string name = gpu;
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '-';
  }
  return folder / "parlo" / concat("cublaslt-", name, "-", driver, ".txt");
}

}  // namespace parlo::cuda
