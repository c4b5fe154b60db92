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

// Where loaded values go, and as what: matrices and kernels (rank 2 and 4) may be bf16, the rest is
// f32 whatever the file holds.
struct Placement {
  Device device = {};
  DType matrices = DType::f32;
};

// What Placement::matrices is about.
inline bool is_matrix(const Shape& shape) {
  return shape.rank() == 2 || shape.rank() == 4;
}

// Where a file has a parameter: the rows from `begin` on of the tensor `source`, which may hold
// several parameters.
struct StoredTensor {
  std::string name;    // the parameter's
  std::string source;  // the file's
  Shape shape;         // as the parameter should have it
  int64_t begin = 0;
  bool swaps_halves = false;  // the second half of the rows comes first
};

// Every tensor of a file under its own name.
std::vector<StoredTensor> stored_by_name(const SafeTensors& file);

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
  // What initialise(key) gives one parameter, f32, without keeping it.
  Tensor drawn(const std::string& name, RandomKey key) const;
  // Values of the declared shapes that nobody has set: for the meta device (tensor/meta.h), where
  // they only count.
  void allocate(const Placement& to);
  // Reads every parameter from a file, in the order of its bytes and straight to where it goes: no
  // second copy on the host, and none at all where the file's bytes serve as they are (CPU, equal
  // dtypes). `stored` says where they are; names that end with one of `ignored` may be extra.
  // `where` names the file in an Error, which lists all that does not fit before anything is read.
  void load(const SafeTensors& file, const std::string& where,
            const std::vector<StoredTensor>& stored, const Placement& to = {},
            const std::vector<std::string>& ignored = {});
  // The same from a folder or file of safetensors (sharded or not, base name as `base`) with the
  // parameters' own names.
  void load(const std::filesystem::path& path, const std::string& base, const Placement& to = {},
            const std::vector<std::string>& ignored = {});
  // Names and values in order of declaration.
  NamedTensors tensors() const;
  std::vector<NamedVar> vars() const;
  std::vector<std::pair<std::string, Shape>> shapes() const;  // as declared, in this order
  Var at(const std::string& name) const;
  bool contains(const std::string& name) const { return index_.count(name) > 0; }
  // As declared; error for other names.
  const Shape& shape(const std::string& name) const;
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
  const Entry& entry(const std::string& name) const;
  std::vector<StoredTensor> matched(const std::string& where,
                                    const std::vector<StoredTensor>& stored,
                                    const std::vector<std::string>& ignored) const;

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
