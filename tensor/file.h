// Files as a run needs them: whole reads, read-only maps, writes that are either complete or not
// there at all, and an append-only log that a resumed run cuts back to a known byte.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace parlo {

// Texts and tokenizers; what is larger is mapped.
inline constexpr size_t kMostReadBytes = size_t{1} << 30;

// Something has this name; false as well where the system does not say.
bool is_there(const std::filesystem::path& path);

// The whole file as bytes. Throws Error naming the path and the reason.
std::string read_file(const std::filesystem::path& path);

// Writes to a temporary name in the folder of `path`; commit() makes the bytes durable (fsync) and
// renames, so that a reader or a crash sees the old file or the new one, never a part. Without
// commit() the destructor removes the temporary file. Throws Error (full disk, read-only or
// missing folder...) in one line.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int fd_ = -1;
};

void write_file(const std::filesystem::path& path, std::string_view content);

// Creates the folder and its parents where missing.
void make_folders(const std::filesystem::path& folder);

// Keeps a folder for one user at a time, across processes; the system lets go of it when the
// process ends, however it ends. Throws Error when somebody else has it.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_ = -1;
};

// A read-only map of a regular file. Cutting the file shorter while it is mapped is not caught.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return static_cast<const std::byte*>(data_); }
  size_t size() const { return size_; }
  // Takes the whole pages of these bytes out of the process's memory; the system's cache of the
  // file keeps them, and they come back when touched.
  void release(size_t begin, size_t bytes) const;

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// Appends whole lines (metrics.jsonl). A checkpoint stores bytes() after sync(); resuming from it
// opens the log with that cursor, which drops every line written later.
class LineLog {
 public:
  // Appends to what is there, or creates the file.
  explicit LineLog(const std::filesystem::path& path);
  // Cuts the file to `cursor` bytes first. Throws Error when it is shorter than that.
  LineLog(const std::filesystem::path& path, uint64_t cursor);
  ~LineLog();
  LineLog(const LineLog&) = delete;
  LineLog& operator=(const LineLog&) = delete;

  // One write; the line must not hold a newline.
  void append(std::string_view line);
  void sync();
  uint64_t bytes() const { return bytes_; }

 private:
  void open();

  std::filesystem::path path_;
  int fd_ = -1;
  uint64_t bytes_ = 0;
};

}  // namespace parlo
