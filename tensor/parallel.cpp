#include "tensor/parallel.h"

#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "tensor/error.h"

namespace parlo {
namespace {

// How long a worker polls before it parks: some hundred us, longer than the serial pieces between
// two loops of a layer. A parked one takes 50 us to wake, and often wakes on the caller's core.
constexpr int kSpins = 10000;
constexpr int kClosed = -(1 << 20);

thread_local bool inside = false;

// Numbers below 2^-126 count as zero inside a loop. A denormal operand or result costs about 150
// cycles; softmax tails and small gradients are full of them (measured: 7 to 10 times slower
// products). Set for every chunk, also on the caller, so that results do not depend on who runs it.
class FlushDenormals {
 public:
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushToZero | kAreZero); }
  ~FlushDenormals() { _mm_setcsr(before_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  static constexpr unsigned kFlushToZero = 1 << 15, kAreZero = 1 << 6;
  unsigned before_;
};

struct Job {
  detail::ChunkFn fn = nullptr;
  void* context = nullptr;
  int64_t n = 0;
  int64_t grain = 1;
  int64_t chunks = 0;
};

class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }

  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (auto& w : workers_) w.join();
  }

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // False, with nothing done, while another caller's job runs.
  bool run(const Job& job) {
    std::unique_lock one_at_a_time(run_mutex_, std::try_to_lock);
    if (!one_at_a_time) return false;
    error_ = nullptr;
    job_ = job;
    next_.store(0, std::memory_order_relaxed);
    gate_.store(0, std::memory_order_release);
    generation_.fetch_add(1, std::memory_order_seq_cst);
    if (parked_.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard lock(mutex_);
      wake_.notify_all();
    }
    take_chunks();
    gate_.fetch_add(kClosed, std::memory_order_acq_rel);
    // A worker may have lost its core to another process in the middle of a chunk: give it ours.
    for (int i = 0; gate_.load(std::memory_order_acquire) != kClosed; ++i)
      i < kSpins ? _mm_pause() : std::this_thread::yield();
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return true;
  }

 private:
  void take_chunks() {
    const FlushDenormals flush;
    inside = true;
    for (;;) {
      const int64_t chunk = next_.fetch_add(1, std::memory_order_relaxed);
      if (chunk >= job_.chunks) break;
      const int64_t begin = chunk * job_.grain;
      try {
        job_.fn(job_.context, begin, std::min(begin + job_.grain, job_.n));
      } catch (...) {
        std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
      }
    }
    inside = false;
  }

  void work() {
    uint64_t seen = 0;
    for (;;) {
      await(seen);
      seen = generation_.load(std::memory_order_acquire);
      if (stop_) return;
      if (!enter()) continue;
      take_chunks();
      gate_.fetch_sub(1, std::memory_order_release);
    }
  }

  // Joins the job unless it is over: the caller never waits for a worker that woke too late.
  bool enter() {
    int gate = gate_.load(std::memory_order_acquire);
    while (gate >= 0) {
      if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel)) return true;
    }
    return false;
  }

  void await(uint64_t seen) {
    for (int i = 0; i < kSpins; ++i) {
      if (generation_.load(std::memory_order_acquire) != seen) return;
      _mm_pause();
    }
    std::unique_lock lock(mutex_);
    parked_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, [&] { return generation_.load(std::memory_order_seq_cst) != seen; });
    parked_.fetch_sub(1, std::memory_order_relaxed);
  }

  std::vector<std::thread> workers_;
  std::mutex run_mutex_, mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> parked_{0};
  std::atomic<int> gate_{kClosed};  // open: workers inside; closed: kClosed + workers inside
  std::atomic<int64_t> next_{0};
  Job job_;
  std::exception_ptr error_;
  std::atomic<bool> stop_{false};
};

// The CPU limit of a container, rounded up; 0 when there is none.
int quota_threads() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  if (!(file >> quota >> period) || period <= 0) return 0;  // "max" is no number
  return std::max(1, static_cast<int>(std::ceil(quota / period)));
}

int default_threads() {
  if (const char* text = std::getenv("PARLO_NUM_THREADS")) {
    const int n = std::atoi(text);
    if (n >= 1) return n;
  }
  cpu_set_t set;
  int cores = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = CPU_COUNT(&set);
  const int quota = quota_threads();
  return std::max(1, quota > 0 ? std::min(cores, quota) : cores);
}

std::mutex pool_mutex;
std::unique_ptr<Pool> pool;

Pool& the_pool() {
  std::lock_guard lock(pool_mutex);
  if (!pool) pool = std::make_unique<Pool>(default_threads());
  return *pool;
}

}  // namespace

void set_num_threads(int n) {
  CHECK(n >= 1, "set_num_threads: expected at least 1, got ", n);
  CHECK(!inside, "set_num_threads: called inside a parallel region");
  std::lock_guard lock(pool_mutex);
  if (!pool || pool->size() != n) pool = std::make_unique<Pool>(n);
}

int num_threads() {
  return the_pool().size();
}

bool in_parallel_region() {
  return inside;
}

void detail::parallel_run(int64_t n, int64_t grain, ChunkFn fn, void* context) {
  if (n <= 0) return;
  grain = std::max<int64_t>(1, grain);
  const Job job{fn, context, n, grain, (n + grain - 1) / grain};
  // Serial when there is nothing to share or nobody to share it with: a second caller does not
  // wait for the pool. The chunks are the same.
  if (job.chunks > 1 && !inside && the_pool().size() > 1 && the_pool().run(job)) return;
  const FlushDenormals flush;
  for (int64_t begin = 0; begin < n; begin += grain) fn(context, begin, std::min(begin + grain, n));
}

}  // namespace parlo
