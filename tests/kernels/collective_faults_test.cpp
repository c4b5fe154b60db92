// Collective operations when something is wrong: every rank ends in time, with the same Error.
#include "kernels/collective.h"
#include "tests/kernels/collective_support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

const bool kOneThread = (set_num_threads(1), true);

using Body = std::function<std::string(Communicator&)>;

// Every rank that lives must end with one and the same message, in less than a second.
std::string fault_of(const CommunicatorConfig& config, const Body& body, int dead = -1) {
  const auto begin = std::chrono::steady_clock::now();
  const std::vector<std::string> texts = run_ranks(config, body);
  CHECK(seconds_since(begin) < 5);
  const std::string& expected = texts[dead == 0 ? 1 : 0];
  for (int rank = 0; rank < config.size; ++rank) {
    INFO("rank ", rank);
    const std::string& text = texts[static_cast<size_t>(rank)];
    if (rank == dead) {
      CHECK(text.empty());
    } else {
      CHECK(text == expected);
    }
  }
  CHECK(expected.starts_with("error: "));
  return expected;
}

Tensor some(int64_t n = 12, DType dtype = DType::f32) {
  return Tensor::zeros({n}, dtype);
}

// The others end between the timeout and the moment when the late one is there again.
void check_stall(int late) {
  const auto texts = run_ranks(ranks(3, true, 0.3), [late](Communicator& c) -> std::string {
    c.barrier();
    const auto begin = std::chrono::steady_clock::now();
    if (c.rank() == late) return sleep_ms(600), "late";
    const std::string message = message_of([&] { c.barrier(); });
    const double seconds = seconds_since(begin);
    return seconds > 0.25 && seconds < 0.55 ? message : concat(message, " after ", seconds);
  });
  for (int rank = 0; rank < 3; ++rank) {
    if (rank == late) continue;
    CHECK(texts[rank] == concat("barrier: no sign of rank ", late, " within 0.3 s"));
  }
}

}  // namespace

TEST_CASE("calls that differ end every rank") {
  const std::vector<std::pair<Body, std::string>> cases = {
      {[](Communicator& c) { return c.rank() == 1 ? c.barrier() : c.all_reduce_sum(some()), ""; },
       "rank 1 is in barrier (step 2), rank 0 in all_reduce_sum of 48 bytes f32 (step 2)"},
      {[](Communicator& c) { return c.all_reduce_sum(some(c.rank() == 2 ? 13 : 12)), ""; },
       "rank 2 is in all_reduce_sum of 52 bytes f32"},
      {[](Communicator& c) {
         return c.all_reduce_sum(c.rank() ? some(12) : some(6, DType::f64)), "";
       },
       "rank 0 in all_reduce_sum of 48 bytes f64"},
      {[](Communicator& c) { return c.broadcast(some(), c.rank() == 2 ? 1 : 0), ""; },
       "rank 2 is in broadcast from rank 1 of 48 bytes f32"},
      {[](Communicator& c) {
         return c.all_gather(some(c.rank() % 2), Tensor::zeros({3, c.rank() % 2})), "";
       },
       "rank 1 is in all_gather of 4 bytes f32"},
      {[](Communicator& c) {
         return c.rank() == 1 ? c.all_reduce_sum(some()) : c.broadcast(some(), 0), "";
       },
       "rank 1 is in all_reduce_sum of 48 bytes f32 (step 2), rank 0 in broadcast from rank 0"},
      // Larger than a piece on one rank, and several pieces that go up and are never answered.
      {[](Communicator& c) { return c.all_reduce_sum(some(c.rank() ? 900000 : 500000)), ""; },
       "of 3600000 bytes f32"}};
  for (const bool shared : {false, true}) {
    for (const auto& [body, part] : cases) {
      const std::string message = fault_of(ranks(3, shared), body);
      INFO(message);
      CHECK(contains(message, part));
    }
  }
}

TEST_CASE("a bad argument on one rank ends every rank") {
  const std::string message = fault_of(ranks(3), [](Communicator& c) {
    const Tensor t = Tensor::zeros({4, 4});
    c.all_reduce_sum(c.rank() == 1 ? t.transpose(0, 1) : t);
    return "";
  });
  CHECK(contains(message, "all_reduce_sum: t of shape (4, 4) is not contiguous"));
  const auto c = make_communicator({});
  CHECK(contains(message_of([&] { c->all_reduce_sum(some(2, DType::u8)); }), "dtype u8, expected"));
}

TEST_CASE("arguments are checked") {
  const auto check = [](const std::function<void(Communicator&)>& call, const std::string& part) {
    const auto c = make_communicator({});
    const std::string message = message_of([&] { call(*c); });
    INFO(message);
    CHECK(contains(message, part));
    // A communicator that failed stays so.
    CHECK(message_of([&] { c->barrier(); }) == message);
  };
  check([](Communicator& c) { c.broadcast(some(), 1); }, "broadcast: root is 1, expected 0 to 0");
  check([](Communicator& c) { c.all_reduce_sum(Tensor()); }, "t is missing");
  check([](Communicator& c) { c.all_gather(some(3), some(3)); },
        "all has shape (3), expected [1, shape of mine] with mine (3)");
  check(
      [](Communicator& c) {
        c.all_gather(some(3), Tensor::zeros({1, 3}, DType::f64));
      },
      "all has dtype f64, expected f32");
}

TEST_CASE("a killed rank ends the others at once") {
  for (const int dead : {0, 2}) {
    for (const bool shared : {false, true}) {
      INFO("rank ", dead, ", shared memory ", shared);
      const Body body = [dead](Communicator& c) -> std::string {
        Tensor t = some(3000000);
        c.all_reduce_sum(t);
        if (c.rank() == dead) ::raise(SIGKILL);
        c.all_reduce_sum(t);
        return "not noticed";
      };
      CHECK(contains(fault_of(ranks(3, shared), body, dead),
                     concat("all_reduce_sum: rank ", dead, " ended")));
    }
  }
}

TEST_CASE("a rank killed in the middle of a transfer") {
  const auto texts = run_ranks(ranks(2, false), [](Communicator& c) -> std::string {
    if (c.rank() == 1 && ::fork() == 0) {  // its helper kills it after some pieces
      const pid_t parent = ::getppid();
      sleep_ms(30);
      ::kill(parent, SIGKILL);
      ::_exit(0);
    }
    Tensor t = some(250000);
    for (;;) c.all_reduce_sum(t);
  });
  CHECK(texts[1].empty());
  CHECK(contains(texts[0], "all_reduce_sum: rank 1 ended"));
}

TEST_CASE("a rank that stalls ends the others at the timeout") {
  check_stall(2);
}

TEST_CASE("rank 0 that stalls ends the others at the timeout") {
  check_stall(0);
}
