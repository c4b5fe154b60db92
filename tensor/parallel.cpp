#include "tensor/parallel.h"

#include <immintrin.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "tensor/error.h"

namespace parlo {
namespace {

// How long a worker polls before it parks: about 50 us, the cost of waking a parked thread.
constexpr int kSpins = 2000;
constexpr int kClosed = -(1 << 20);

thread_local bool inside = false;

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

  void run(const Job& job) {
    std::lock_guard one_at_a_time(run_mutex_);
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
    while (gate_.load(std::memory_order_acquire) != kClosed) _mm_pause();
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void take_chunks() {
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

int default_threads() {
  if (const char* text = std::getenv("PARLO_NUM_THREADS")) {
    const int n = std::atoi(text);
    if (n >= 1) return n;
  }
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
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
  if (job.chunks == 1 || inside || the_pool().size() == 1) {
    for (int64_t begin = 0; begin < n; begin += grain)
      fn(context, begin, std::min(begin + grain, n));
    return;
  }
  the_pool().run(job);
}

}  // namespace parlo
