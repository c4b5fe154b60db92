// Messages of collective_socket.h: a header with two checksums, then the payload.
#include <nmmintrin.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "kernels/cpu/collective_socket.h"

namespace parlo::cpu {
namespace {

constexpr uint32_t kMagic = 0x4f4c5250;  // "PRLO"
constexpr uint8_t kVersion = 1;

uint32_t own_checksum(const MessageHeader& header) {
  return checksum(&header, offsetof(MessageHeader, header_checksum));
}

bool try_again(ssize_t result) {
  return result < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

}  // namespace

const char* name_of(CollectiveOp op) {
  constexpr std::array kNames = {"rendezvous", "all_reduce_sum", "broadcast", "all_gather",
                                 "barrier"};
  const auto i = static_cast<size_t>(op);
  return i < kNames.size() ? kNames[i] : "unknown operation";
}

uint32_t checksum(const void* data, size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(data);
  uint64_t sum = 0xffffffffu;
  for (; bytes >= 8; p += 8, bytes -= 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    sum = _mm_crc32_u64(sum, word);
  }
  auto tail = static_cast<uint32_t>(sum);
  for (; bytes > 0; ++p, --bytes) tail = _mm_crc32_u8(tail, *p);
  return ~tail;
}

MessageStream::State MessageStream::check_header() {
  const bool good = header_.magic == kMagic && header_.version == kVersion &&
                    header_.header_checksum == own_checksum(header_) &&
                    header_.length <= kMaxPayload && header_.kind <= MessageKind::fault &&
                    header_.op <= CollectiveOp::barrier && header_.dtype <= DType::u8;
  if (!good) return State::corrupt;
  payload_.resize(header_.length);
  return State::partial;
}

MessageStream::State MessageStream::receive() {
  for (;;) {
    if (got_ == sizeof header_ && check_header() == State::corrupt) return State::corrupt;
    const bool in_header = got_ < sizeof header_;
    const size_t end = sizeof header_ + (in_header ? 0 : payload_.size());
    if (!in_header && got_ == end) {
      const bool good = checksum(payload_.data(), payload_.size()) == header_.payload_checksum;
      return good ? State::complete : State::corrupt;
    }
    std::byte* to = in_header ? reinterpret_cast<std::byte*>(&header_) + got_
                              : payload_.data() + (got_ - sizeof header_);
    const ssize_t n = ::recv(socket_.fd(), to, (in_header ? sizeof header_ : end) - got_, 0);
    if (n < 0 && errno == EINTR) continue;
    if (try_again(n)) return State::partial;
    if (n <= 0) return State::closed;
    got_ += static_cast<size_t>(n);
  }
}

MessageStream::State MessageStream::receive(SteadyClock::time_point deadline) {
  for (;;) {
    const State state = receive();
    if (state != State::partial) return state;
    const int left = milliseconds_until(deadline);
    if (left == 0) return State::partial;
    pollfd wait{socket_.fd(), POLLIN, 0};
    ::poll(&wait, 1, left);
  }
}

MessageStream::Sent MessageStream::send(MessageHeader header, std::span<const std::byte> payload,
                                        SteadyClock::time_point deadline) {
  header.magic = kMagic;
  header.version = kVersion;
  header.length = static_cast<uint32_t>(payload.size());
  header.payload_checksum = checksum(payload.data(), payload.size());
  header.header_checksum = own_checksum(header);
  iovec parts[2] = {{&header, sizeof header},
                    {const_cast<std::byte*>(payload.data()), payload.size()}};
  while (parts[0].iov_len + parts[1].iov_len > 0) {
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    const ssize_t n = ::sendmsg(socket_.fd(), &message, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (try_again(n)) {
      const int left = milliseconds_until(deadline);
      if (left == 0) return Sent::late;
      // Who talks instead of listening reports a fault.
      pollfd wait{socket_.fd(), POLLOUT | POLLIN, 0};
      ::poll(&wait, 1, left);
      if ((wait.revents & (POLLOUT | POLLIN)) == POLLIN) return Sent::closed;
      continue;
    }
    if (n < 0) return Sent::closed;
    auto sent = static_cast<size_t>(n);
    for (iovec& part : parts) {
      const size_t taken = std::min(sent, part.iov_len);
      part.iov_base = static_cast<char*>(part.iov_base) + taken;
      part.iov_len -= taken;
      sent -= taken;
    }
  }
  return Sent::all;
}

}  // namespace parlo::cpu
