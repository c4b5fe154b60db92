// What a component expects of its input file, and the check that lists everything wrong at once.
#pragma once

#include <filesystem>
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include "tensor/safetensors.h"

namespace parlo {

// One size of an input: a number, or a letter for a free size >= 1; inputs that share a letter must
// agree on it.
struct Dim {
  int64_t size = 0;  // 0: free
  std::string letter;
  int64_t multiple = 1;  // a free size must be a multiple of this
  int64_t most = 0;      // largest free size; 0: any

  Dim(int64_t fixed) : size(fixed) {}
  Dim(const char* name, int64_t multiple_of = 1, int64_t at_most = 0)
      : letter(name), multiple(multiple_of), most(at_most) {}
};

struct InputSpec {
  enum class Kind {
    real,     // any float dtype, used as f32
    integer,  // i64 or i32, used as i64
    number,   // either, used as f32
  };
  std::string name;
  Kind kind = Kind::real;
  std::vector<Dim> dims;
  bool optional = false;
  int64_t below = 0;  // integers: every value in [0, below); 0: any

  std::string text() const;  // "hidden_states float [B, 4, H, W]"
};

// A checked input file. UsageError in one line with what is missing, unknown or misshapen, what was
// expected and what came.
class Inputs {
 public:
  // The tensor grad_output must be there when `grads`, and may be there otherwise.
  Inputs(const std::filesystem::path& file, const std::vector<InputSpec>& specs, bool grads);

  // f32 or i64; undefined for an optional input that is not there.
  Tensor at(const std::string& name) const;
  // Stored with a float dtype: it has a gradient.
  bool is_float(const std::string& name) const;
  // grad_output as f32; UsageError when its shape is another.
  Tensor grad_output(const std::string& output, const Shape& shape) const;

 private:
  SafeTensors file_;
  std::map<std::string, Tensor> values_;
};

}  // namespace parlo
