// Ranks around rank 0, the hub, over TCP. Everything they do together is a sequence of steps: each
// rank says which call it is in and hands up some bytes, the hub compares the calls, combines the
// bytes and hands the result down. A step is what finds dead, late and differing ranks.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kernels/collective.h"
#include "kernels/cpu/collective_socket.h"

namespace parlo::cpu {

// What must be the same on every rank.
struct CollectiveCall {
  CollectiveOp op = CollectiveOp::barrier;
  DType dtype = DType::u8;
  int root = 0;
  uint64_t bytes = 0;  // of one rank's tensor
};

class Star {
 public:
  // Joins the ranks; throws Error when one is missing at the end of the timeout.
  explicit Star(const CommunicatorConfig& config);

  // By rank; parts[0] is what the hub gave. Called on the hub only, when all have come.
  using Parts = std::vector<std::span<const std::byte>>;
  using Combine = std::function<void(const Parts& parts, std::span<std::byte> down)>;

  // `down` gets the same bytes on every rank, as many as all ranks ask for.
  void step(const CollectiveCall& call, std::span<const std::byte> up, std::span<std::byte> down,
            const Combine& combine);
  // The same without bytes: returns when all ranks are here.
  void step(const CollectiveCall& call);

  // Ends this and every other rank's communicator with the same Error.
  [[noreturn]] void fail(const std::string& why);
  // Throws the Error of an earlier failure, if there was one.
  void check_usable() const;

 private:
  void gather_ranks();
  void admit(MessageStream& stream);
  void watch_joined();
  void find_hub();
  bool say_hello(MessageStream& stream, SteadyClock::time_point deadline);

  void collect(const CollectiveCall& call, std::span<const std::byte> up);
  void take(int rank, const MessageHeader& own);
  void wait_for_messages(SteadyClock::time_point until, int listener = -1) const;
  // Tells the ranks that are here whom the hub waits for.
  void tell_waiting(const std::string& missing);
  std::string missing_ranks() const;
  void hand_down(const MessageHeader& own, std::span<const std::byte> down);
  void send_up(const MessageHeader& own, std::span<const std::byte> up);
  void await_answer(const MessageHeader& own, std::span<std::byte> down);
  // The end of a connection to a rank, or what it said before.
  [[noreturn]] void fail_closed(CollectiveOp op, int rank);

  CommunicatorConfig config_;
  // Of the hub by rank, the first empty; of another rank the hub alone.
  std::vector<MessageStream> peers_;
  std::vector<MessageStream> strangers_;  // connected to the hub, and have not said who they are
  std::vector<bool> here_;                // ranks that have joined, or joined this step
  std::vector<std::vector<std::byte>> payload_;  // by rank
  Parts parts_;
  uint64_t sequence_ = 0;
  std::string failure_;
};

}  // namespace parlo::cpu
