// Runs a body as several ranks, each a process of its own.
#pragma once

#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/collective.h"
#include "tests/kernels/kernel_support.h"

namespace parlo::test {

inline void sleep_ms(int ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

inline double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// A port nobody else gets while this lives: bound, and shared with whoever listens on it.
class ReservedPort {
 public:
  explicit ReservedPort(bool ipv6 = false)
      : ipv6_(ipv6), fd_(::socket(ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const int on = 1;
    ::setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in6 six{};
    six.sin6_family = AF_INET6, six.sin6_addr = in6addr_loopback;
    sockaddr_in four{};
    four.sin_family = AF_INET, four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* at = ipv6 ? reinterpret_cast<sockaddr*>(&six) : reinterpret_cast<sockaddr*>(&four);
    socklen_t size = ipv6 ? sizeof six : sizeof four;
    ok_ = ::bind(fd_, at, size) == 0 && ::getsockname(fd_, at, &size) == 0;
    port_ = ntohs(ipv6 ? six.sin6_port : four.sin_port);
  }
  ~ReservedPort() { ::close(fd_); }
  ReservedPort(const ReservedPort&) = delete;
  ReservedPort& operator=(const ReservedPort&) = delete;

  bool ok() const { return ok_; }
  int fd() const { return fd_; }
  std::string address() const { return concat(ipv6_ ? "[::1]:" : "127.0.0.1:", port_); }

 private:
  bool ipv6_, ok_ = false;
  int fd_, port_ = 0;
};

inline std::string read_pipe(int fd, std::chrono::steady_clock::time_point deadline) {
  std::string text;
  char buffer[4096];
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    pollfd wait{fd, POLLIN, 0};
    if (left.count() <= 0 || ::poll(&wait, 1, static_cast<int>(left.count())) < 0) return text;
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n <= 0) return text;
    text.append(buffer, static_cast<size_t>(n));
  }
}

// What body(rank) returned in each process, or "error: MESSAGE"; empty when the process was killed
// (at the latest after 20 s). The parent must not have started threads.
inline std::vector<std::string> run_processes(int size,
                                              const std::function<std::string(int)>& body) {
  std::vector<std::pair<pid_t, int>> children;
  std::fflush(nullptr);
  for (int rank = 0; rank < size; ++rank) {
    int ends[2];
    CHECK(::pipe(ends) == 0, "pipe failed");
    const pid_t pid = ::fork();
    CHECK(pid >= 0, "fork failed");
    if (pid == 0) {
      std::string text;
      try {
        text = body(rank);
      } catch (const std::exception& error) {
        text = concat("error: ", error.what());
      }
      const ssize_t written = ::write(ends[1], text.data(), text.size());
      ::_exit(written == static_cast<ssize_t>(text.size()) ? 0 : 1);
    }
    ::close(ends[1]);
    children.emplace_back(pid, ends[0]);
  }
  std::vector<std::string> texts;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  for (const auto& [pid, fd] : children) {
    texts.push_back(read_pipe(fd, deadline));
    ::close(fd);
    if (std::chrono::steady_clock::now() >= deadline) ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  return texts;
}

// A communicator between the processes, and body(it).
inline std::vector<std::string> run_ranks(CommunicatorConfig config,
                                          const std::function<std::string(Communicator&)>& body) {
  const ReservedPort port;
  config.address = port.address();
  return run_processes(config.size, [&](int rank) {
    config.rank = rank;
    const std::unique_ptr<Communicator> communicator = make_communicator(config);
    return body(*communicator);
  });
}

inline CommunicatorConfig ranks(int size, bool shared_memory = true, double timeout = 10) {
  CommunicatorConfig config;
  config.size = size, config.shared_memory = shared_memory, config.timeout = timeout;
  return config;
}

inline bool all_are(const std::vector<std::string>& texts, const std::string& expected) {
  for (const std::string& text : texts) {
    if (text != expected) return false;
  }
  return true;
}

// FNV-1a of the bytes.
inline std::string fingerprint(const Tensor& t) {
  uint64_t hash = 14695981039346656037u;
  const auto* bytes = static_cast<const unsigned char*>(t.raw());
  for (size_t i = 0; i < t.nbytes(); ++i) hash = (hash ^ bytes[i]) * 1099511628211u;
  return std::to_string(hash);
}

}  // namespace parlo::test
