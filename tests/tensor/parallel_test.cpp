#include "tensor/parallel.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <utility>

#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

// Every index of [0, n) exactly once, in chunks of the grain.
void check_cover(int64_t n, int64_t grain) {
  std::vector<std::atomic<int>> hits(static_cast<size_t>(n));
  std::atomic<bool> good{true};
  parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    if (begin % std::max<int64_t>(1, grain) != 0 || end <= begin || end > n ||
        end - begin > std::max<int64_t>(1, grain))
      good = false;
    for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
  });
  for (const auto& h : hits) good = good && h == 1;
  CHECK(good);
}

struct Threads {
  const int before = num_threads();
  ~Threads() { set_num_threads(before); }
};

}  // namespace

TEST_CASE("every index once, for any size, grain and thread count") {
  const Threads restore;
  for (int threads : {1, 2, 3, 5}) {
    set_num_threads(threads);
    CHECK(num_threads() == threads);
    for (int64_t n : {0, 1, 2, 7, 64, 1000, 4097})
      for (int64_t grain : {-1, 0, 1, 3, 64, 5000}) check_cover(n, grain);
  }
  parallel_for(-5, 1, [](int64_t, int64_t) { FAIL("called"); });
}

TEST_CASE("results of one loop are seen by the next") {
  const Threads restore;
  set_num_threads(3);
  std::vector<int64_t> values(5000), next(5000);
  for (int round = 1; round <= 300; ++round) {
    parallel_for(5000, 100, [&](int64_t begin, int64_t end) {
      // Reads what another thread may have written in the loop before.
      for (int64_t i = begin; i < end; ++i) next[i] = values[4999 - i] + 1;
    });
    std::swap(values, next);
    if (round % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));  // park
  }
  bool good = true;
  for (int64_t v : values) good &= v == 300;
  CHECK(good);
}

TEST_CASE("nested loops run serially and finish") {
  const Threads restore;
  set_num_threads(3);
  std::atomic<int64_t> sum{0};
  CHECK(!in_parallel_region());
  parallel_for(20, 1, [&](int64_t begin, int64_t) {
    if (!in_parallel_region()) sum = -1000000;
    parallel_for(100, 7, [&](int64_t b, int64_t e) { sum += (e - b) * (begin + 1); });
  });
  CHECK(!in_parallel_region());
  CHECK(sum == 100 * 20 * 21 / 2);
}

TEST_CASE("an exception reaches the caller and the pool lives on") {
  const Threads restore;
  for (int threads : {1, 2, 3}) {
    set_num_threads(threads);
    for (int round = 0; round < 20; ++round) {
      const std::string message = message_of([&] {
        parallel_for(50, 1, [&](int64_t begin, int64_t) {
          if (begin == 13) throw Error("chunk 13");
        });
      });
      CHECK(message == "chunk 13");
      CHECK(!in_parallel_region());
      check_cover(100, 3);
    }
  }
}

TEST_CASE("callers on several threads at once") {
  const Threads restore;
  set_num_threads(2);
  std::vector<std::thread> callers;
  std::atomic<int64_t> total{0};
  for (int t = 0; t < 4; ++t)
    callers.emplace_back([&] {
      for (int round = 0; round < 50; ++round) {
        std::vector<int64_t> marks(300);
        parallel_for(300, 10, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) marks[i] = i;
        });
        for (int64_t i = 0; i < 300; ++i) total += marks[i] == i;
      }
    });
  for (auto& c : callers) c.join();
  CHECK(total == 4 * 50 * 300);
}

TEST_CASE("a caller does not wait for another caller's long loop") {
  const Threads restore;
  set_num_threads(2);
  std::atomic<bool> started{false}, stop{false};
  std::thread holder([&] {
    parallel_for(2, 1, [&](int64_t, int64_t) {
      started = true;
      while (!stop) std::this_thread::yield();
    });
  });
  while (!started) std::this_thread::yield();
  check_cover(1000, 10);  // would hang if it queued behind the holder
  stop = true;
  holder.join();
}

TEST_CASE("bad thread counts are refused") {
  CHECK(contains(message_of([] { set_num_threads(0); }), "at least 1"));
  const Threads restore;
  set_num_threads(2);
  const std::string message =
      message_of([] { parallel_for(2, 1, [](int64_t, int64_t) { set_num_threads(3); }); });
  CHECK(contains(message, "inside a parallel region"));
}
