// TCP for collective operations: addresses, a listener, and messages over non-blocking sockets, so
// that every wait has a deadline.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tensor/dtype.h"

namespace parlo::cpu {

using SteadyClock = std::chrono::steady_clock;

inline SteadyClock::time_point seconds_from_now(double seconds) {
  return SteadyClock::now() +
         std::chrono::duration_cast<SteadyClock::duration>(std::chrono::duration<double>(seconds));
}
// Rounded up for poll(); 0 when it is over.
int milliseconds_until(SteadyClock::time_point deadline);

class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket();
  int fd() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

struct HostPort {
  std::string host, port;
};
// "HOST:PORT", "[IPv6]:PORT", ":PORT" (loopback). Throws UsageError.
HostPort parse_address(const std::string& address);

// Throws Error when the address is taken, not of this machine or unknown.
Socket listen_on(const std::string& address);
// The next waiting connection, or none.
Socket accept_from(const Socket& listener);
// One try at every meaning of the address; none, and why, when it fails.
Socket connect_to(const std::string& address, SteadyClock::time_point deadline, std::string& why);

enum class MessageKind : uint8_t { hello, call, go, waiting, fault };
enum class CollectiveOp : uint8_t { rendezvous, all_reduce_sum, broadcast, all_gather, barrier };
const char* name_of(CollectiveOp op);

// What every message starts with, as it is on the wire (x86-64: little endian).
struct MessageHeader {
  uint32_t magic = 0;
  MessageKind kind = MessageKind::fault;
  CollectiveOp op = CollectiveOp::rendezvous;
  DType dtype = DType::u8;
  uint8_t version = 0;
  int32_t root = 0;       // of a broadcast; of a hello the rank
  uint32_t length = 0;    // bytes of payload behind this header
  uint64_t sequence = 0;  // steps taken before; of a hello the number of ranks
  uint64_t bytes = 0;     // of the whole operation, on one rank
  uint32_t payload_checksum = 0;
  uint32_t header_checksum = 0;  // of all before it
};
static_assert(sizeof(MessageHeader) == 40);

inline std::string as_text(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

constexpr uint32_t kMaxPayload = 64u << 20;

// CRC-32C.
uint32_t checksum(const void* data, size_t bytes);

class MessageStream {
 public:
  enum class State { partial, complete, closed, corrupt };
  enum class Sent { all, closed, late };

  MessageStream() = default;
  explicit MessageStream(Socket socket) : socket_(std::move(socket)) {}

  int fd() const { return socket_.fd(); }
  // Reads what is there without waiting; complete: header() and payload() hold a message until
  // next().
  State receive();
  // The same, waiting for a message until the deadline (then partial).
  State receive(SteadyClock::time_point deadline);
  void next() { got_ = 0; }
  const MessageHeader& header() const { return header_; }
  std::vector<std::byte>& payload() { return payload_; }
  // Fills in what the header says about itself and the payload. closed: also when the other side
  // has sent a message instead of reading this one.
  Sent send(MessageHeader header, std::span<const std::byte> payload,
            SteadyClock::time_point deadline);

 private:
  State check_header();

  Socket socket_;
  MessageHeader header_;
  std::vector<std::byte> payload_;
  size_t got_ = 0;  // bytes of header and payload
};

}  // namespace parlo::cpu
