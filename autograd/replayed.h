// A pure function of tensors whose GPU work is recorded once a shape and then started with one call
// (a CUDA graph): a model's forward is hundreds of launches, which take longer than the work of a
// small batch. On the CPU, and where recording is off, the function simply runs.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "autograd/optim.h"
#include "tensor/replay.h"

namespace parlo {

class Replayed {
 public:
  // The same work for the same key and shapes; reads, besides the inputs, only tensors whose
  // addresses are part of the key. Host values are frozen into the recording.
  using Fn = std::function<Var(const std::vector<Tensor>& inputs)>;
  // What tells recordings apart: numbers and addresses.
  using Key = std::vector<uint64_t>;
  static uint64_t address(const Tensor& t);

  Replayed();
  ~Replayed();
  Replayed(const Replayed&) = delete;
  Replayed& operator=(const Replayed&) = delete;

  // fn's value, without gradients.
  Tensor value(const Fn& fn, const Key& key, const std::vector<Tensor>& inputs);
  // fn's value, kept for one backward(dy), which adds to the gradients of the leaves. No other
  // call in between: recordings share the memory of their inner values.
  Tensor forward(const Fn& fn, const Key& key, const std::vector<Tensor>& inputs,
                 const std::vector<NamedVar>& leaves);
  void backward(const Tensor& dy);

  // Off: every call runs the function. Several threads on one GPU must not record.
  bool enabled = true;
  int64_t recorded() const { return recorded_; }  // functions recorded so far
  int64_t replays() const { return replays_; }    // calls that were replays

 private:
  struct Slot;
  bool records(const std::vector<Tensor>& inputs) const;
  Slot& slot_for(Key key, const std::vector<Tensor>& inputs);
  void attach_gradients(const std::vector<NamedVar>& leaves);

  std::unique_ptr<Arena> arena_;
  std::map<Key, std::unique_ptr<Slot>> slots_;
  Slot* open_ = nullptr;  // between forward and backward, unless it is run directly
  Var direct_;            // the same for a function that is run directly
  std::map<const VarState*, Tensor> gradients_;
  int64_t clock_ = 0, recorded_ = 0, replays_ = 0;
};

}  // namespace parlo
