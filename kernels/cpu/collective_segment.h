// A piece of memory that the ranks of one host share (POSIX shared memory).
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace parlo::cpu {

class SharedSegment {
 public:
  SharedSegment() = default;
  // A new one under a name that no other run has; its memory is set aside, so that a full /dev/shm
  // shows here and not as SIGBUS later. Undefined when the system gives none.
  static SharedSegment create(size_t bytes);
  // One that another process made; undefined when it cannot be opened, as on another host.
  static SharedSegment open(const std::string& name, size_t bytes);
  SharedSegment(SharedSegment&& other) noexcept;
  SharedSegment& operator=(SharedSegment&& other) noexcept;
  ~SharedSegment();

  explicit operator bool() const { return data_ != nullptr; }
  // Of the creator until unlink().
  const std::string& name() const { return name_; }
  // Takes the name away when all have opened it: the memory goes when the last process ends.
  void unlink();
  std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  void map(int fd, size_t bytes);

  std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::string name_;
};

}  // namespace parlo::cpu
