// Memory of a GPU: the driver's stream-ordered pool, with counters of what is in tensors.
#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

#include "tensor/cuda/arena.h"
#include "tensor/cuda/runtime.h"
#include "tensor/device_memory.h"
#include "tensor/meta.h"
#include "tensor/tensor.h"

namespace parlo {
namespace {

struct Block {
  size_t bytes = 0;
  std::shared_ptr<ArenaBlocks> arena;  // where it goes when its tensor does; null: to the pool
};

struct Ledger {
  std::mutex mutex;
  std::map<void*, Block> live;
  MemoryStats stats;
};

Ledger& ledger(Device device) {
  static std::mutex mutex;
  static auto* const ledgers = new std::map<int, Ledger>;
  const std::lock_guard lock(mutex);
  return (*ledgers)[device.index];
}

int64_t reserved_bytes(Device device) {
  cudaMemPool_t pool = nullptr;
  CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool, device.index));
  uint64_t bytes = 0;
  CUDA_CHECK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &bytes));
  return static_cast<int64_t>(bytes);
}

std::string megabytes(size_t bytes) {
  return concat((bytes + 500000) / 1000000, " MB");
}

// The blocks that hold most: "24 x 50 MB, 3 x 12 MB". Under the ledger's lock.
std::string largest_blocks(const Ledger& book) {
  std::map<size_t, size_t> count;
  for (const auto& [p, block] : book.live) ++count[block.bytes];
  std::vector<std::pair<size_t, size_t>> sizes(count.begin(), count.end());
  std::sort(sizes.begin(), sizes.end(),
            [](const auto& a, const auto& b) { return a.first * a.second > b.first * b.second; });
  if (sizes.size() > 5) sizes.resize(5);
  std::string text;
  for (const auto& [bytes, n] : sizes) {
    text += concat(text.empty() ? "" : ", ", n, " x ", megabytes(bytes));
  }
  return text.empty() ? "nothing" : text;
}

[[noreturn]] void out_of_memory(size_t bytes, Device device, const Ledger& book) {
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  throw Error(concat(
      "CUDA: out of memory on ", to_string(device), ": asked for ", megabytes(bytes), ", ",
      megabytes(static_cast<size_t>(book.stats.current_bytes)), " are in tensors (peak ",
      megabytes(static_cast<size_t>(book.stats.peak_bytes)), "), the driver has ", megabytes(free),
      " of ", megabytes(total), " free; largest live blocks: ", largest_blocks(book),
      "; use a smaller batch, checkpointing or another device"));
}

}  // namespace

namespace cuda {

std::shared_ptr<ArenaBlocks>& current_arena() {
  thread_local std::shared_ptr<ArenaBlocks> current;
  return current;
}

void drain(ArenaBlocks& blocks) {
  std::vector<void*> gone;
  {
    const std::lock_guard lock(ledger(blocks.device).mutex);
    gone.swap(blocks.late);
    if (blocks.closed) {
      for (auto& [bytes, free] : blocks.free) gone.insert(gone.end(), free.begin(), free.end());
      blocks.free.clear();
    }
  }
  for (void* p : gone) cudaFreeAsync(p, stream_of(blocks.device));
}

}  // namespace cuda

namespace {

// A free block of exactly this size; null: none yet. Under the ledger's lock.
void* take_block(ArenaBlocks* arena, size_t size) {
  if (arena == nullptr) return nullptr;
  std::vector<void*>& free = arena->free[size];
  CHECK(!free.empty() || !arena->recording, "CUDA: recorded work asks for ", size,
        " bytes that its first run did not");
  if (free.empty()) return nullptr;
  void* p = free.back();
  free.pop_back();
  return p;
}

}  // namespace

void* allocate_memory(size_t bytes, Device device) {
  if (device.is_cpu()) return cpu_memory::allocate(bytes);
  if (device.is_meta()) return meta_memory::allocate(bytes);
  const cudaStream_t stream = cuda::stream_of(device);
  const size_t size = std::max<size_t>(bytes, 1);
  std::shared_ptr<ArenaBlocks> arena = cuda::current_arena();
  if (arena && !(arena->device == device)) arena = nullptr;
  Ledger& book = ledger(device);
  const std::lock_guard lock(book.mutex);
  void* p = take_block(arena.get(), size);
  const cudaError_t error = p != nullptr ? cudaSuccess : cudaMallocAsync(&p, size, stream);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    out_of_memory(bytes, device, book);
  }
  CUDA_CHECK(error);
  book.live.emplace(p, Block{size, std::move(arena)});
  MemoryStats& s = book.stats;
  ++s.allocations;
  s.current_bytes += static_cast<int64_t>(size);
  s.peak_bytes = std::max(s.peak_bytes, s.current_bytes);
  return p;
}

void release_memory(void* p, Device device) {
  if (device.is_cpu()) return cpu_memory::release(p);
  if (device.is_meta()) return meta_memory::release(p);
  Ledger& book = ledger(device);
  {
    const std::lock_guard lock(book.mutex);
    const auto found = book.live.find(p);
    if (found == book.live.end()) return;
    const Block block = std::move(found->second);
    book.stats.current_bytes -= static_cast<int64_t>(block.bytes);
    book.live.erase(found);
    if (block.arena && !block.arena->closed) {
      block.arena->free[block.bytes].push_back(p);
      return;
    }
    // A recording would take the release of memory that is not its own for a part of the work.
    ArenaBlocks* current = cuda::current_arena().get();
    if (current != nullptr && current->recording && current->device == device) {
      current->late.push_back(p);
      return;
    }
  }
  // Called by destructors: an error of earlier work is for the next checked call to report.
  cudaFreeAsync(p, cuda::stream_of(device));
}

MemoryStats memory_stats(Device device) {
  if (device.is_cpu()) return cpu_memory::stats();
  if (device.is_meta()) return meta_memory::stats();
  MemoryStats stats;
  {
    Ledger& book = ledger(device);
    const std::lock_guard lock(book.mutex);
    stats = book.stats;
  }
  stats.cached_bytes = std::max<int64_t>(0, reserved_bytes(device) - stats.current_bytes);
  return stats;
}

void copy_memory(void* to, Device to_device, const void* from, Device from_device, size_t bytes) {
  if (bytes == 0) return;
  const Device gpu = to_device.is_cpu() ? from_device : to_device;
  const cudaStream_t stream = cuda::stream_of(gpu);
  if (!to_device.is_cpu() && !from_device.is_cpu() && to_device.index != from_device.index) {
    synchronize(from_device);
    cuda::stream_of(gpu);
  }
  CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream));
  // Within one device the stream keeps the order.
  if (!(to_device == from_device)) CUDA_CHECK(cudaStreamSynchronize(stream));
}

namespace cuda {

int64_t pool_slack_bytes(Device device) {
  return memory_stats(device).cached_bytes;
}

void reset_peak(Device device) {
  Ledger& book = ledger(device);
  const std::lock_guard lock(book.mutex);
  book.stats.peak_bytes = book.stats.current_bytes;
}

}  // namespace cuda
}  // namespace parlo
