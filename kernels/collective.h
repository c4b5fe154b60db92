// Ranks of one run work on tensors together. Rank 0 listens on a TCP address and the others join
// it. A peer that dies or stalls, and calls that differ between ranks, end every rank with one
// Error that names the operation and the rank; a communicator that failed once repeats that Error.
//
// Sums on the CPU are taken in the order of the ranks 0, 1, ... n-1, element by element, whatever
// arrives first and whatever carries the bytes: all ranks get the same bits, in every run.
#pragma once

#include <memory>
#include <string>

#include "tensor/tensor.h"

namespace parlo {

struct CommunicatorConfig {
  int rank = 0;
  int size = 1;
  // HOST:PORT or [IPv6]:PORT where rank 0 listens; no HOST is the loopback. Not used when size
  // is 1. Rank 0 alone may name 0.0.0.0 or [::] to listen on every interface. There is no
  // encryption and no password: for networks whose machines trust each other.
  std::string address = "127.0.0.1:29400";
  // Seconds that a rank waits for the others in one step of an operation: one piece of at most
  // a few MiB, so that long transfers are not cut off.
  double timeout = 300;
  // Payloads go through shared memory when all ranks can open one segment; messages stay on TCP.
  bool shared_memory = true;
  // Device of the tensors. On a GPU the bytes go by NCCL, tensors on the CPU as on a CPU.
  Device device;
  // GPU tensors by way of the host instead of NCCL: slower, with the CPU's order of sums and bits.
  bool through_host = false;

  // PARLO_RANK, PARLO_WORLD_SIZE, PARLO_ADDRESS, or what torchrun sets: RANK, WORLD_SIZE,
  // MASTER_ADDR, MASTER_PORT. PARLO_ADDRESS goes before MASTER_*, whose port torchrun may hold
  // itself. None of them: one rank. Throws UsageError for sets that are incomplete or contradict.
  static CommunicatorConfig from_environment();
};

// For one thread at a time; every rank calls the same operations in the same order. All tensors are
// contiguous, not read-only where written, and on the device of the configuration or the CPU.
// Every operation throws Error as described above, also for a bad argument on one rank.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  // t = sum of t over all ranks, any shape, f32, f64, bf16 (summed in f32, rounded once) or i64
  // (wraps around). NCCL orders a GPU's sums its own way: the same bits on every rank, and from run
  // to run on the same machines, but not the order of the ranks.
  virtual void all_reduce_sum(const Tensor& t) = 0;
  // t of rank `root` on every rank; any shape and dtype.
  virtual void broadcast(const Tensor& t, int root) = 0;
  // all [size, shape of mine]: `mine` of every rank, any dtype.
  virtual void all_gather(const Tensor& mine, const Tensor& all) = 0;
  // Returns when every rank has called it.
  virtual void barrier() = 0;
  // For a rank that cannot go on: this call here, and the next or present operation of every other
  // rank, throw Error with this reason.
  [[noreturn]] virtual void fail(const std::string& why) = 0;

 protected:
  Communicator(int rank, int size) : rank_(rank), size_(size) {}

 private:
  int rank_, size_;
};

// Returns when all ranks have joined. Throws Error when they do not within the timeout, when rank 0
// cannot listen or be reached, or when their sizes differ; UsageError for a bad configuration.
std::unique_ptr<Communicator> make_communicator(const CommunicatorConfig& config);

namespace cpu {
std::unique_ptr<Communicator> make_communicator(const CommunicatorConfig& config);
}
namespace cuda {
decltype(cpu::make_communicator) make_communicator;
}

}  // namespace parlo
