#include "autograd/replayed.h"

#include <algorithm>
#include <optional>

namespace parlo {
namespace {

// Every recording keeps its inputs, its result and, through the arena, its inner values.
constexpr size_t kMostSlots = 8;

}  // namespace

uint64_t Replayed::address(const Tensor& t) {
  return t.defined() ? reinterpret_cast<uint64_t>(t.raw()) : 0;
}

struct Replayed::Slot {
  std::vector<Tensor> inputs;  // addresses the recordings read
  // Outside the arena: what is kept between runs must not take a block that others count on.
  Tensor value, dy;
  std::optional<Recording> forward, backward;
  Var first;  // the run before the recording, between forward and backward
  int64_t used = 0;
  bool ran = false;

  void load(const std::vector<Tensor>& from) {
    for (size_t i = 0; i < from.size(); ++i) inputs[i].copy_from(from[i]);
  }
};

Replayed::Replayed() = default;
Replayed::~Replayed() = default;

bool Replayed::records(const std::vector<Tensor>& inputs) const {
  return enabled && recordings_allowed() && !inputs.empty() && inputs[0].device().is_cuda();
}

Replayed::Slot& Replayed::slot_for(Key key, const std::vector<Tensor>& inputs) {
  const Device device = inputs[0].device();
  if (!arena_ || !(arena_->device() == device)) {
    slots_.clear();
    arena_ = std::make_unique<Arena>(device);
  }
  for (const Tensor& t : inputs) {
    CHECK(t.device() == device, "Replayed: inputs on ", to_string(device), " and ",
          to_string(t.device()));
    key.push_back(static_cast<uint64_t>(t.dtype()));
    for (int i = 0; i < t.rank(); ++i) key.push_back(static_cast<uint64_t>(t.dim(i)));
  }
  auto found = slots_.find(key);
  if (found == slots_.end()) {
    if (slots_.size() >= kMostSlots) {
      slots_.erase(std::min_element(slots_.begin(), slots_.end(), [](const auto& a, const auto& b) {
        return a.second->used < b.second->used;
      }));
    }
    found = slots_.emplace(std::move(key), std::make_unique<Slot>()).first;
  }
  found->second->used = ++clock_;
  return *found->second;
}

Tensor Replayed::value(const Fn& fn, const Key& key, const std::vector<Tensor>& inputs) {
  const NoGrad guard;
  if (!records(inputs)) return fn(inputs).value();
  CHECK(open_ == nullptr, "Replayed::value: between a forward and its backward");
  Slot& slot = slot_for(key, inputs);
  if (!slot.ran) {
    slot.ran = true;
    Tensor made;
    {
      const ArenaScope scope(*arena_);
      made = fn(inputs).value();
    }
    slot.value = made.clone();
    return slot.value.clone();
  }
  if (!slot.forward) {
    for (const Tensor& t : inputs) slot.inputs.push_back(t.clone());
    slot.forward.emplace(*arena_, [&] { slot.value.copy_from(fn(slot.inputs).value()); });
    ++recorded_;
  }
  slot.load(inputs);
  slot.forward->run();
  ++replays_;
  return slot.value.clone();
}

// Gradients that were dropped come back, as zeros, in the memory that the recordings know.
void Replayed::attach_gradients(const std::vector<NamedVar>& leaves) {
  for (const auto& [name, leaf] : leaves) {
    if (leaf.grad().defined()) continue;
    Tensor& memory = gradients_[leaf.state().get()];
    if (memory.defined() && memory.shape() == leaf.shape()) {
      memory.fill(0);
    } else {
      memory = Tensor::zeros(leaf.shape(), leaf.dtype(), leaf.value().device());
    }
    leaf.state()->grad = memory;
  }
}

Tensor Replayed::forward(const Fn& fn, const Key& key, const std::vector<Tensor>& inputs,
                         const std::vector<NamedVar>& leaves) {
  open_ = nullptr;
  if (!records(inputs)) {
    direct_ = fn(inputs);
    return direct_.value();
  }
  attach_gradients(leaves);
  Key mine = key;
  for (const NamedVar& leaf : leaves) mine.push_back(address(leaf.var.grad()));
  Slot& slot = *(open_ = &slot_for(std::move(mine), inputs));
  if (!slot.ran) {
    {
      const ArenaScope scope(*arena_);
      slot.first = fn(inputs);
    }
    slot.value = slot.first.value().clone();
    return slot.value.clone();
  }
  if (!slot.forward) {
    for (const Tensor& t : inputs) slot.inputs.push_back(t.clone());
    Var v;
    slot.forward.emplace(*arena_, [&] {
      v = fn(slot.inputs);
      slot.value.copy_from(v.value());
    });
    slot.dy = Tensor::empty_like(slot.value);
    slot.backward.emplace(*arena_, [&] { parlo::backward(v, slot.dy); });
    ++recorded_;
  }
  slot.load(inputs);
  slot.forward->run();
  ++replays_;
  return slot.value.clone();
}

void Replayed::backward(const Tensor& dy) {
  if (open_ == nullptr) {
    CHECK(direct_, "Replayed::backward: no forward before it");
    parlo::backward(direct_, dy);
    direct_ = {};
    return;
  }
  Slot& slot = *open_;
  open_ = nullptr;
  if (slot.forward) {
    slot.dy.copy_from(dy);
    slot.backward->run();
    return;
  }
  const ArenaScope scope(*arena_);
  parlo::backward(slot.first, dy);
  slot.first = {};
  slot.ran = true;
}

}  // namespace parlo
