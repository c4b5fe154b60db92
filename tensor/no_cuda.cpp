// tensor/device_memory.h and tensor/replay.h for a build without a GPU backend.
#include <cstring>

#include "tensor/device_memory.h"
#include "tensor/error.h"
#include "tensor/meta.h"
#include "tensor/replay.h"
#include "tensor/tensor.h"

namespace parlo {
namespace {

void require_cpu(Device device, const char* function) {
  CHECK(device.is_cpu(), function, ": this build has no ", to_string(device),
        " backend; use --device cpu");
}

}  // namespace

void* allocate_memory(size_t bytes, Device device) {
  if (device.is_meta()) return meta_memory::allocate(bytes);
  require_cpu(device, "Storage");
  return cpu_memory::allocate(bytes);
}

void release_memory(void* p, Device device) {
  if (device.is_meta()) return meta_memory::release(p);
  cpu_memory::release(p);
}

MemoryStats memory_stats(Device device) {
  if (device.is_meta()) return meta_memory::stats();
  require_cpu(device, "memory_stats");
  return cpu_memory::stats();
}

void copy_memory(void* to, Device to_device, const void* from, Device from_device, size_t bytes) {
  require_cpu(to_device, "Tensor::to");
  require_cpu(from_device, "Tensor::to");
  std::memcpy(to, from, bytes);
}

void copy_on_gpu(const Tensor& dst, const Tensor&) {
  require_cpu(dst.device(), "Tensor::copy_from");
}

void fill_on_gpu(const Tensor& dst, double) {
  require_cpu(dst.device(), "Tensor::fill");
}

void synchronize(Device device) {
  if (device.is_meta()) return;
  require_cpu(device, "synchronize");
}

void set_sync_debug(bool) {}

int gpu_count() {
  return 0;
}

std::string why_no_gpu() {
  return "this build has no CUDA backend (cmake --preset cuda makes one)";
}

std::string gpu_name(int index) {
  require_cpu({Device::Kind::cuda, index}, "gpu_name");
  return "";
}

// What is only made for a GPU, of which this build has none.
struct ArenaBlocks {};
struct Recording::Graph {};

Arena::Arena(Device device) {
  require_cpu(device, "Arena");
  throw Error("Arena: only for a GPU");
}
Arena::~Arena() = default;
Device Arena::device() const {
  return {};
}
ArenaScope::ArenaScope(Arena&) {}
ArenaScope::~ArenaScope() = default;
Recording::Recording(Arena&, const std::function<void()>&) {}
Recording::~Recording() = default;
Recording::Recording(Recording&&) noexcept = default;
Recording& Recording::operator=(Recording&&) noexcept = default;
void Recording::run() const {}

}  // namespace parlo
