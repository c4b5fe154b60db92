#include "kernels/cpu/collective_segment.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <filesystem>
#include <iomanip>
#include <random>
#include <sstream>
#include <utility>

namespace parlo::cpu {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "parlo-";

// "/parlo-PID-RANDOM"
std::string new_name() {
  std::random_device random;
  std::ostringstream name;
  name << '/' << kPrefix << ::getpid() << '-' << std::hex << std::setfill('0') << std::setw(8)
       << random() << std::setw(8) << random();
  return name.str();
}

// A rank 0 that was killed before all had opened its segment leaves the name behind. Of another
// process namespace that shares this /dev/shm a living one may be taken for dead: should it lose
// its name that early, its run goes on over TCP.
void remove_stale() {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/dev/shm", ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix)) continue;
    int pid = 0;
    const char* end = name.data() + name.size();
    const auto parsed = std::from_chars(name.data() + kPrefix.size(), end, pid);
    if (parsed.ec != std::errc() || parsed.ptr == end || *parsed.ptr != '-' || pid <= 0) continue;
    if (::kill(pid, 0) != 0 && errno == ESRCH) ::shm_unlink(("/" + name).c_str());
  }
}

}  // namespace

SharedSegment SharedSegment::create(size_t bytes) {
  remove_stale();
  SharedSegment segment;
  std::string name = new_name();
  const int fd = ::shm_open(name.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600);
  if (fd < 0) return segment;
  segment.name_ = std::move(name);
  if (::posix_fallocate(fd, 0, static_cast<off_t>(bytes)) == 0) segment.map(fd, bytes);
  ::close(fd);
  if (!segment) segment.unlink();
  return segment;
}

SharedSegment SharedSegment::open(const std::string& name, size_t bytes) {
  SharedSegment segment;
  const int fd = ::shm_open(name.c_str(), O_RDWR, 0);
  if (fd < 0) return segment;
  struct stat status {};
  if (::fstat(fd, &status) == 0 && static_cast<size_t>(status.st_size) == bytes) {
    segment.map(fd, bytes);
  }
  ::close(fd);
  return segment;
}

void SharedSegment::map(int fd, size_t bytes) {
  void* const data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return;
  data_ = static_cast<std::byte*>(data);
  size_ = bytes;
}

SharedSegment::SharedSegment(SharedSegment&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      name_(std::exchange(other.name_, {})) {}

SharedSegment& SharedSegment::operator=(SharedSegment&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(name_, other.name_);
  return *this;
}

SharedSegment::~SharedSegment() {
  if (data_ != nullptr) ::munmap(data_, size_);
  unlink();
}

void SharedSegment::unlink() {
  if (!name_.empty()) ::shm_unlink(std::exchange(name_, {}).c_str());
}

}  // namespace parlo::cpu
