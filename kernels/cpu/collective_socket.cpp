#include "kernels/cpu/collective_socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "tensor/error.h"

namespace parlo::cpu {
namespace {

using AddressList = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

AddressList resolve(const HostPort& at, int flags, std::string& why) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  const int error = ::getaddrinfo(at.host.c_str(), at.port.c_str(), &hints, &found);
  if (error != 0) why = error == EAI_SYSTEM ? std::strerror(errno) : ::gai_strerror(error);
  return {error == 0 ? found : nullptr, &::freeaddrinfo};
}

Socket new_socket(const addrinfo& at) {
  return Socket(::socket(at.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

void set(int fd, int level, int option) {
  const int on = 1;
  ::setsockopt(fd, level, option, &on, sizeof on);
}

void tune(int fd) {
  set(fd, IPPROTO_TCP, TCP_NODELAY);  // a step is a small message that somebody waits for
  set(fd, SOL_SOCKET, SO_KEEPALIVE);
}

// A connection to a port of this machine where nobody listens may be given that port as its own,
// and then meets itself.
bool meets_itself(int fd) {
  sockaddr_storage own{}, other{};
  socklen_t own_size = sizeof own, other_size = sizeof other;
  return ::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &own_size) == 0 &&
         ::getpeername(fd, reinterpret_cast<sockaddr*>(&other), &other_size) == 0 &&
         own_size == other_size && std::memcmp(&own, &other, own_size) == 0;
}

// 0 or the error. Packets that vanish must not cost the other meanings of the name their turn.
int connect_one(int fd, const addrinfo& at, SteadyClock::time_point deadline) {
  constexpr double kLongest = 3;
  if (::connect(fd, at.ai_addr, at.ai_addrlen) != 0 && errno != EINPROGRESS) return errno;
  pollfd wait{fd, POLLOUT, 0};
  const int ready =
      ::poll(&wait, 1, milliseconds_until(std::min(deadline, seconds_from_now(kLongest))));
  if (ready <= 0) return ETIMEDOUT;
  int error = 0;
  socklen_t size = sizeof error;
  ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
  return error != 0 ? error : meets_itself(fd) ? ECONNREFUSED : 0;
}

}  // namespace

int milliseconds_until(SteadyClock::time_point deadline) {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(deadline - SteadyClock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 1000 * 1000));
}

Socket::~Socket() {
  if (fd_ >= 0) ::close(fd_);
}

HostPort parse_address(const std::string& address) {
  const size_t colon = address.rfind(':');
  HostPort at;
  if (colon != std::string::npos) {
    at = {address.substr(0, colon), address.substr(colon + 1)};
    const bool bracketed = at.host.size() > 2 && at.host.front() == '[' && at.host.back() == ']';
    if (bracketed) at.host = at.host.substr(1, at.host.size() - 2);
    if (!bracketed && at.host.find(':') != std::string::npos) at.port.clear();  // IPv6 needs [ ]
    if (at.host.empty()) at.host = "127.0.0.1";
  }
  const bool digits = !at.port.empty() && at.port.size() <= 5 &&
                      at.port.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || std::stoi(at.port) < 1 || std::stoi(at.port) > 65535) {
    throw UsageError(concat("communicator: address '", address,
                            "', expected HOST:PORT or [IPv6]:PORT with a port from 1 to 65535"));
  }
  return at;
}

Socket listen_on(const std::string& address) {
  std::string why;
  const AddressList found = resolve(parse_address(address), AI_PASSIVE, why);
  int error = 0;
  for (const addrinfo* at = found.get(); at != nullptr; at = at->ai_next) {
    Socket socket = new_socket(*at);
    if (socket) {
      // Connections of the last run that still wait out their time do not count as taken.
      set(socket.fd(), SOL_SOCKET, SO_REUSEADDR);
      if (::bind(socket.fd(), at->ai_addr, at->ai_addrlen) == 0 &&
          ::listen(socket.fd(), SOMAXCONN) == 0) {
        return socket;
      }
    }
    error = errno;
  }
  if (error == EADDRINUSE) why = "the port is taken; choose another (PARLO_ADDRESS)";
  if (error == EADDRNOTAVAIL) {
    why = "it is no address of this machine; start rank 0 there, or give rank 0 0.0.0.0:PORT";
  }
  if (why.empty()) why = std::strerror(error);
  throw Error(concat("communicator: rank 0 cannot listen on ", address, ": ", why));
}

Socket accept_from(const Socket& listener) {
  Socket socket(::accept4(listener.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (socket) tune(socket.fd());
  return socket;
}

Socket connect_to(const std::string& address, SteadyClock::time_point deadline, std::string& why) {
  const AddressList found = resolve(parse_address(address), 0, why);
  for (const addrinfo* at = found.get(); at != nullptr; at = at->ai_next) {
    Socket socket = new_socket(*at);
    const int error = socket ? connect_one(socket.fd(), *at, deadline) : errno;
    if (error == 0) {
      tune(socket.fd());
      return socket;
    }
    why = std::strerror(error);
  }
  return {};
}

}  // namespace parlo::cpu
