// Reverse-mode automatic differentiation. A Var is a shared handle on a value, its gradient and the
// node that made it. An op computes its value with kernels and returns record(...), whose lambda
// captures Tensors (never Vars) and gives the gradients of the inputs that need one.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace parlo {

class Var;
struct Node;

// need[i]: input i wants a gradient; the others may stay undefined. A frozen weight costs no dW.
using Need = std::vector<bool>;
using BackwardFn = std::function<std::vector<Tensor>(const Tensor& dy, const Need& need)>;
// Of an op with several results; the gradient of one that nothing used is undefined.
using BackwardManyFn =
    std::function<std::vector<Tensor>(std::span<const Tensor> dys, const Need& need)>;

struct VarState {
  Tensor value;
  Tensor grad;  // leaves only; accumulates over backward calls
  bool requires_grad = false;
  std::shared_ptr<Node> node;  // null for leaves
  size_t result = 0;           // which of the node's
  // Of an input while a checkpoint runs again: the Var outside that its gradients belong to.
  std::shared_ptr<VarState> stands_for;
};

class Var {
 public:
  Var() = default;
  explicit Var(Tensor value, bool requires_grad = false);

  bool defined() const { return state_ != nullptr; }
  explicit operator bool() const { return defined(); }
  const Tensor& value() const;
  const Shape& shape() const { return value().shape(); }
  int64_t dim(int i) const { return value().dim(i); }
  int rank() const { return value().rank(); }
  DType dtype() const { return value().dtype(); }
  bool requires_grad() const { return state_ && state_->requires_grad; }
  void set_requires_grad(bool on);
  // Gradient of a leaf; undefined before the first backward.
  const Tensor& grad() const;
  void zero_grad();
  // Replaces a leaf's value (same shape): loading, optimisers.
  void set_value(Tensor value);
  // The same value, cut from the graph.
  Var detach() const;
  const std::shared_ptr<VarState>& state() const { return state_; }

 private:
  std::shared_ptr<VarState> state_;
};

// Wraps y as the result of an op on inputs. `name` must outlive the graph (a literal). With NoGrad
// or without an input that requires a gradient nothing is recorded.
Var record(const char* name, Tensor y, std::vector<Var> inputs, BackwardFn backward);
std::vector<Var> record(const char* name, const std::vector<Tensor>& ys, std::vector<Var> inputs,
                        BackwardManyFn backward);

// Accumulates gradients of sum(y * dy) into every leaf that required one when its op ran; dy
// defaults to 1 for a single element. The graph is released on the way: a second call throws.
void backward(const Var& y, Tensor dy = {});

bool grad_enabled();

// While alive on this thread, ops record nothing.
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool before_;
};

// Runs fn(inputs) without keeping its inner values and runs it again, bit for bit, in the backward.
// fn must be a pure function of its inputs and of leaves, whose gradients accumulate as usual:
// every gradient has the bits it has without the checkpoint. Other Vars must come in as inputs.
Var checkpoint(std::function<Var(std::span<const Var>)> fn, std::vector<Var> inputs);
std::vector<Var> checkpoint(std::function<std::vector<Var>(std::span<const Var>)> fn,
                            std::vector<Var> inputs);

}  // namespace parlo
