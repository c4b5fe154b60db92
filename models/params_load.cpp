// Params::load: a file's tensors against the declared ones, then from the mapped file to their
// device one after another.
#include <algorithm>
#include <tuple>
#include <unordered_set>
#include <vector>

#include "autograd/functions.h"
#include "models/params.h"

namespace parlo {
namespace {

std::string list_all(const std::string& title, const std::vector<std::string>& names) {
  if (names.empty()) return "";
  std::string out = "; " + title + " (" + std::to_string(names.size()) + "): ";
  for (size_t i = 0; i < names.size(); ++i) out += (i ? ", " : "") + names[i];
  return out;
}

bool ends_with_any(const std::string& name, const std::vector<std::string>& suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(),
                     [&](const std::string& s) { return name.ends_with(s); });
}

// As the file has it, and whose it is where that cannot be seen.
std::string shown(const StoredTensor& s) {
  return s.source.ends_with(s.name) ? s.source : s.source + " (" + s.name + ")";
}

// The parameter's elements among those of its source: a view of the mapped file, as a rule.
Tensor read(const SafeTensors& file, const StoredTensor& s) {
  Tensor t = file.get(s.source);
  if (t.rank() > 0) t = t.slice(0, s.begin, s.begin + s.shape[0]);
  return t.view(s.shape);
}

Tensor with_swapped_halves(const Tensor& t) {
  const int64_t rows = t.dim(0), half = rows / 2;
  Tensor out = Tensor::empty_like(t);
  out.slice(0, 0, rows - half).copy_from(t.slice(0, half, rows));
  out.slice(0, rows - half, rows).copy_from(t.slice(0, 0, half));
  return out;
}

// Moves first: a GPU converts faster than the host.
Tensor placed(const Tensor& stored, bool swaps_halves, const Placement& to) {
  const Tensor there = stored.to(to.device);
  const Tensor value = there.to(is_matrix(stored.shape()) ? to.matrices : DType::f32);
  return swaps_halves ? with_swapped_halves(value) : value;
}

std::vector<StoredTensor> in_order_of_bytes(const SafeTensors& file,
                                            std::vector<StoredTensor> stored) {
  const auto place = [&](const StoredTensor& s) {
    const SafeTensors::Info& info = file.info(s.source);
    return std::tuple(info.file, info.offset, s.begin);
  };
  std::sort(stored.begin(), stored.end(),
            [&](const StoredTensor& a, const StoredTensor& b) { return place(a) < place(b); });
  return stored;
}

}  // namespace

std::vector<StoredTensor> stored_by_name(const SafeTensors& file) {
  std::vector<StoredTensor> out;
  for (const std::string& name : file.names()) {
    out.push_back({name, name, file.info(name).shape});
  }
  return out;
}

// Those of the declared parameters, once it is sure that each is there.
std::vector<StoredTensor> Params::matched(const std::string& where,
                                          const std::vector<StoredTensor>& stored,
                                          const std::vector<std::string>& ignored) const {
  std::vector<StoredTensor> found;
  std::unordered_set<std::string> given;
  std::vector<std::string> missing, unexpected, twice, misshapen;
  for (const StoredTensor& s : stored) {
    if (!given.insert(s.name).second) {
      twice.push_back(s.name);
    } else if (!contains(s.name)) {
      if (!ends_with_any(s.name, ignored)) unexpected.push_back(shown(s));
    } else if (const Shape& expected = shape(s.name); !(s.shape == expected)) {
      misshapen.push_back(concat(shown(s), " is ", s.shape, ", expected ", expected));
    } else {
      found.push_back(s);
    }
  }
  for (const Entry& e : entries_) {
    if (given.count(e.name) == 0) missing.push_back(e.name);
  }
  CHECK(missing.empty() && unexpected.empty() && twice.empty() && misshapen.empty(), where,
        ": not a checkpoint of this model", list_all("missing", missing),
        list_all("unexpected", unexpected), list_all("given twice", twice),
        list_all("wrong shape", misshapen));
  return found;
}

void Params::load(const SafeTensors& file, const std::string& where,
                  const std::vector<StoredTensor>& stored, const Placement& to,
                  const std::vector<std::string>& ignored) {
  const auto order = in_order_of_bytes(file, matched(where, stored, ignored));
  std::vector<std::string> not_finite;
  for (size_t i = 0; i < order.size(); ++i) {
    const StoredTensor& s = order[i];
    const Tensor in_file = read(file, s), value = placed(in_file, s.swaps_halves, to);
    if (!all_finite(value)) not_finite.push_back(shown(s));
    at(s.name).state()->value = value;
    const bool last_of_source = i + 1 == order.size() || order[i + 1].source != s.source;
    if (last_of_source && value.storage() != in_file.storage()) file.release(s.source);
  }
  CHECK(not_finite.empty(), where, ": not a checkpoint of this model",
        list_all("NaN or infinite values in", not_finite));
}

void Params::load(const std::filesystem::path& path, const std::string& base, const Placement& to,
                  const std::vector<std::string>& ignored) {
  const SafeTensors file = SafeTensors::open_sharded(path, base);
  load(file, path.string(), stored_by_name(file), to, ignored);
}

}  // namespace parlo
