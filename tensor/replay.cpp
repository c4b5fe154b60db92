#include "tensor/replay.h"

#include <atomic>

namespace parlo {
namespace {

std::atomic<bool> allowed{true};

}  // namespace

void allow_recordings(bool on) {
  allowed = on;
}

bool recordings_allowed() {
  return allowed;
}

}  // namespace parlo
