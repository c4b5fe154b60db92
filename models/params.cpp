#include "models/params.h"

#include <algorithm>
#include <set>

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
  for (Entry& e : entries_) {
    Tensor value;
    if (e.init.table) {
      value = e.init.table();
      check_shape("Params::initialise", e.name, value, e.shape);
    } else if (e.init.std > 0) {
      value = random_normal(key.fold(e.name), e.shape, e.init.std);
    } else {
      value = Tensor::full(e.shape, e.init.constant);
    }
    e.var.state()->value = value;
  }
}

namespace {

std::string list_some(const std::string& title, const std::vector<std::string>& names) {
  if (names.empty()) return "";
  std::string out = "; " + title + " (" + std::to_string(names.size()) + "): ";
  for (size_t i = 0; i < names.size(); ++i) out += (i ? ", " : "") + names[i];
  return out;
}

bool ends_with_any(const std::string& name, const std::vector<std::string>& suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(),
                     [&](const std::string& s) { return name.ends_with(s); });
}

}  // namespace

void Params::load(const std::filesystem::path& path, const std::string& base,
                  const std::vector<std::string>& ignored, bool keep_bf16,
                  const std::string& omitted) {
  const SafeTensors file = SafeTensors::open_sharded(path, base);
  NamedTensors tensors;
  for (const std::string& name : file.names()) {
    tensors.emplace_back(contains(omitted + name) ? omitted + name : name, file.get(name));
  }
  assign(path.string(), tensors, ignored, keep_bf16);
}

void Params::assign(const std::string& where, const NamedTensors& tensors,
                    const std::vector<std::string>& ignored, bool keep_bf16) {
  std::unordered_map<std::string, Tensor> given;
  std::vector<std::string> missing, unexpected, twice, misshapen, not_finite;
  for (const auto& [name, value] : tensors) {
    if (!given.emplace(name, value).second) twice.push_back(name);
    if (!contains(name) && !ends_with_any(name, ignored)) unexpected.push_back(name);
  }
  for (Entry& e : entries_) {
    const auto found = given.find(e.name);
    if (found == given.end()) {
      missing.push_back(e.name);
      continue;
    }
    const Tensor& t = found->second;
    if (!(t.shape() == e.shape)) {
      misshapen.push_back(concat(e.name, " is ", t.shape(), ", expected ", e.shape));
      continue;
    }
    const bool keep = keep_bf16 && t.dtype() == DType::bf16 && e.shape.rank() == 2;
    const Tensor value = keep ? t : t.to(DType::f32);
    if (!all_finite(value)) not_finite.push_back(e.name);
    e.var.state()->value = value;
  }
  CHECK(missing.empty() && unexpected.empty() && twice.empty() && misshapen.empty() &&
            not_finite.empty(),
        where, ": not a checkpoint of this model", list_some("missing", missing),
        list_some("unexpected", unexpected), list_some("given twice", twice),
        list_some("wrong shape", misshapen), list_some("NaN or infinite values in", not_finite));
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

Var Params::at(const std::string& name) const {
  const auto it = index_.find(name);
  CHECK(it != index_.end(), "Params: no parameter named ", name);
  return entries_[it->second].var;
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
    if (e.shape.rank() == 2 || e.shape.rank() == 4) {
      e.var.set_value(e.var.value().to(DType::bf16));
    }
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
