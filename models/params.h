// Named parameters of a model. A model's constructor declares every tensor by the name it has in
// the published checkpoint; values come from a file (strictly: every missing, unexpected or
// misshapen tensor is listed at once) or from keyed random initialisation.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "autograd/optim.h"
#include "autograd/var.h"
#include "tensor/philox.h"
#include "tensor/safetensors.h"

namespace parlo {

// How a parameter starts when it is not loaded: normal(0, std), or a constant when std == 0.
struct Init {
  double std = 0.0;
  double constant = 0.0;
  // A tensor computed from the configuration (position tables); a stored one replaces it.
  std::function<Tensor()> table = {};

  static Init zeros() { return {}; }
  static Init ones() { return {0.0, 1.0}; }
  static Init normal(double std) { return {std, 0.0}; }
};

class Params {
 public:
  // Returns the leaf that will hold the parameter.
  Var declare(const std::string& name, const Shape& shape, Init init);
  // Draws every parameter from key.fold(name): independent of the order of declaration.
  void initialise(RandomKey key);
  // Reads a folder or file of safetensors (sharded or not, base name as `base`). Names that end
  // with one of `ignored` suffixes may be extra. Values become f32, unless keep_bf16 lets bf16
  // matrices stay as they are. The file's names lack the prefix `omitted`, where ours have it.
  void load(const std::filesystem::path& path, const std::string& base,
            const std::vector<std::string>& ignored = {}, bool keep_bf16 = false,
            const std::string& omitted = {});
  // The same from tensors that were read, and perhaps renamed, elsewhere; `where` names their
  // origin in an Error.
  void assign(const std::string& where, const NamedTensors& tensors,
              const std::vector<std::string>& ignored = {}, bool keep_bf16 = false);
  // Names and values in order of declaration.
  NamedTensors tensors() const;
  std::vector<NamedVar> vars() const;
  Var at(const std::string& name) const;
  bool contains(const std::string& name) const { return index_.count(name) > 0; }
  int64_t count() const;  // elements
  // Moves every value; leaves keep their identity.
  void to(Device device);
  Device device() const;
  // Matrices and kernels become bf16, for bf16 activations on a GPU (the rest stays f32).
  void narrow_weights();
  void set_requires_grad(bool on);

 private:
  struct Entry {
    std::string name;
    Shape shape;
    Init init;
    Var var;
  };
  std::vector<Entry> entries_;
  std::unordered_map<std::string, size_t> index_;
};

// A place in the tree of names: scope / "attn" / "to_q" declares under "attn.to_q.".
class Scope {
 public:
  explicit Scope(Params& params, std::string prefix = {})
      : params_(&params), prefix_(std::move(prefix)) {}
  Scope operator/(const std::string& name) const {
    return Scope(*params_, prefix_.empty() ? name : prefix_ + "." + name);
  }
  Scope operator/(int index) const { return *this / std::to_string(index); }
  Var param(const std::string& name, const Shape& shape, Init init) const {
    return params_->declare(prefix_.empty() ? name : prefix_ + "." + name, shape, init);
  }
  const std::string& prefix() const { return prefix_; }

 private:
  Params* params_;
  std::string prefix_;
};

}  // namespace parlo
