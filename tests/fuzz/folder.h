// A folder of files that lie in memory where the system can do that; loaders read paths.
#pragma once

#include <fcntl.h>
#include <unistd.h>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "tensor/error.h"

namespace parlo::fuzz {

class Folder {
 public:
  Folder() {
    const std::filesystem::path memory = "/dev/shm";
    const bool there = ::access(memory.c_str(), W_OK) == 0;
    std::string pattern =
        ((there ? memory : std::filesystem::temp_directory_path()) / "parlo_fuzz_XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  // Without the durability of write_file, which costs milliseconds.
  void write(const char* name, std::string_view content) const {
    const int fd = ::open((path_ / name).c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0) std::abort();
    if (::write(fd, content.data(), content.size()) != ssize_t(content.size())) std::abort();
    ::close(fd);
  }
  void remove(const char* name) const { ::unlink((path_ / name).c_str()); }
  // An empty part of an input stands for a file that is not there.
  void write_or_remove(const char* name, std::string_view content) const {
    content.empty() ? remove(name) : write(name, content);
  }

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace parlo::fuzz
