#include "autograd/var.h"

#include <algorithm>
#include <atomic>
#include <queue>
#include <unordered_map>
#include <unordered_set>

#include "kernels/dispatch.h"
#include "kernels/elementwise.h"
#include "tensor/trace.h"

namespace parlo {

struct Node {
  const char* name;
  uint64_t order;  // creation order: a node's inputs always have smaller numbers
  std::vector<Var> inputs;
  Need need;  // as it was when the op ran
  size_t results;
  BackwardManyFn backward;

  ~Node();
};

namespace {

// Inputs of nodes being destroyed, while the outermost destructor empties it.
thread_local std::vector<Var>* dropped = nullptr;

}  // namespace

// One after the other: a long chain that is never swept would overflow the stack by recursion.
Node::~Node() {
  if (dropped) {
    dropped->insert(dropped->end(), inputs.begin(), inputs.end());
    return;
  }
  std::vector<Var> pending = std::move(inputs);
  dropped = &pending;
  while (!pending.empty()) {
    const Var last = std::move(pending.back());
    pending.pop_back();
  }
  dropped = nullptr;
}

namespace {

thread_local bool recording = true;
std::atomic<uint64_t> next_order{1};

// A gradient on its way. The first contribution may be shared with other nodes; only a sum made
// here is owned and may be added to in place.
struct Pending {
  Tensor grad;
  bool owned = false;
};

void accumulate(Pending& into, const Tensor& grad) {
  if (!into.grad.defined()) {
    into.grad = grad;
    return;
  }
  if (!into.owned) {
    into.grad = into.grad.clone();
    into.owned = true;
  }
  DISPATCH(grad.device(), axpby(1.0, grad.contiguous(), 1.0, into.grad));
}

void check_gradient(const char* function, const Tensor& grad, const Var& v) {
  check_shape(function, "gradient", grad, v.shape());
  CHECK(grad.dtype() == v.dtype(), function, ": gradient is ", dtype_name(grad.dtype()),
        ", expected ", dtype_name(v.dtype()));
}

void accumulate_leaf(VarState& leaf, const Tensor& grad) {
  if (!leaf.grad.defined()) {
    leaf.grad = grad.clone();
  } else {
    DISPATCH(grad.device(), axpby(1.0, grad.contiguous(), 1.0, leaf.grad));
  }
}

}  // namespace

Var::Var(Tensor value, bool requires_grad) : state_(std::make_shared<VarState>()) {
  state_->value = std::move(value);
  set_requires_grad(requires_grad);
}

const Tensor& Var::value() const {
  CHECK(state_ != nullptr, "Var: used before it holds anything");
  return state_->value;
}

void Var::set_requires_grad(bool on) {
  CHECK(!on || is_floating(value().dtype()), "Var: dtype ", dtype_name(value().dtype()),
        " cannot require a gradient");
  CHECK(!state_->node, "Var::set_requires_grad: only for leaves");
  state_->requires_grad = on;
}

const Tensor& Var::grad() const {
  CHECK(state_ != nullptr, "Var: used before it holds anything");
  return state_->grad;
}

void Var::zero_grad() {
  state_->grad = Tensor();
}

void Var::set_value(Tensor value) {
  CHECK(state_ && !state_->node, "Var::set_value: only for leaves");
  check_shape("Var::set_value", "value", value, shape());
  state_->value = std::move(value);
}

Var Var::detach() const {
  return Var(value());
}

Var record(const char* name, Tensor y, std::vector<Var> inputs, BackwardFn backward) {
  return record(name, std::vector<Tensor>{std::move(y)}, std::move(inputs),
                [backward = std::move(backward)](std::span<const Tensor> dys, const Need& need) {
                  return backward(dys[0], need);
                })[0];
}

std::vector<Var> record(const char* name, const std::vector<Tensor>& ys, std::vector<Var> inputs,
                        BackwardManyFn backward) {
  std::vector<Var> out;
  for (const Tensor& y : ys) out.emplace_back(y);
  if (!recording) return out;
  Need need;
  for (const Var& input : inputs) need.push_back(input.requires_grad());
  if (std::find(need.begin(), need.end(), true) == need.end()) return out;
  auto node = std::make_shared<Node>();
  node->name = name;
  node->order = next_order.fetch_add(1, std::memory_order_relaxed);
  node->inputs = std::move(inputs);
  node->need = std::move(need);
  node->results = ys.size();
  node->backward = std::move(backward);
  for (size_t i = 0; i < out.size(); ++i) {
    VarState& state = *out[i].state();
    state.node = node, state.result = i, state.requires_grad = true;
  }
  return out;
}

namespace {

struct Later {
  bool operator()(const std::shared_ptr<Node>& a, const std::shared_ptr<Node>& b) const {
    return a->order < b->order;
  }
};

// One backward pass. A checkpoint's node runs an inner pass, whose gradients for the checkpoint's
// inputs are pushed outside one by one: summing them inside first would change the order of sums.
class Sweep {
 public:
  Sweep() : outer_(active) { active = this; }
  ~Sweep() { active = outer_; }
  Sweep(const Sweep&) = delete;
  Sweep& operator=(const Sweep&) = delete;

