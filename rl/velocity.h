// The guided velocity of a model, as rollouts and updates call it: the same function of the same
// values in both, recorded on a GPU (autograd/replayed.h).
#pragma once

#include <span>
#include <vector>

#include "autograd/replayed.h"
#include "models/flow_model.h"

namespace parlo {

class Velocity {
 public:
  struct At {
    Tensor x;  // [B, D] latents, flat
    double sigma = 1;
    Condition condition;
    const Condition* uncond = nullptr;  // needed when guidance != 1
    double guidance = 1;
    bool detach_uncond = false;
    const SkipLayers* skip = nullptr;  // in this step
  };

  // record: off where other threads use the same GPU.
  explicit Velocity(FlowModel& model, bool record = true) : model_(model) {
    replayed_.enabled = record;
  }

  // [B, D], without gradients.
  Tensor value(const At& at);
  // The same, kept for one backward(dv), which adds to the gradients of the leaves (all that
  // require one).
  Tensor forward(const At& at, const std::vector<NamedVar>& leaves);
  void backward(const Tensor& dv);

  FlowModel& model() const { return model_; }
  const Replayed& replayed() const { return replayed_; }

 private:
  struct Call {
    Replayed::Fn fn;
    Replayed::Key key;
    std::vector<Tensor> inputs;
  };
  Call call(const At& at) const;

  FlowModel& model_;
  Replayed replayed_;
  Shape shape_;  // of the value between forward and backward
};

}  // namespace parlo
