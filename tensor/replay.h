// GPU work recorded once and started again with one call (CUDA graphs), for folders without CUDA.
// A recording reads and writes the addresses it saw, so what it touches must stay where it is: the
// memory of its own tensors comes from an Arena and goes back there, for the next run.
#pragma once

#include <functional>
#include <memory>

#include "tensor/device.h"

namespace parlo {

// Off: what could be recorded runs kernel by kernel. On at the start; for the whole process.
void allow_recordings(bool on);
bool recordings_allowed();

struct ArenaBlocks;

// Blocks of GPU memory that are used again by later tensors of the same size, never by others. The
// same work asks for the same sizes in the same order, so after one run all it needs is here.
class Arena {
 public:
  explicit Arena(Device device);
  ~Arena();  // frees what no tensor holds; the rest follows when its tensors go
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  Device device() const;

 private:
  friend class ArenaScope;
  friend class Recording;
  std::shared_ptr<ArenaBlocks> blocks_;
};

// While alive, tensors that this thread makes on the arena's device live in the arena.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena);
  ~ArenaScope();
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  std::shared_ptr<ArenaBlocks> before_;
};

class Recording {
 public:
  // Records the GPU work of body() without doing it. body ran once before in an ArenaScope of the
  // arena; Error when it asks for memory that the run did not, copies to or from the host, or
  // waits for the device. No other thread may use the device meanwhile.
  Recording(Arena& arena, const std::function<void()>& body);
  ~Recording();
  Recording(Recording&&) noexcept;
  Recording& operator=(Recording&&) noexcept;
  // Does the work, in order with what else the device was given.
  void run() const;

 private:
  struct Graph;
  std::unique_ptr<Graph> graph_;
};

}  // namespace parlo