  // The inputs of the node whose backward runs now on this thread.
  static const std::vector<Var>& current_inputs() { return active->current_->inputs; }

  void push(VarState& state, const Tensor& grad) {
    if (state.stands_for) return outer_->push(*state.stands_for, grad);
    if (!state.node) {
      accumulate_leaf(state, grad);
      return;
    }
    std::vector<Pending>& pending = pending_[state.node.get()];
    pending.resize(state.node->results);
    accumulate(pending[state.result], grad);
    if (queued_.insert(state.node.get()).second) queue_.push(state.node);
  }

  void run() {
    while (!queue_.empty()) {
      const std::shared_ptr<Node> node = queue_.top();
      queue_.pop();
      step(*node);
    }
  }

 private:
  void step(Node& node) {
    std::vector<Tensor> dys;
    for (const Pending& pending : pending_[&node]) {
      dys.push_back(pending.grad ? pending.grad.contiguous() : Tensor());
    }
    pending_.erase(&node);
    CHECK(node.backward, node.name, ": backward through a graph that was already released");
    current_ = &node;
    const std::vector<Tensor> grads = [&] {
      const TraceRange range(node.name);
      return node.backward(dys, node.need);
    }();
    CHECK(grads.size() == node.inputs.size(), node.name, ": backward gave ", grads.size(),
          " gradients for ", node.inputs.size(), " inputs");
    const std::vector<Var> inputs = std::move(node.inputs);
    node.inputs.clear();
    node.backward = nullptr;  // frees what the op saved
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!node.need[i] || !grads[i].defined()) continue;
      check_gradient(node.name, grads[i], inputs[i]);
      push(*inputs[i].state(), grads[i]);
    }
  }

  static thread_local Sweep* active;

  Sweep* outer_;
  const Node* current_ = nullptr;
  std::priority_queue<std::shared_ptr<Node>, std::vector<std::shared_ptr<Node>>, Later> queue_;
  std::unordered_map<Node*, std::vector<Pending>> pending_;
  std::unordered_set<Node*> queued_;
};

thread_local Sweep* Sweep::active = nullptr;

// One pass from several results; dys of those that nothing used are undefined.
void sweep_from(std::span<const Var> ys, std::span<const Tensor> dys) {
  NoGrad guard;
  Sweep sweep;
  for (size_t i = 0; i < ys.size(); ++i) {
    if (dys[i].defined() && ys[i].requires_grad()) sweep.push(*ys[i].state(), dys[i]);
  }
  sweep.run();
}

}  // namespace

void backward(const Var& y, Tensor dy) {
  CHECK(y.requires_grad(),
        "backward: the result does not depend on anything that requires a "
        "gradient");
  if (!dy.defined()) {
    CHECK(y.value().numel() == 1, "backward: shape ", y.shape(),
          " needs an explicit gradient of that shape");
    dy = Tensor::full(y.shape(), 1.0, y.dtype(), y.value().device());
  }
  check_gradient("backward", dy, y);
  sweep_from({&y, 1}, {&dy, 1});
}

bool grad_enabled() {
  return recording;
}

NoGrad::NoGrad() : before_(recording) {
  recording = false;
}
NoGrad::~NoGrad() {
  recording = before_;
}

namespace {

// Recording on for the recomputation inside a backward.
class WithGrad {
 public:
  WithGrad() : before_(recording) { recording = true; }
  ~WithGrad() { recording = before_; }

 private:
  bool before_;
};

}  // namespace

Var checkpoint(std::function<Var(std::span<const Var>)> fn, std::vector<Var> inputs) {
  const auto one = [fn = std::move(fn)](std::span<const Var> in) { return std::vector{fn(in)}; };
  return checkpoint(one, std::move(inputs))[0];
}

std::vector<Var> checkpoint(std::function<std::vector<Var>(std::span<const Var>)> fn,
                            std::vector<Var> inputs) {
  if (!recording) return fn(inputs);
  std::vector<Tensor> ys, saved;
  {
    NoGrad guard;
    for (const Var& y : fn(inputs)) ys.push_back(y.value());
  }
  for (const Var& input : inputs) saved.push_back(input.defined() ? input.value() : Tensor());
  // Leaves inside fn may require gradients even when no input does: this input keeps the node.
  inputs.emplace_back(Tensor::zeros({}), true);
  return record("checkpoint", ys, std::move(inputs),
                [fn = std::move(fn), saved](std::span<const Tensor> dys, const Need& need) {
                  const std::vector<Var>& outside = Sweep::current_inputs();
                  std::vector<Var> again, out;
                  for (size_t i = 0; i < saved.size(); ++i) {
                    again.push_back(saved[i].defined() ? Var(saved[i], need[i]) : Var());
                    if (need[i]) again[i].state()->stands_for = outside[i].state();
                  }
                  {
                    WithGrad on;
                    out = fn(again);
                  }
                  sweep_from(out, dys);
                  return std::vector<Tensor>(outside.size());  // all pushed by the inner pass
                });
}

}  // namespace parlo
