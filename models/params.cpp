#include "models/params.h"

#include "autograd/functions.h"

namespace parlo {

Var Params::declare(const std::string& name, const Shape& shape, Init init) {
  CHECK(!contains(name), "Params: ", name, " is declared twice");
  // The value stays empty until it is loaded or drawn: a large checkpoint is held once.
  Var var{Tensor()};
  index_[name] = entries_.size();
  entries_.push_back({name, shape, std::move(init), var});
  return var;
}

void Params::initialise(RandomKey key) {
  for (Entry& e : entries_) e.var.state()->value = drawn(e.name, key);
}

Tensor Params::drawn(const std::string& name, RandomKey key) const {
  const Entry& e = entry(name);
  if (e.init.table) {
    const Tensor value = e.init.table();
    check_shape("Params::drawn", e.name, value, e.shape);
    return value;
  }
  if (e.init.std > 0) return random_normal(key.fold(e.name), e.shape, e.init.std);
  return Tensor::full(e.shape, e.init.constant);
}

void Params::allocate(const Placement& to) {
  for (Entry& e : entries_) {
    const DType dtype = is_matrix(e.shape) ? to.matrices : DType::f32;
    e.var.state()->value = Tensor::empty(e.shape, dtype, to.device);
  }
}

NamedTensors Params::tensors() const {
  NamedTensors out;
  for (const Entry& e : entries_) out.emplace_back(e.name, e.var.value());
  return out;
}

std::vector<NamedVar> Params::vars() const {
  std::vector<NamedVar> out;
  for (const Entry& e : entries_) out.push_back({e.name, e.var});
  return out;
}

std::vector<std::pair<std::string, Shape>> Params::shapes() const {
  std::vector<std::pair<std::string, Shape>> out;
  for (const Entry& e : entries_) out.emplace_back(e.name, e.shape);
  return out;
}

const Params::Entry& Params::entry(const std::string& name) const {
  const auto it = index_.find(name);
  CHECK(it != index_.end(), "Params: no parameter named ", name);
  return entries_[it->second];
}

Var Params::at(const std::string& name) const {
  return entry(name).var;
}

const Shape& Params::shape(const std::string& name) const {
  return entry(name).shape;
}

int64_t Params::count() const {
  int64_t n = 0;
  for (const Entry& e : entries_) n += e.shape.numel();
  return n;
}

void Params::to(Device device) {
  for (Entry& e : entries_) e.var.set_value(e.var.value().to(device));
}

void Params::narrow_weights() {
  for (Entry& e : entries_) {
    if (is_matrix(e.shape)) e.var.set_value(e.var.value().to(DType::bf16));
  }
}

Device Params::device() const {
  return entries_.empty() ? Device{} : entries_.front().var.value().device();
}

void Params::set_requires_grad(bool on) {
  for (Entry& e : entries_) {
    // What is trained must not lie in a mapped file.
    if (on && e.var.value().read_only()) e.var.set_value(e.var.value().clone());
    e.var.set_requires_grad(on);
  }
}

}  // namespace parlo
