#include "autograd/optim.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>

#include "kernels/adamw.h"
#include "kernels/dispatch.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/reduce.h"
#include "tensor/parallel.h"

namespace parlo {
namespace {

double sum_of_squares(const Tensor& t) {
  return DISPATCH(t.device(), sum_squares(t));
}

Device device_of(const std::vector<NamedVar>& params) {
  return params.empty() ? Device{} : params.front().var.value().device();
}

Tensor scalar(int64_t x) {
  return Tensor::from<int64_t>({x}, {1});
}

// Copies the named tensors of a saved state into `into`, in the same order of names.
void restore(const char* who, const NamedTensors& state, const NamedTensors& into) {
  std::map<std::string, Tensor> saved(state.begin(), state.end());
  std::string wrong;
  for (const auto& [name, t] : into) {
    const auto it = saved.find(name);
    const bool fits = it != saved.end() && it->second.shape() == t.shape();
    if (!fits) wrong += (wrong.empty() ? "" : ", ") + name;
  }
  CHECK(wrong.empty(), who, ": the saved state lacks or has other shapes for: ", wrong);
  for (const auto& [name, t] : into) t.copy_from(saved.at(name));
}

}  // namespace

double grad_norm(const std::vector<NamedVar>& params) {
  std::vector<AdamWTensor> all;
  for (const NamedVar& p : params) {
    if (p.var.grad().defined()) all.push_back({p.var.value(), p.var.grad(), {}, {}, {}});
  }
  return std::sqrt(DISPATCH(device_of(params), grad_squares(all)));
}

double grad_rms(const std::vector<NamedVar>& params) {
  int64_t count = 0;
  for (const NamedVar& p : params) {
    if (p.var.grad().defined()) count += p.var.grad().numel();
  }
  return count ? grad_norm(params) / std::sqrt(static_cast<double>(count)) : 0.0;
}

void zero_grads(const std::vector<NamedVar>& params) {
  for (const NamedVar& p : params) Var(p.var).zero_grad();
}

double clip_factor(double norm, double max_norm) {
  // The reference adds 1e-6 to the norm.
  return max_norm > 0 && norm + 1e-6 > max_norm ? max_norm / (norm + 1e-6) : 1.0;
}

AdamW::AdamW(std::vector<NamedVar> params, AdamWConfig config)
    : params_(std::move(params)), config_(config) {
  for (const NamedVar& p : params_) {
    m_.push_back(Tensor::zeros_like(p.var.value()));
    v_.push_back(Tensor::zeros_like(p.var.value()));
  }
}

void AdamW::step(double lr, double grad_scale) {
  ++step_;
  const AdamWStep args{lr,         config_.beta1, config_.beta2, config_.eps, config_.weight_decay,
                       grad_scale, step_};
  std::vector<AdamWTensor> all;
  for (size_t i = 0; i < params_.size(); ++i) {
    const Var& p = params_[i].var;
    if (p.grad().defined()) all.push_back({p.value(), p.grad(), m_[i], v_[i], {}});
  }
  DISPATCH(device_of(params_), adamw_all(all, args, 0.0));
}

NamedTensors AdamW::state() const {
  NamedTensors out{{"step", scalar(step_)}};
  for (size_t i = 0; i < params_.size(); ++i) {
    out.emplace_back(params_[i].name + ".m", m_[i]);
    out.emplace_back(params_[i].name + ".v", v_[i]);
  }
  return out;
}

void AdamW::load_state(const NamedTensors& state) {
  NamedTensors into = this->state();
  restore("AdamW::load_state", state, into);
  step_ = static_cast<int64_t>(into[0].second.item());
}

void AdamW::reset() {
  step_ = 0;
  for (Tensor& t : m_) t.fill(0);
  for (Tensor& t : v_) t.fill(0);
}

Muon::Muon(std::vector<NamedVar> params, MuonConfig config)
    : params_(std::move(params)), config_(config) {
  for (const NamedVar& p : params_) {
    CHECK(p.var.rank() == 2, "Muon: ", p.name, " has shape ", p.var.shape(),
          ", expected a matrix; give it to AdamW");
    CHECK(p.var.dtype() == DType::f32 || p.var.dtype() == DType::f64, "Muon: ", p.name, " is ",
          dtype_name(p.var.dtype()), ", expected f32 or f64");
    momentum_.push_back(Tensor::zeros_like(p.var.value()));
  }
}

namespace {

// x -> a x + (b A + c A^2) x with A = x x', five times: singular values go to about 1.
Tensor orthogonalise(Tensor x, int steps) {
  const bool tall = x.dim(0) > x.dim(1);
  if (tall) x = x.transpose(0, 1).contiguous();
  Tensor scaled = Tensor::empty_like(x);
  const double norm = std::sqrt(sum_of_squares(x)) + 1e-7;
  DISPATCH(x.device(), scale_shift(1.0 / norm, 0.0, x, scaled));
  const int64_t rows = x.dim(0);
  Tensor gram = Tensor::empty({rows, rows}, x.dtype(), x.device());
  Tensor poly = Tensor::empty_like(gram);
  for (int i = 0; i < steps; ++i) {
    constexpr double a = 3.4445, b = -4.7750, c = 2.0315;
    DISPATCH(x.device(), matmul(scaled, false, scaled, true, gram));
    poly.copy_from(gram);
    DISPATCH(x.device(), matmul(gram, false, gram, false, poly, c, b));
    Tensor next = scaled.clone();
    DISPATCH(x.device(), matmul(poly, false, scaled, false, next, 1.0, a));
    scaled = next;
  }
  return tall ? scaled.transpose(0, 1).contiguous() : scaled;
}

}  // namespace

void Muon::step(double lr) {
  // Matrices are small and many: one a thread, each serial inside.
  parallel_for(static_cast<int64_t>(params_.size()), 1, [&](int64_t i, int64_t) {
    const Var& p = params_[i].var;
    if (!p.grad().defined()) return;
    const Tensor& m = momentum_[i];
    DISPATCH(m.device(), axpby(1.0 - config_.momentum, p.grad(), config_.momentum, m));
    Tensor update = p.grad().clone();  // Nesterov: (1-mu) g + mu m
    DISPATCH(m.device(), axpby(config_.momentum, m, 1.0 - config_.momentum, update));
    update = orthogonalise(update, config_.newton_schulz_steps);
    const double ratio = static_cast<double>(p.dim(0)) / static_cast<double>(p.dim(1));
    const double size = lr * std::sqrt(std::max(1.0, ratio));
    DISPATCH(m.device(), axpby(-size, update, 1.0 - lr * config_.weight_decay, p.value()));
  });
}

NamedTensors Muon::state() const {
  NamedTensors out;
  for (size_t i = 0; i < params_.size(); ++i) {
    out.emplace_back(params_[i].name + ".momentum", momentum_[i]);
  }
  return out;
}

void Muon::load_state(const NamedTensors& state) {
  restore("Muon::load_state", state, this->state());
}

double constant_schedule(int64_t step, int64_t warmup) {
  return warmup > 0 ? std::min(1.0, static_cast<double>(step + 1) / static_cast<double>(warmup))
                    : 1.0;
}

double cosine_schedule(int64_t step, int64_t warmup, int64_t total, double floor) {
  if (step < warmup) return constant_schedule(step, warmup);
  const double span = static_cast<double>(std::max<int64_t>(1, total - warmup));
  const double t = std::min(1.0, static_cast<double>(step - warmup) / span);
  return floor + (1.0 - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * t));
}

