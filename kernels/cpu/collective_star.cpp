#include "kernels/cpu/collective_star.h"

#include <poll.h>

#include <algorithm>
#include <cstring>

#include "tensor/error.h"

namespace parlo::cpu {
namespace {

using State = MessageStream::State;
using Sent = MessageStream::Sent;

std::string describe(const MessageHeader& h) {
  if (h.op == CollectiveOp::barrier || h.op == CollectiveOp::rendezvous) return name_of(h.op);
  const std::string from = h.op == CollectiveOp::broadcast ? concat(" from rank ", h.root) : "";
  return concat(name_of(h.op), from, " of ", h.bytes, " bytes ", dtype_name(h.dtype));
}

bool same_call(const MessageHeader& a, const MessageHeader& b) {
  return a.op == b.op && a.dtype == b.dtype && a.root == b.root && a.bytes == b.bytes &&
         a.sequence == b.sequence;
}

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

}  // namespace

void Star::check_usable() const {
  CHECK(failure_.empty(), failure_);
}

void Star::fail(const std::string& why) {
  if (failure_.empty()) {
    failure_ = why;
    MessageHeader header;
    header.kind = MessageKind::fault;
    const auto deadline = seconds_from_now(std::min(1.0, config_.timeout));
    for (std::vector<MessageStream>* some : {&peers_, &strangers_}) {
      for (MessageStream& peer : *some) {
        if (peer.fd() >= 0) peer.send(header, as_bytes(failure_), deadline);
      }
    }
  }
  throw Error(failure_);
}

void Star::fail_closed(CollectiveOp op, int rank) {
  MessageStream& peer = peers_[static_cast<size_t>(rank)];
  if (peer.receive() == State::complete && peer.header().kind == MessageKind::fault) {
    fail(as_text(peer.payload()));
  }
  peer = {};
  fail(concat(name_of(op), ": rank ", rank, " ended; see what it printed last"));
}

void Star::step(const CollectiveCall& call, std::span<const std::byte> up,
                std::span<std::byte> down, const Combine& combine) {
  check_usable();
  MessageHeader own;
  own.kind = MessageKind::call, own.op = call.op, own.dtype = call.dtype;
  own.root = call.root, own.bytes = call.bytes, own.sequence = sequence_++;
  if (config_.rank == 0) {
    collect(call, up);
    if (combine) combine(parts_, down);
    hand_down(own, down);
  } else {
    send_up(own, up);
    await_answer(own, down);
  }
}

void Star::step(const CollectiveCall& call) {
  step(call, {}, {}, nullptr);
}

// On the hub: returns when every rank's message of this step is in parts_.
void Star::collect(const CollectiveCall& call, std::span<const std::byte> up) {
  MessageHeader own;
  own.op = call.op, own.dtype = call.dtype, own.root = call.root, own.bytes = call.bytes;
  own.sequence = sequence_ - 1;
  here_.assign(peers_.size(), false);
  here_[0] = true;
  parts_[0] = up;
  const auto deadline = seconds_from_now(config_.timeout);
  auto word = seconds_from_now(config_.timeout / 8);
  for (;;) {
    for (int rank = 1; rank < config_.size; ++rank) take(rank, own);
    if (std::find(here_.begin(), here_.end(), false) == here_.end()) return;
    const auto now = SteadyClock::now();
    if (now >= deadline) {
      fail(concat(name_of(call.op), ": no sign of ", missing_ranks(), " within ", config_.timeout,
                  " s"));
    }
    if (now >= word) {
      tell_waiting(missing_ranks());
      word = seconds_from_now(config_.timeout / 8);
    }
    wait_for_messages(std::min(word, deadline));
  }
}

// What has come from a rank by now; who has come this far says more only to report a fault.
void Star::take(int rank, const MessageHeader& own) {
  const auto i = static_cast<size_t>(rank);
  MessageStream& peer = peers_[i];
  const State state = peer.receive();
  if (state == State::partial) return;
  if (state == State::closed) fail_closed(own.op, rank);
  if (state == State::corrupt || (peer.header().kind != MessageKind::fault && here_[i])) {
    fail(concat(name_of(own.op), ": a damaged message from rank ", rank));
  }
  if (peer.header().kind == MessageKind::fault) fail(as_text(peer.payload()));
  if (!same_call(peer.header(), own)) {
    fail(concat("collective calls differ: rank ", rank, " is in ", describe(peer.header()),
                " (step ", peer.header().sequence, "), rank 0 in ", describe(own), " (step ",
                own.sequence, ")"));
  }
  std::swap(payload_[i], peer.payload());
  parts_[i] = payload_[i];
  here_[i] = true;
  peer.next();
}

void Star::wait_for_messages(SteadyClock::time_point until, int listener) const {
  std::vector<pollfd> all;
  if (listener >= 0) all.push_back({listener, POLLIN, 0});
  for (const std::vector<MessageStream>* some : {&peers_, &strangers_}) {
    for (const MessageStream& peer : *some) {
      if (peer.fd() >= 0) all.push_back({peer.fd(), POLLIN, 0});
    }
  }
  ::poll(all.data(), all.size(), milliseconds_until(until));
}

void Star::tell_waiting(const std::string& missing) {
  MessageHeader header;
  header.kind = MessageKind::waiting;
  for (size_t i = 1; i < peers_.size(); ++i) {
    if (here_[i]) peers_[i].send(header, as_bytes(missing), seconds_from_now(0));
  }
}

std::string Star::missing_ranks() const {
  std::string list;
  int count = 0;
  for (size_t i = 1; i < here_.size(); ++i) {
    if (here_[i]) continue;
    list += concat(count++ > 0 ? ", " : "", i);
  }
  return concat(count > 1 ? "ranks " : "rank ", list);
}

void Star::hand_down(const MessageHeader& own, std::span<const std::byte> down) {
  MessageHeader go = own;
  go.kind = MessageKind::go;
  const auto deadline = seconds_from_now(config_.timeout);
  for (int rank = 1; rank < config_.size; ++rank) {
    MessageStream& peer = peers_[static_cast<size_t>(rank)];
    const Sent sent = peer.send(go, down, deadline);
    if (sent == Sent::closed) fail_closed(own.op, rank);
    if (sent == Sent::late) {
      peer = {};
      fail(concat(name_of(own.op), ": rank ", rank, " took no data for ", config_.timeout, " s"));
    }
  }
}

void Star::send_up(const MessageHeader& own, std::span<const std::byte> up) {
  const Sent sent = peers_[0].send(own, up, seconds_from_now(config_.timeout));
  if (sent == Sent::closed) fail_closed(own.op, 0);
  if (sent == Sent::late) {
    peers_[0] = {};
    fail(concat(name_of(own.op), ": rank 0 took no data for ", config_.timeout, " s"));
  }
}

void Star::await_answer(const MessageHeader& own, std::span<std::byte> down) {
  MessageStream& hub = peers_[0];
  std::string missing = "rank 0";
  const auto deadline = seconds_from_now(config_.timeout);
  for (;; hub.next()) {
    const State state = hub.receive(deadline);
    if (state == State::partial) {
      fail(concat(name_of(own.op), ": no sign of ", missing, " within ", config_.timeout, " s"));
    }
    if (state == State::closed) fail_closed(own.op, 0);
    const MessageHeader& header = hub.header();
    if (state == State::complete && header.kind == MessageKind::fault) {
      failure_ = as_text(hub.payload());  // the others know
      throw Error(failure_);
    }
    if (state == State::complete && header.kind == MessageKind::waiting) {
      missing = as_text(hub.payload());
      continue;
    }
    const bool fits = state == State::complete && header.kind == MessageKind::go &&
                      same_call(header, own) && hub.payload().size() == down.size();
    if (!fits) fail(concat(name_of(own.op), ": a damaged message from rank 0"));
    if (!down.empty()) std::memcpy(down.data(), hub.payload().data(), down.size());
    hub.next();
    return;
  }
}

}  // namespace parlo::cpu
