#include "models/axial_rope.h"

#include <cmath>

namespace parlo {
namespace {

// theta^(-2k / dim) of every pair, and which axis turns it.
struct Frequencies {
  std::vector<double> value;
  std::vector<int64_t> axis;
};

Frequencies frequencies(std::span<const int64_t> dims, double theta) {
  Frequencies f;
  for (size_t a = 0; a < dims.size(); ++a) {
    for (int64_t k = 0; k < dims[a]; k += 2) {
      const double power = static_cast<double>(k) / static_cast<double>(dims[a]);
      f.value.push_back(1.0 / std::pow(theta, power));
      f.axis.push_back(static_cast<int64_t>(a));
    }
  }
  return f;
}

}  // namespace

Var axial_angles(const Var& ids, std::span<const int64_t> dims, double theta) {
  const auto axes = static_cast<int64_t>(dims.size());
  CHECK(ids.rank() == 2 && ids.dim(1) == axes, "axial_angles: ids have shape ", ids.shape(),
        ", expected [T, ", axes, "]");
  const Frequencies f = frequencies(dims, theta);
  const Device device = ids.value().device();
  const DType dtype = ids.dtype();
  const Tensor at = ids.value().to(Device{}).to(DType::f64).contiguous();
  const int64_t tokens = at.dim(0), pairs = static_cast<int64_t>(f.value.size());
  const Tensor angles = Tensor::empty({tokens, pairs}, DType::f64);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < pairs; ++i) {
      const auto pair = static_cast<size_t>(i);
      angles.data<double>()[t * pairs + i] =
          at.data<double>()[t * axes + f.axis[pair]] * f.value[pair];
    }
  }
  return record("axial_angles", angles, {ids},
                [=](const Tensor& dangles, const Need&) -> std::vector<Tensor> {
                  const Tensor dids = Tensor::zeros({tokens, axes}, DType::f64);
                  const double* g = dangles.data<double>();
                  for (int64_t t = 0; t < tokens; ++t) {
                    for (int64_t i = 0; i < pairs; ++i) {
                      const auto pair = static_cast<size_t>(i);
                      dids.data<double>()[t * axes + f.axis[pair]] +=
                          g[t * pairs + i] * f.value[pair];
                    }
                  }
                  return {dids.to(dtype).to(device)};
                });
}

Rotation rotation_by(const Var& angles, Device device) {
  const Tensor a = angles.value().contiguous();
  Tensor cos = Tensor::empty(a.shape()), sin = Tensor::empty(a.shape());
  for (int64_t i = 0; i < a.numel(); ++i) {
    cos.data<float>()[i] = static_cast<float>(std::cos(a.data<double>()[i]));
    sin.data<float>()[i] = static_cast<float>(std::sin(a.data<double>()[i]));
  }
  return {cos.to(device), sin.to(device), angles.requires_grad() ? angles : Var()};
}

Var rotated_by(const Var& y, const Var& angles) {
  const Tensor value = y.value();
  return record("rotated_by", value, {y, angles},
                [value](const Tensor& dy, const Need& need) -> std::vector<Tensor> {
                  if (!need[1]) return {dy, {}};
                  const Tensor a = value.to(Device{}).to(DType::f64).contiguous();
                  const Tensor g = dy.to(Device{}).to(DType::f64).contiguous();
                  const int64_t tokens = a.dim(1), heads = a.dim(2), pairs = a.dim(3) / 2;
                  const Tensor dangles = Tensor::zeros({tokens, pairs}, DType::f64);
                  const double *av = a.data<double>(), *gv = g.data<double>();
                  for (int64_t row = 0; row < a.dim(0) * tokens * heads; ++row) {
                    double* out = dangles.data<double>() + row / heads % tokens * pairs;
                    for (int64_t i = 0; i < pairs; ++i, av += 2, gv += 2)
                      out[i] += gv[1] * av[0] - gv[0] * av[1];
                  }
                  return {dy, dangles};
                });
}

}  // namespace parlo
