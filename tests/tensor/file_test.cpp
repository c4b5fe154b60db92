#include "tensor/file.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <fstream>

#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;
namespace fs = std::filesystem;

namespace {

size_t count_files(const fs::path& folder) {
  return size_t(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

}  // namespace

TEST_CASE("write_file replaces a file as a whole and leaves nothing else") {
  TemporaryFolder folder;
  const std::string path = folder / "a.txt";
  write_file(path, "first");
  write_file(path, std::string("sec\0ond", 7));
  CHECK(read_file(path) == std::string("sec\0ond", 7));
  write_file(path, "");
  CHECK(read_file(path).empty());
  CHECK(count_files(folder.path()) == 1);
}

TEST_CASE("AtomicFile without commit keeps the old file") {
  TemporaryFolder folder;
  const std::string path = folder / "a.txt";
  write_file(path, "old");
  {
    AtomicFile file(path);
    file.write("half of the new");
  }
  CHECK(read_file(path) == "old");
  CHECK(count_files(folder.path()) == 1);
}

TEST_CASE("temporary files of killed processes are removed by the next write") {
  TemporaryFolder folder;
  const std::string path = folder / "a.txt";
  write_file(path, "old");
  const pid_t child = ::fork();
  if (child == 0) {
    AtomicFile file(path);
    file.write("half");
    ::raise(SIGKILL);
  }
  REQUIRE(::waitpid(child, nullptr, 0) == child);
  CHECK(read_file(path) == "old");
  CHECK(count_files(folder.path()) == 2);
  write_file(path, "new");
  CHECK(read_file(path) == "new");
  CHECK(count_files(folder.path()) == 1);
}

TEST_CASE("as are those of a killed process that its parent does not ask for") {
  TemporaryFolder folder;
  const std::string path = folder / "a.txt";
  const pid_t child = ::fork();
  if (child == 0) {
    AtomicFile file(path);
    file.write("half");
    ::raise(SIGKILL);
  }
  siginfo_t info{};
  REQUIRE(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT) == 0);
  REQUIRE(count_files(folder.path()) == 1);
  write_file(path, "new");
  CHECK(count_files(folder.path()) == 1);
  CHECK(read_file(path) == "new");
  REQUIRE(::waitpid(child, nullptr, 0) == child);
}

TEST_CASE("errors name the path and the way out in one line") {
  TemporaryFolder folder;
  const auto one_line = [](const std::string& message, const std::string& part) {
    INFO(message);
    CHECK(contains(message, part));
    CHECK(!contains(message, "\n"));
  };
  one_line(message_of([&] { write_file(folder / "no/such/a.txt", "x"); }), "does not exist");
  one_line(message_of([&] { write_file(folder.path(), "x"); }), "it is a folder");
  one_line(message_of([&] { read_file(folder / "none.txt"); }), "no such file");
  one_line(message_of([&] { read_file(folder.path()); }), "it is a folder");
  one_line(message_of([&] { read_file("/dev/null"); }), "not a regular file");
  write_file(folder / "plain", "x");
  one_line(message_of([&] { write_file(folder / "plain/a.txt", "x"); }), "is not a folder");
  one_line(message_of([&] { make_folders(folder / "plain/sub"); }), "is not a folder");
  one_line(message_of([&] { LineLog log(folder / "no/log"); }), "does not exist");
}

TEST_CASE("a read-only folder is refused") {
  TemporaryFolder folder;
  fs::permissions(folder.path(), fs::perms::owner_read | fs::perms::owner_exec |
                                     fs::perms::others_read | fs::perms::others_exec);
  const bool root = ::geteuid() == 0;
  if (root) REQUIRE(::seteuid(65534) == 0);  // root may write everywhere
  const std::string message = message_of([&] { write_file(folder / "a.txt", "x"); });
  if (root) REQUIRE(::seteuid(0) == 0);
  INFO(message);
  CHECK(contains(message, "permission denied"));
  fs::permissions(folder.path(), fs::perms::owner_all);
  CHECK(count_files(folder.path()) == 0);
}

TEST_CASE("a write that fails half-way leaves the old file alone") {
  TemporaryFolder folder;
  const std::string path = folder / "a.bin";
  write_file(path, "old");
  // A file size limit stands in for a full disk: write() fails after some bytes.
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const std::string message = message_of([&] { write_file(path, std::string(10000, 'x')); });
    ::_exit(contains(message, "size limit") && contains(message, "a.bin") ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(read_file(path) == "old");
  CHECK(count_files(folder.path()) == 1);
}

TEST_CASE("MappedFile shows the bytes, also of an empty file") {
  TemporaryFolder folder;
  write_file(folder / "a", "hello");
  write_file(folder / "empty", "");
  const MappedFile a(folder / "a");
  REQUIRE(a.size() == 5);
  CHECK(std::string(reinterpret_cast<const char*>(a.data()), 5) == "hello");
  CHECK(MappedFile(folder / "empty").size() == 0);
  CHECK(contains(message_of([&] { MappedFile m(folder.path()); }), "it is a folder"));
}

TEST_CASE("LineLog is cut back to a cursor") {
  TemporaryFolder folder;
  const std::string path = folder / "metrics.jsonl";
  uint64_t cursor = 0;
  {
    LineLog log(path);
    log.append("{\"step\":1}");
    log.sync();
    cursor = log.bytes();
    log.append("{\"step\":2}");
  }
  std::ofstream(path, std::ios::app) << "{\"st";  // a line the kill cut short
  {
    LineLog log(path, cursor);
    CHECK(log.bytes() == cursor);
    log.append("{\"step\":2}");
    CHECK_THROWS_AS(log.append("two\nlines"), Error);
  }
  CHECK(read_file(path) == "{\"step\":1}\n{\"step\":2}\n");
  CHECK(LineLog(path).bytes() == read_file(path).size());
  CHECK(contains(message_of([&] { LineLog log(path, 1000); }), "expected at least 1000"));
  CHECK(read_file(path) == "{\"step\":1}\n{\"step\":2}\n");
}

TEST_CASE("a locked folder is refused to a second user and free again afterwards") {
  const TemporaryFolder folder;
  {
    const FolderLock lock(folder.path());
    CHECK(contains(message_of([&] { FolderLock second(folder.path()); }), "another process"));
  }
  CHECK(message_of([&] { FolderLock again(folder.path()); }).empty());
  CHECK(contains(message_of([&] { FolderLock none(folder / "missing"); }), "missing"));
}
