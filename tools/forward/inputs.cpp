#include "tools/forward/inputs.h"

#include <algorithm>

namespace parlo {
namespace {

constexpr const char* kGradOutput = "grad_output";

std::string join(const std::vector<std::string>& parts, const char* separator) {
  std::string out;
  for (const std::string& p : parts) out += (out.empty() ? "" : separator) + p;
  return out;
}

std::string describe(const SafeTensors& file) {
  std::vector<std::string> parts;
  for (const std::string& name : file.names()) {
    const auto& info = file.info(name);
    parts.push_back(concat(name, " ", dtype_name(info.dtype), " ", info.shape));
  }
  return parts.empty() ? "nothing" : join(parts, ", ");
}

bool kind_fits(InputSpec::Kind kind, DType dtype) {
  const bool integer = dtype == DType::i64 || dtype == DType::i32;
  switch (kind) {
    case InputSpec::Kind::real:
      return is_floating(dtype);
    case InputSpec::Kind::integer:
      return integer;
    default:
      return integer || is_floating(dtype);
  }
}

// What is wrong with one shape; letters seen before are compared.
void check_dims(const InputSpec& spec, const Shape& shape, std::map<std::string, int64_t>& letters,
                std::vector<std::string>& wrong) {
  if (shape.rank() != static_cast<int>(spec.dims.size())) {
    wrong.push_back(concat(spec.name, " has shape ", shape));
    return;
  }
  for (int i = 0; i < shape.rank(); ++i) {
    const Dim& d = spec.dims[static_cast<size_t>(i)];
    const int64_t n = shape[i];
    if (d.size > 0) {
      if (n != d.size) {
        wrong.push_back(
            concat(spec.name, " has shape ", shape, ", expected ", d.size, " in axis ", i));
      }
      continue;
    }
    const auto [seen, first] = letters.emplace(d.letter, n);
    if (n < 1 || n % d.multiple != 0 || (d.most > 0 && n > d.most)) {
      wrong.push_back(concat(spec.name, " has ", d.letter, " = ", n));
    } else if (!first && seen->second != n) {
      wrong.push_back(
          concat(spec.name, " has ", d.letter, " = ", n, ", another input has ", seen->second));
    }
  }
}

void check_values(const InputSpec& spec, const Tensor& ids, std::vector<std::string>& wrong) {
  if (spec.below == 0) return;
  for (int64_t id : ids.span<int64_t>()) {
    if (id >= 0 && id < spec.below) continue;
    wrong.push_back(concat(spec.name, " holds ", id, ", expected 0..", spec.below - 1));
    return;
  }
}

}  // namespace

std::string InputSpec::text() const {
  constexpr const char* kKinds[] = {"float", "i64 or i32", "float or integer"};
  std::vector<std::string> sizes, limits;
  for (const Dim& d : dims) {
    sizes.push_back(d.size > 0 ? std::to_string(d.size) : d.letter);
    if (d.multiple > 1) limits.push_back(concat(d.letter, " a multiple of ", d.multiple));
    if (d.most > 0) limits.push_back(concat(d.letter, " <= ", d.most));
  }
  if (optional) limits.push_back("optional");
  return concat(name, " ", kKinds[static_cast<int>(kind)], " (", join(sizes, ", "), ")",
                limits.empty() ? "" : " with " + join(limits, ", "));
}

Inputs::Inputs(const std::filesystem::path& path, const std::vector<InputSpec>& specs, bool grads)
    : file_(SafeTensors::open(path)) {
  std::vector<std::string> wrong, expected;
  std::map<std::string, int64_t> letters;
  for (const InputSpec& spec : specs) {
    expected.push_back(spec.text());
    if (!file_.contains(spec.name)) {
      if (!spec.optional) wrong.push_back(spec.name + " is missing");
      continue;
    }
    const auto& info = file_.info(spec.name);
    if (!kind_fits(spec.kind, info.dtype)) {
      wrong.push_back(concat(spec.name, " has dtype ", dtype_name(info.dtype)));
      continue;
    }
    check_dims(spec, info.shape, letters, wrong);
    const bool integer = spec.kind == InputSpec::Kind::integer;
    const Tensor value = file_.get(spec.name).to(integer ? DType::i64 : DType::f32).contiguous();
    if (integer) check_values(spec, value, wrong);
    values_[spec.name] = value;
  }
  if (grads) {
    expected.push_back("grad_output float, in the shape of the first output");
    if (!file_.contains(kGradOutput)) wrong.push_back("grad_output is missing (--grads)");
  }
  for (const std::string& name : file_.names()) {
    const auto known = [&](const InputSpec& s) { return s.name == name; };
    if (name != kGradOutput && std::none_of(specs.begin(), specs.end(), known)) {
      wrong.push_back(name + " is unknown");
    }
  }
  if (wrong.empty()) return;
  throw UsageError(concat(path.string(), ": ", join(wrong, "; "),
                          ". Expected: ", join(expected, "; "), ". Got: ", describe(file_)));
}

Tensor Inputs::at(const std::string& name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? Tensor() : found->second;
}

bool Inputs::is_float(const std::string& name) const {
  return file_.contains(name) && is_floating(file_.info(name).dtype);
}

Tensor Inputs::grad_output(const std::string& output, const Shape& shape) const {
  const auto& info = file_.info(kGradOutput);
  if (!(info.shape == shape) || !is_floating(info.dtype)) {
    throw UsageError(concat(file_.files()[0].string(), ": grad_output is ", dtype_name(info.dtype),
                            " ", info.shape, ", expected floats in the shape of ", output, ", ",
                            shape));
  }
  return file_.get(kGradOutput).to(DType::f32).contiguous();
}

}  // namespace parlo
