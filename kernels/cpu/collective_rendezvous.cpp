// How the ranks of collective_star.h find each other.
#include <algorithm>
#include <thread>

#include "kernels/cpu/collective_star.h"
#include "tensor/error.h"

namespace parlo::cpu {
namespace {

using State = MessageStream::State;

}  // namespace

Star::Star(const CommunicatorConfig& config) : config_(config) {
  const auto size = static_cast<size_t>(config.size);
  peers_.resize(config.rank == 0 ? size : 1);
  payload_.resize(size);
  parts_.resize(size);
  if (config.size == 1) return;
  config.rank == 0 ? gather_ranks() : find_hub();
}

void Star::gather_ranks() {
  const Socket listener = listen_on(config_.address);
  here_.assign(peers_.size(), false);
  here_[0] = true;
  const auto deadline = seconds_from_now(config_.timeout);
  auto word = seconds_from_now(config_.timeout / 8);
  for (;;) {
    while (Socket socket = accept_from(listener)) strangers_.emplace_back(std::move(socket));
    for (MessageStream& stranger : strangers_) admit(stranger);
    std::erase_if(strangers_, [](const MessageStream& s) { return s.fd() < 0; });
    watch_joined();
    if (std::find(here_.begin(), here_.end(), false) == here_.end()) return strangers_.clear();
    const auto now = SteadyClock::now();
    if (now >= deadline) {
      fail(concat("rendezvous: ", missing_ranks(), " did not join at ", config_.address, " within ",
                  config_.timeout, " s"));
    }
    if (now >= word) {
      tell_waiting(missing_ranks());
      word = seconds_from_now(config_.timeout / 8);
    }
    wait_for_messages(std::min(word, deadline), listener.fd());
  }
}

// A stranger that says hello becomes a rank; one that says anything else is not of this run (a
// browser, a scanner of ports) and is let go.
void Star::admit(MessageStream& stream) {
  const State state = stream.receive();
  if (state == State::partial) return;
  const MessageHeader hello = stream.header();
  if (state != State::complete || hello.kind != MessageKind::hello) {
    stream = {};
    return;
  }
  std::string fault;
  if (hello.sequence != static_cast<uint64_t>(config_.size)) {
    fault = concat("rendezvous: rank ", hello.root, " was started for ", hello.sequence,
                   " ranks, rank 0 for ", config_.size);
  } else if (hello.root < 1 || hello.root >= config_.size) {
    fault = concat("rendezvous: a rank ", hello.root, " of ", config_.size, " joined");
  } else if (here_[static_cast<size_t>(hello.root)]) {
    fault = concat("rendezvous: two processes joined as rank ", hello.root, "; is another run on ",
                   config_.address, "?");
  }
  stream.next();
  if (!fault.empty()) fail(fault);
  MessageHeader go;
  go.kind = MessageKind::go;
  stream.send(go, {}, seconds_from_now(config_.timeout));
  peers_[static_cast<size_t>(hello.root)] = std::move(stream);
  here_[static_cast<size_t>(hello.root)] = true;
  stream = {};
}

// Who has joined may die before the last one joins. A message that has come early stays.
void Star::watch_joined() {
  for (size_t i = 1; i < peers_.size(); ++i) {
    if (peers_[i].fd() < 0) continue;
    const State state = peers_[i].receive();
    const auto rank = static_cast<int>(i);
    if (state == State::closed) fail_closed(CollectiveOp::rendezvous, rank);
    if (state == State::complete && peers_[i].header().kind == MessageKind::fault) {
      fail(as_text(peers_[i].payload()));
    }
  }
}

void Star::find_hub() {
  const auto deadline = seconds_from_now(config_.timeout);
  std::string why;
  for (double pause = 0.01;; pause = std::min(2 * pause, 0.5)) {
    if (Socket socket = connect_to(config_.address, deadline, why)) {
      MessageStream stream(std::move(socket));
      if (say_hello(stream, deadline)) {
        peers_[0] = std::move(stream);
        return;
      }
      why = "what listens there did not answer";
    }
    if (SteadyClock::now() >= deadline) break;
    std::this_thread::sleep_for(std::min<SteadyClock::duration>(
        std::chrono::duration_cast<SteadyClock::duration>(std::chrono::duration<double>(pause)),
        deadline - SteadyClock::now()));
  }
  throw Error(concat("rendezvous: rank ", config_.rank, " found no rank 0 at ", config_.address,
                     " within ", config_.timeout, " s: ", why));
}

// True when rank 0 took this rank; false to try again: a run that ends takes connections with it.
bool Star::say_hello(MessageStream& stream, SteadyClock::time_point deadline) {
  MessageHeader hello;
  hello.kind = MessageKind::hello;
  hello.root = config_.rank;
  hello.sequence = static_cast<uint64_t>(config_.size);
  if (stream.send(hello, {}, deadline) != MessageStream::Sent::all) return false;
  const State state = stream.receive(deadline);
  if (state == State::complete && stream.header().kind == MessageKind::fault) {
    failure_ = as_text(stream.payload());
    throw Error(failure_);
  }
  CHECK(state != State::corrupt, "rendezvous: what listens at ", config_.address,
        " is not rank 0 of this version of parlo; choose another port");
  const bool taken = state == State::complete && stream.header().kind == MessageKind::go;
  stream.next();
  return taken;
}

}  // namespace parlo::cpu
