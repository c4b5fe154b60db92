// All-reduce between two processes of this machine: the LoRA gradients of SD3.5-Medium at rank 32
// (75 MB in f32), through shared memory and over TCP.
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "bench/measure.h"
#include "kernels/collective.h"

namespace parlo::bench {
namespace {

constexpr int64_t kElements = 18750000;

std::string free_address() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in at{};
  at.sin_family = AF_INET, at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof at;
  const bool good = ::bind(fd, reinterpret_cast<sockaddr*>(&at), size) == 0 &&
                    ::getsockname(fd, reinterpret_cast<sockaddr*>(&at), &size) == 0;
  ::close(fd);
  CHECK(good, "bench: no free port");
  return concat("127.0.0.1:", ntohs(at.sin_port));
}

// Without the thread pool, which a fork does not have.
Tensor zeros() {
  const Tensor t = Tensor::empty({kElements});
  std::memset(t.raw(), 0, t.nbytes());
  return t;
}

// The other rank.
[[noreturn]] void run_peer(CommunicatorConfig config, int64_t turns) {
  try {
    config.rank = 1;
    const auto communicator = make_communicator(config);
    const Tensor t = zeros();
    for (int64_t i = 0; i < turns; ++i) communicator->all_reduce_sum(t);
    ::_exit(0);
  } catch (const std::exception&) {
    ::_exit(1);
  }
}

// GB/s: bytes of one rank's tensor a second. copy: memcpy of them, half of what it reads and
// writes; every rank copies them in, sums its share and copies them out.
void run_all_reduce(benchmark::State& state, bool shared_memory) {
  CommunicatorConfig config;
  config.size = 2, config.shared_memory = shared_memory, config.address = free_address();
  config.timeout = 60;
  const pid_t peer = ::fork();
  CHECK(peer >= 0, "bench: fork failed");
  if (peer == 0) run_peer(config, state.max_iterations);
  Best own, copy;
  const Tensor t = zeros(), other = zeros();
  {
    const auto communicator = make_communicator(config);
    for (auto turn : state) {
      static_cast<void>(turn);
      const double time = seconds([&] { communicator->all_reduce_sum(t); });
      own.time = std::min(own.time, time);
      state.SetIterationTime(time);
    }
  }
  ::waitpid(peer, nullptr, 0);
  for (int i = 0; i < 5; ++i) copy.run([&] { std::memcpy(other.raw(), t.raw(), t.nbytes()); });
  set_rate(state, "GB/s", static_cast<double>(t.nbytes()), own);
  set_rate(state, "copy", static_cast<double>(t.nbytes()), copy);
}

void set_turns(benchmark::internal::Benchmark* b) {
  b->Iterations(kTurns)->UseManualTime()->Unit(benchmark::kMillisecond);
}

BENCHMARK_CAPTURE(run_all_reduce, 75MB_f32_2_ranks_shared_memory, true)->Apply(set_turns);
BENCHMARK_CAPTURE(run_all_reduce, 75MB_f32_2_ranks_tcp, false)->Apply(set_turns);

}  // namespace
}  // namespace parlo::bench
