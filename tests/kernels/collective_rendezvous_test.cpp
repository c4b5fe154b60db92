// How ranks find each other, and what keeps them from it.
#include <fcntl.h>
#include <sys/mman.h>

#include "kernels/collective.h"
#include "kernels/cpu/collective_socket.h"
#include "tests/kernels/collective_support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

const bool kOneThread = (set_num_threads(1), true);

// Names of shared memory that runs of this program have left.
std::vector<std::string> left_segments(const std::string& prefix = "parlo-") {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(prefix)) names.push_back(name);
  }
  return names;
}

// Connects to rank 0 as somebody who is no rank.
int connect_as_stranger(const std::string& address) {
  sockaddr_in at{};
  at.sin_family = AF_INET, at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  at.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.find(':') + 1))));
  for (int i = 0; i < 200; ++i, sleep_ms(5)) {
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    if (::connect(fd, reinterpret_cast<sockaddr*>(&at), sizeof at) == 0) return fd;
    ::close(fd);
  }
  return -1;
}

}  // namespace

TEST_CASE("a rank that never comes") {
  const ReservedPort port;
  CommunicatorConfig config = ranks(4, true, 0.3);
  config.address = port.address();
  const auto texts = run_processes(2, [&](int rank) {
    config.rank = 2 * rank;  // 0 and 2
    return make_communicator(config), "joined";
  });
  CHECK(texts[0] ==
        concat("error: rendezvous: ranks 1, 3 did not join at ", config.address, " within 0.3 s"));
  // Rank 2 is in its first step by then; its own clock may be first.
  CHECK(contains(texts[1], "rendezvous: "));
  CHECK(contains(texts[1], "ranks 1, 3"));
}

TEST_CASE("wrong addresses") {
  const auto error_at = [](const std::string& address, int rank) {
    CommunicatorConfig config = ranks(2, true, 0.2);
    config.rank = rank, config.address = address;
    return message_of([&] { make_communicator(config); });
  };
  const ReservedPort nobody, taken;
  CHECK(error_at(nobody.address(), 1) == concat("rendezvous: rank 1 found no rank 0 at ",
                                                nobody.address(),
                                                " within 0.2 s: Connection refused"));
  CHECK(contains(error_at("no.such.host.invalid:1234", 1), "no.such.host.invalid:1234 within"));
  CHECK(::listen(taken.fd(), 1) == 0);
  CHECK(contains(error_at(taken.address(), 0), "the port is taken"));
  CHECK(contains(error_at(taken.address(), 1), "what listens there did not answer"));
  CHECK(contains(error_at("192.0.2.1:1234", 0), "no address of this machine"));
  for (const char* bad : {"host", "host:", "host:x", "host:0", "host:70000", "::1:5", ""}) {
    CHECK(contains(error_at(bad, 1), "expected HOST:PORT"));
  }
  CommunicatorConfig config = ranks(2);
  config.rank = 2;
  CHECK(contains(message_of([&] { make_communicator(config); }), "rank 2 of 2"));
  config.rank = 0, config.timeout = 0;
  CHECK(contains(message_of([&] { make_communicator(config); }), "timeout is 0"));
}

TEST_CASE("ranks of different runs do not mix") {
  const ReservedPort port;
  const auto join = [&](int size, int rank, bool rank_of_other_run) {
    CommunicatorConfig config = ranks(size, true, 5);
    config.rank = rank, config.address = port.address();
    if (rank_of_other_run) sleep_ms(100);  // the others have joined
    return make_communicator(config), "joined";
  };
  auto texts = run_processes(3, [&](int i) { return join(i == 2 ? 4 : 3, i, i == 2); });
  CHECK(all_are(texts, "error: rendezvous: rank 2 was started for 4 ranks, rank 0 for 3"));
  texts = run_processes(3, [&](int i) { return join(3, i == 2 ? 1 : i, i == 2); });
  CHECK(all_are(texts, concat("error: rendezvous: two processes joined as rank 1; is another run "
                              "on ",
                              port.address(), "?")));
}

TEST_CASE("strangers at the door are let go") {
  const ReservedPort port;
  const auto texts = run_processes(3, [&](int i) -> std::string {
    if (i == 2) {
      const int silent = connect_as_stranger(port.address());
      const int loud = connect_as_stranger(port.address());
      const std::string junk = "GET / HTTP/1.1\r\nHost: parlo\r\nAccept: everything\r\n\r\n";
      if (::write(loud, junk.data(), junk.size()) < 0) return "cannot write";
      char buffer = 0;
      const bool gone = ::read(loud, &buffer, 1) <= 0;
      return ::close(silent), gone ? "good" : "kept";
    }
    if (i == 1) sleep_ms(50);
    CommunicatorConfig config = ranks(2);
    config.rank = i, config.address = port.address();
    make_communicator(config)->barrier();
    return "good";
  });
  CHECK(all_are(texts, "good"));
}

TEST_CASE("shared memory leaves no names behind") {
  // Of a process that is gone: removed by the next run.
  const pid_t gone = ::fork();
  if (gone == 0) ::_exit(0);
  ::waitpid(gone, nullptr, 0);
  const std::string stale = concat("parlo-", gone, "-0123456789abcdef");
  const int fd = ::shm_open(("/" + stale).c_str(), O_CREAT | O_RDWR, 0600);
  CHECK(fd >= 0);
  ::close(fd);
  const auto texts = run_ranks(ranks(2), [](Communicator& c) -> std::string {
    const std::string own = concat("parlo-", c.rank() == 0 ? ::getpid() : ::getppid(), "-");
    if (!left_segments(own).empty()) return "the name is still there";
    c.barrier();
    if (c.rank() == 1) ::raise(SIGKILL);
    return "good";
  });
  CHECK(texts[0] == "good");
  CHECK(left_segments(stale).empty());
}

TEST_CASE("messages come whole or not at all") {
  using cpu::MessageStream;
  int ends[2];
  const auto pair = [&] {
    return ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0;
  };
  // One message as bytes.
  REQUIRE(pair());
  cpu::MessageHeader header;
  header.kind = cpu::MessageKind::call, header.op = cpu::CollectiveOp::broadcast;
  header.bytes = 5, header.sequence = 9;
  const std::vector<std::byte> payload(5, std::byte{7});
  MessageStream from{cpu::Socket(ends[0])};
  const cpu::Socket raw(ends[1]);
  CHECK(from.send(header, payload, cpu::seconds_from_now(1)) == MessageStream::Sent::all);
  std::string message(100, 0);
  message.resize(static_cast<size_t>(::read(raw.fd(), message.data(), message.size())));
  CHECK(message.size() == sizeof header + payload.size());

  for (size_t bad = 0; bad <= message.size(); ++bad) {  // the last one is sound, byte by byte
    REQUIRE(pair());
    const cpu::Socket sender(ends[0]);
    MessageStream to{cpu::Socket(ends[1])};
    std::string sent = message;
    if (bad < sent.size()) sent[bad] = static_cast<char>(sent[bad] ^ 0x10);
    auto state = MessageStream::State::partial;
    for (size_t i = 0; i < sent.size() && state == MessageStream::State::partial; ++i) {
      CHECK(::write(sender.fd(), &sent[i], 1) == 1);
      state = to.receive();
    }
    INFO("byte ", bad);
    if (bad < sent.size()) {
      CHECK(state == MessageStream::State::corrupt);
    } else {
      CHECK(state == MessageStream::State::complete);
      CHECK(to.header().sequence == 9);
      CHECK(to.payload() == payload);
    }
  }
}
