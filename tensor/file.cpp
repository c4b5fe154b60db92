#include "tensor/file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

#include "tensor/error.h"

namespace parlo {
namespace fs = std::filesystem;

namespace {

// What went wrong and the way out.
std::string reason(int error, const fs::path& path) {
  const std::string folder = path.has_parent_path() ? path.parent_path().string() : ".";
  switch (error) {
    case ENOENT:
      return ::access(folder.c_str(), F_OK) == 0 ? "no such file"
                                                 : "folder " + folder + " does not exist";
    case ENOSPC:
      return "the disk is full; free space or choose another folder";
    case EDQUOT:
      return "the disk quota is used up; free space or choose another folder";
    case EFBIG:
      return "the file would exceed the size limit (ulimit -f)";
    case EROFS:
      return folder + " is on a read-only file system; choose another folder";
    case EACCES:
    case EPERM:
      return "permission denied; check the rights of " + folder;
    case EISDIR:
      return "it is a folder, expected a file";
    case ENOTDIR:
      return folder + " is not a folder";
    default:
      return std::strerror(error);
  }
}

[[noreturn]] void fail(std::string_view what, const fs::path& path, int error) {
  throw Error(concat("cannot ", what, " ", path.string(), ": ", reason(error, path)));
}

class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags, std::string_view what)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC)) {
    if (fd_ < 0) fail(what, path, errno);
  }
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  operator int() const { return fd_; }

 private:
  int fd_;
};

// Size of an open regular file; folders, pipes and devices are refused.
size_t regular_size(int fd, const fs::path& path) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) fail("read", path, errno);
  if (S_ISDIR(status.st_mode)) fail("read", path, EISDIR);
  CHECK(S_ISREG(status.st_mode), "cannot read ", path.string(), ": it is not a regular file");
  return static_cast<size_t>(status.st_size);
}

void write_all(int fd, const void* data, size_t bytes, const fs::path& path) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(fd, p, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail("write", path, errno);
    p += written;
    bytes -= static_cast<size_t>(written);
  }
}

void sync_folder(const fs::path& folder) {
  Descriptor fd(folder.empty() ? fs::path(".") : folder, O_RDONLY | O_DIRECTORY, "open folder");
  // Some file systems cannot sync a folder; the rename itself is atomic on all of them.
  if (::fsync(fd) != 0 && errno != EINVAL && errno != EROFS) fail("sync folder", folder, errno);
}

// A process that was killed and whose parent does not ask for it (in many containers nobody does)
// keeps its number as a zombie.
bool is_alive(int pid) {
  if (::kill(pid, 0) != 0 && errno == ESRCH) return false;
  std::ifstream stat(concat("/proc/", pid, "/stat"));
  const std::string line{std::istreambuf_iterator<char>(stat), {}};
  const size_t name_end = line.rfind(") ");
  return name_end == std::string::npos || line.size() < name_end + 3 || line[name_end + 2] != 'Z';
}

// Temporary names are ".NAME.PID.COUNT.partial"; those of processes that died are removed here, so
// that killed runs do not fill the folder.
void remove_stale(const fs::path& path) {
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const std::string prefix = concat(".", path.filename().string(), ".");
  const std::string_view suffix = ".partial";
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix) || !name.ends_with(suffix)) continue;
    int pid = 0;
    const char* end = name.data() + name.size();
    const auto parsed = std::from_chars(name.data() + prefix.size(), end, pid);
    if (parsed.ec != std::errc() || *parsed.ptr != '.' || pid <= 0) continue;
    if (!is_alive(pid)) fs::remove(entry.path(), ignored);
  }
}

fs::path temporary_name(const fs::path& path) {
  static std::atomic<int> count{0};
  const std::string name =
      concat(".", path.filename().string(), ".", ::getpid(), ".", count.fetch_add(1), ".partial");
  return path.parent_path() / name;
}

}  // namespace

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