double trapezoid_schedule(int64_t step, int64_t warmup, int64_t total, int64_t decay) {
  const double rise = constant_schedule(step, warmup);
  const double left = static_cast<double>(std::max<int64_t>(0, total - step));
  return std::min(rise, decay > 0 ? std::min(1.0, left / static_cast<double>(decay)) : 1.0);
}

Ema::Ema(const std::vector<NamedVar>& params, double decay, bool warm_up, int64_t every)
    : params_(params), decay_(decay), warm_up_(warm_up), every_(every) {
  CHECK(every >= 1, "Ema: updates every ", every, " steps, expected at least 1");
  for (const NamedVar& p : params_) averages_.push_back(p.var.value().clone());
}

void Ema::update() {
  const double t = static_cast<double>(updates_++);
  if (updates_ % every_ != 0) return;
  const double decay = warm_up_ ? std::min((1.0 + t) / (10.0 + t), decay_) : decay_;
  std::vector<AdamWTensor> all;
  for (size_t i = 0; i < params_.size(); ++i) {
    all.push_back({params_[i].var.value(), {}, {}, {}, averages_[i]});
  }
  DISPATCH(device_of(params_), adamw_all(all, {}, decay));
}

void Ema::swap() {
  for (size_t i = 0; i < params_.size(); ++i) {
    const Tensor current = params_[i].var.value();
    params_[i].var.set_value(averages_[i]);
    averages_[i] = current;
  }
}

NamedTensors Ema::state() const {
  NamedTensors out{{"ema.updates", scalar(updates_)}};
  for (size_t i = 0; i < params_.size(); ++i) {
    out.emplace_back(params_[i].name + ".ema", averages_[i]);
  }
  return out;
}

void Ema::load_state(const NamedTensors& state) {
  NamedTensors into = this->state();
  restore("Ema::load_state", state, into);
  updates_ = static_cast<int64_t>(into[0].second.item());
}

}  // namespace parlo
