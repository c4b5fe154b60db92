#include "tools/paths.h"

#include <unistd.h>

#include "tensor/error.h"

namespace parlo {
namespace fs = std::filesystem;

void require_folder(const fs::path& path, const std::string& flag, const std::string& expected) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return;
  const char* what = fs::exists(path, ignored) ? "is not a folder" : "does not exist";
  throw UsageError(concat(flag, " ", path.string(), " ", what, "; expected ", expected));
}

void require_place(const fs::path& path, const std::string& flag, const std::string& expected) {
  std::error_code ignored;
  if (fs::exists(path, ignored)) return;
  throw UsageError(concat(flag, " ", path.string(), " does not exist; expected ", expected));
}

void require_file(const fs::path& path, const std::string& flag) {
  std::error_code ignored;
  if (fs::is_regular_file(path, ignored)) return;
  const char* what = fs::exists(path, ignored) ? "is not a file" : "does not exist";
  throw UsageError(concat(flag, " ", path.string(), " ", what));
}

void require_writable_parent(const fs::path& file, const std::string& flag) {
  std::error_code ignored;
  if (fs::is_directory(file, ignored)) {
    throw UsageError(concat(flag, " ", file.string(), " is a folder; expected a file name"));
  }
  const fs::path parent = file.has_parent_path() ? file.parent_path() : fs::path(".");
  require_folder(parent, concat(flag, ": the folder"), "one that exists");
  if (::access(parent.c_str(), W_OK) != 0) {
    throw UsageError(concat(flag, ": the folder ", parent.string(), " cannot be written"));
  }
}

void require_writable_folder(const fs::path& folder, const std::string& flag) {
  std::error_code ignored;
  if (folder.empty()) throw UsageError(flag + " is empty; give a folder name");
  fs::path there = fs::absolute(folder);
  while (!fs::exists(there, ignored) && there.has_relative_path()) there = there.parent_path();
  if (!fs::is_directory(there, ignored)) {
    throw UsageError(concat(flag, " ", folder.string(), ": ", there.string(), " is not a folder"));
  }
  if (::access(there.c_str(), W_OK | X_OK) != 0) {
    throw UsageError(
        concat(flag, " ", folder.string(), ": ", there.string(), " cannot be written"));
  }
}

void require_new_folder(const fs::path& folder, const std::string& flag) {
  require_writable_folder(folder, flag);
  std::error_code ignored;
  if (fs::exists(folder, ignored) && !fs::is_empty(folder, ignored)) {
    throw UsageError(concat(flag, " ", folder.string(), " is not empty; give a new folder"));
  }
}

}  // namespace parlo