std::string read_file(const fs::path& path) {
  Descriptor fd(path, O_RDONLY, "read");
  const size_t size = regular_size(fd, path);
  CHECK(size <= kMostReadBytes, "cannot read ", path.string(), ": it has ", size,
        " bytes, expected at most ", kMostReadBytes);
  std::string content(size, '\0');
  size_t got = 0;
  while (got < content.size()) {
    const ssize_t n = ::read(fd, content.data() + got, content.size() - got);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("read", path, errno);
    if (n == 0) break;
    got += static_cast<size_t>(n);
  }
  content.resize(got);
  return content;
}

AtomicFile::AtomicFile(const fs::path& path) : path_(path) {
  CHECK(path.has_filename(), "cannot write '", path.string(), "': the path names no file");
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) fail("write", path, EISDIR);
  remove_stale(path);
  temporary_ = temporary_name(path);
  fd_ = ::open(temporary_.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("write", path, errno);
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t bytes) {
  write_all(fd_, data, bytes, path_);
}

void AtomicFile::commit() {
  if (::fsync(fd_) != 0) fail("write", path_, errno);
  // Network file systems report a full disk only here.
  const int closed = ::close(std::exchange(fd_, -1));
  if (closed != 0) fail("write", path_, errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("write", path_, errno);
  temporary_.clear();
  sync_folder(path_.parent_path());
}

void write_file(const fs::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

void make_folders(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail("create folder", folder, error.value());
}

MappedFile::MappedFile(const fs::path& path) {
  Descriptor fd(path, O_RDONLY, "read");
  size_ = regular_size(fd, path);
  if (size_ == 0) return;  // an empty map is not allowed
  data_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
  if (data_ == MAP_FAILED) fail("map", path, errno);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

void MappedFile::release(size_t begin, size_t bytes) const {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t first = (begin + page - 1) / page * page, last = (begin + bytes) / page * page;
  if (first < last) ::madvise(static_cast<std::byte*>(data_) + first, last - first, MADV_DONTNEED);
}

FolderLock::FolderLock(const fs::path& folder)
    : fd_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (fd_ < 0) fail("open", folder, errno);
  if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) return;
  const int error = errno;
  ::close(fd_);
  CHECK(error != EWOULDBLOCK, folder.string(),
        ": another process is working in this folder; wait for it or choose another folder");
  // A file system without locks is no reason to refuse to work.
  fd_ = -1;
}

FolderLock::~FolderLock() {
  if (fd_ >= 0) ::close(fd_);
}

LineLog::LineLog(const fs::path& path) : path_(path) {
  open();
}

LineLog::LineLog(const fs::path& path, uint64_t cursor) : path_(path) {
  open();
  if (bytes_ < cursor) ::close(std::exchange(fd_, -1));
  CHECK(fd_ >= 0, "cannot resume ", path.string(), ": it has ", bytes_,
        " bytes, expected at least ", cursor,
        "; the file was cut or replaced after the checkpoint");
  if (::ftruncate(fd_, static_cast<off_t>(cursor)) != 0) {
    const int error = errno;
    ::close(std::exchange(fd_, -1));
    fail("cut", path, error);
  }
  bytes_ = cursor;
}

LineLog::~LineLog() {
  if (fd_ >= 0) ::close(fd_);
}

void LineLog::open() {
  fd_ = ::open(path_.c_str(), O_CREAT | O_APPEND | O_WRONLY | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("write", path_, errno);
  struct stat status {};
  if (::fstat(fd_, &status) != 0) fail("write", path_, errno);
  bytes_ = static_cast<uint64_t>(status.st_size);
}

void LineLog::append(std::string_view line) {
  std::string text(line);
  CHECK(text.find('\n') == std::string::npos, "LineLog: a line must not hold a newline: ", line);
  text += '\n';
  write_all(fd_, text.data(), text.size(), path_);
  bytes_ += text.size();
}

void LineLog::sync() {
  if (::fsync(fd_) != 0) fail("write", path_, errno);
}

}  // namespace parlo
