#include "tensor/replay.h"

#include <utility>

#include "tensor/cuda/arena.h"
#include "tensor/cuda/runtime.h"

namespace parlo {

Arena::Arena(Device device) : blocks_(std::make_shared<ArenaBlocks>()) {
  CHECK(device.is_cuda(), "Arena: only for a GPU");
  blocks_->device = device;
}

Arena::~Arena() {
  blocks_->closed = true;
  cuda::drain(*blocks_);
}

Device Arena::device() const {
  return blocks_->device;
}

ArenaScope::ArenaScope(Arena& arena)
    : before_(std::exchange(cuda::current_arena(), arena.blocks_)) {}

ArenaScope::~ArenaScope() {
  cuda::current_arena() = std::move(before_);
}

struct Recording::Graph {
  cuda::Graph graph;
};

Recording::Recording(Arena& arena, const std::function<void()>& body) {
  ArenaBlocks& blocks = *arena.blocks_;
  const ArenaScope scope(arena);
  struct Flag {
    ArenaBlocks& blocks;
    explicit Flag(ArenaBlocks& b) : blocks(b) { blocks.recording = true; }
    ~Flag() {
      blocks.recording = false;
      cuda::drain(blocks);
    }
  };
  const Flag flag(blocks);
  try {
    graph_ = std::make_unique<Graph>(Graph{cuda::Graph::capture(blocks.device, body)});
  } catch (const Error& e) {
    throw Error(concat(e.what(), " while a pass was recorded; --no-graphs does without"));
  }
}

Recording::~Recording() = default;
Recording::Recording(Recording&&) noexcept = default;
Recording& Recording::operator=(Recording&&) noexcept = default;

void Recording::run() const {
  graph_->graph.launch();
}

}  // namespace parlo
