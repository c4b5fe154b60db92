// The image autoencoder against diffusers, whole and in tiles; gradients against finite
// differences, tiles against plain loops, files of every kind of names, what must hold to the bit,
// and what bad files are told.
#include <set>

#include "models/autoencoder_kl.h"
#include "models/tiling.h"
#include "tensor/allocator.h"
#include "tensor/file.h"
#include "tensor/parallel.h"
#include "tests/models/golden.h"

namespace parlo {
namespace {

using namespace test;

constexpr int64_t kDown = 4;  // of the tiny autoencoder

std::unique_ptr<AutoencoderKl> random_vae(const AutoencoderKlConfig& config = tiny_vae(),
                                          DType dtype = DType::f32) {
  auto model = std::make_unique<AutoencoderKl>(config);
  model->params().initialise(RandomKey(5));
  for (const NamedVar& p : model->params().vars()) {
    // Biases away from their zeros, so that one that is forgotten shows.
    const Tensor noise = random_tensor(p.var.shape(), 6, DType::f32, 0.1);
    const Tensor value = p.var.value().rank() == 1 ? add(p.var, Var(noise)).value() : p.var.value();
    p.var.state()->value = value.to(dtype);
  }
  return model;
}

AutoencoderKlConfig with_quant_convs() {
  AutoencoderKlConfig c = tiny_vae();
  c.use_quant_conv = c.use_post_quant_conv = true;
  return c;
}

Var decode_latents(const AutoencoderKl& model, const Var& latents) {
  return model.decode(model.unscaled(latents));
}

// Bytes of a picture [B, H, W, 3].
std::vector<double> to_bytes(const Var& sample) {
  std::vector<double> bytes = permute(sample, {0, 2, 3, 1}).value().contiguous().to_vector();
  for (double& v : bytes) v = std::nearbyint(255 * std::clamp(v / 2 + 0.5, 0.0, 1.0));
  return bytes;
}

void check_weights(const AutoencoderKl& model, const std::string& file) {
  const SafeTensors expected = SafeTensors::open(golden(file));
  for (const std::string& name : expected.names()) {
    // A bias in front of a norm of single channels has gradient 0: what is left of terms near 30.
    const Tensor e = expected.get(name);
    check_parity(name, model.params().at(name).grad(), e, e.rank() == 1 ? 1.0 : 1e-3);
  }
}

TEST_CASE("latents, images and gradients are the reference's, whole and in tiles") {
  for (const std::string vae : {"vae_a", "vae_b"}) {
    for (const std::string tiled : {"", "tiled_"}) {
      INFO(vae, " ", tiled);
      const auto model = AutoencoderKl::load(golden(vae));
      model->params().set_requires_grad(tiled.empty());
      model->tiling = !tiled.empty();
      const std::string encode = vae + "/" + tiled + "encode",
                        decode = vae + "/" + tiled + "decode";
      const GoldenCase e(encode), d(decode);

      const Var images = e.input("sample");
      const ZDistribution z = model->encode(images);
      const Var latents = model->scaled(z.mean);
      check_parity("latents", latents.value(), e.outputs.get("latents"));
      check_parity("mean", z.mean.value(), e.outputs.get("mean"));
      check_parity("logvar", z.logvar.value(), e.outputs.get("logvar"));
      backward(latents, e.inputs.get("grad_output"));
      check_parity("images", images.grad(), e.outputs.get("grad.sample"));
      if (tiled.empty()) check_weights(*model, encode + "/parameter_grads.safetensors");

      const Var given = d.input("latents");
      const Var sample = decode_latents(*model, given);
      check_parity("sample", sample.value(), d.outputs.get("sample"));
      CHECK(to_bytes(sample) == d.outputs.get("image").to_vector());
      backward(sample, d.inputs.get("grad_output"));
      check_parity("latents", given.grad(), d.outputs.get("grad.latents"));
      if (tiled.empty()) check_weights(*model, decode + "/parameter_grads.safetensors");
    }
  }
}

double weighted_sum(const Var& y, const Tensor& dy) {
  return sum(mul(y, Var(dy))).value().item();
}

// d(sum(f(x) dy))/dx against central differences along random directions, in f64.
template <class Fn>
void check_gradient(const Fn& f, const Tensor& at) {
  const Var x(at, true);
  const Var y = f(x);
  const Tensor dy = random_tensor(y.shape(), 31).to(DType::f64);
  backward(y, dy);
  for (uint32_t seed = 41; seed < 45; ++seed) {
    const Var direction(random_tensor(at.shape(), seed).to(DType::f64));
    const double expected = sum(mul(Var(x.grad()), direction)).value().item();
    const NoGrad guard;
    const double h = 1e-5;
    const auto moved = [&](double step) {
      return weighted_sum(f(add(Var(at), affine(direction, step))), dy);
    };
    const double numeric = (moved(h) - moved(-h)) / (2 * h);
    CHECK(std::abs(numeric - expected) <= 1e-7 * std::max(1.0, std::abs(expected)));
  }
}

TEST_CASE("gradients of images and latents are the finite differences") {
  for (bool tiling : {false, true}) {
    INFO("tiling ", tiling);
    const auto model = random_vae(with_quant_convs(), DType::f64);
    model->tiling = tiling;
    const int64_t side = tiling ? 44 : 12;
    const Tensor images = random_tensor({1, 3, side, 16}, 1).to(DType::f64);
    check_gradient(
        [&](const Var& x) {
          const ZDistribution z = model->encode(x);
          return cat(std::vector<Var>{model->scaled(z.mean), z.logvar}, 1);
        },
        images);
    const Tensor latents = random_tensor({2, 4, side / kDown, 3}, 2).to(DType::f64);
    check_gradient([&](const Var& x) { return decode_latents(*model, x); }, latents);
  }
}

TEST_CASE("sizes, scaling and the clamp of logvar") {
  const NoGrad guard;
  const auto model = random_vae();
  const ZDistribution z = model->encode(Var(random_tensor({2, 3, 20, 34}, 1)));
  CHECK((z.mean.shape() == Shape{2, 4, 5, 8}));  // 34 / 4, the rest is cut off
  CHECK(z.logvar.shape() == z.mean.shape());
  CHECK((model->decode(z.mean).shape() == Shape{2, 3, 20, 32}));
  const Tensor latents = model->scaled(z.mean).value();
  for (size_t i = 0; i < 3; ++i) {
    CHECK(latents.to_vector()[i] ==
          doctest::Approx((z.mean.value().to_vector()[i] - 0.1) * 1.5).epsilon(1e-5));
  }
  check_close(model->unscaled(Var(latents)).value(), z.mean.value(), 1e-5);
  const Var bias = model->params().at("encoder.conv_out.bias");
  bias.state()->value = Tensor::from<float>({0, 0, 0, 0, 100, -100, 0, 0}, {8});
  const Tensor logvar = model->encode(Var(random_tensor({1, 3, 8, 8}, 1))).logvar.value();
  const std::vector<double> high = logvar.select(1, 0).to_vector(),
                            low = logvar.select(1, 1).to_vector();
  CHECK((high == std::vector<double>(4, 20.0)));
  CHECK((low == std::vector<double>(4, -30.0)));
}

TEST_CASE("a draw is mean + deviation * normal, and keyed") {
  const ZDistribution z{Var(Tensor::full({1, 4, 32, 32}, 2.0)),
                        Var(Tensor::full({1, 4, 32, 32}, std::log(9.0)))};
  const Tensor a = AutoencoderKl::draw(z, RandomKey(1)).value();
  CHECK(same_bits(a, AutoencoderKl::draw(z, RandomKey(1)).value()));
  CHECK(!same_bits(a, AutoencoderKl::draw(z, RandomKey(2)).value()));
  double sum = 0, squares = 0;
  const std::vector<double> values = a.to_vector();
  for (double v : values) sum += v, squares += (v - 2) * (v - 2);
  const double n = static_cast<double>(values.size());
  CHECK(sum / n == doctest::Approx(2).epsilon(0.1));
  CHECK(std::sqrt(squares / n) == doctest::Approx(3).epsilon(0.05));
}

TEST_CASE("an image has the same bits alone and in a batch, for any number of threads") {
  const NoGrad guard;
  const auto model = random_vae();
  const Var images(random_tensor({3, 3, 24, 16}, 1)), z(random_tensor({3, 4, 6, 9}, 2));
  const Tensor mean = model->encode(images).mean.value(), decoded = model->decode(z).value();
  for (int threads : {1, 2, 3}) {
    set_num_threads(threads);
    for (int64_t b = 0; b < 3; ++b) {
      CHECK(same_bits(model->encode(slice(images, 0, b, b + 1)).mean.value(),
                      mean.slice(0, b, b + 1)));
      CHECK(same_bits(model->decode(slice(z, 0, b, b + 1)).value(), decoded.slice(0, b, b + 1)));
    }
  }
  set_num_threads(2);
}

TEST_CASE("checkpointed blocks give the same bits") {
  const auto model = random_vae(with_quant_convs());
  const auto gradients = [&](bool checkpointed) {
    model->checkpoint_blocks = checkpointed;
    const Var z(random_tensor({1, 4, 6, 5}, 2), true), x(random_tensor({1, 3, 8, 12}, 3), true);
    const Var image = model->decode(z), mean = model->encode(x).mean;
    backward(image, random_tensor(image.shape(), 4));
    backward(mean, random_tensor(mean.shape(), 5));
    return std::vector<Tensor>{image.value(), mean.value(), z.grad(), x.grad()};
  };
  const std::vector<Tensor> plain = gradients(false), again = gradients(true);
  for (size_t i = 0; i < plain.size(); ++i) CHECK(same_bits(plain[i], again[i]));
}

TEST_CASE("decoding without gradients holds a few activations at a time") {
  const NoGrad guard;
  const auto model = random_vae();
  const Var z(random_tensor({1, 4, 32, 32}, 2));
  const int64_t before = cpu_memory::stats().current_bytes;
  cpu_memory::reset_peak();
  model->decode(z);
  const int64_t most = cpu_memory::stats().peak_bytes - before;
  const int64_t widest = 16 * 128 * 128 * 4;  // the input of the last level
  const int64_t windows = 9 * widest;         // im2col of a whole image, at most
  CHECK(most < 4 * widest + windows);
  CHECK(cpu_memory::stats().current_bytes == before);
}

TEST_CASE("wide attention is the plain formula, also where scores are made in parts") {
  const int64_t tokens = 4400;  // 2^24 / 4400 = 3813 queries at a time
  const Var q(random_tensor({1, tokens, 2}, 1)), k(random_tensor({1, tokens, 2}, 2)),
      v(random_tensor({1, tokens, 2}, 3));
  const NoGrad guard;
  const std::vector<double> y = wide_attention(q, k, v).value().to_vector();
  const std::vector<double> qs = q.value().to_vector(), ks = k.value().to_vector(),
                            vs = v.value().to_vector();
  for (const size_t i : {size_t{0}, size_t{3812}, size_t{3813}, size_t{4399}}) {
    double total = 0, a = 0, b = 0;
    for (size_t j = 0; j < static_cast<size_t>(tokens); ++j) {
      const double w =
          std::exp((qs[2 * i] * ks[2 * j] + qs[2 * i + 1] * ks[2 * j + 1]) * std::sqrt(0.5));
      total += w, a += w * vs[2 * j], b += w * vs[2 * j + 1];
    }
    CHECK(y[2 * i] == doctest::Approx(a / total).epsilon(1e-4));
    CHECK(y[2 * i + 1] == doctest::Approx(b / total).epsilon(1e-4));
  }
}

// diffusers' tiled_decode on plain arrays, for a map that doubles the size and knows its tile.
TEST_CASE("tiles are blended with what is above, then with what is to the left") {
  const NoGrad guard;
  const int64_t h = 9, w = 11, tile = 4, stride = 3, blend = 2, keep = 6;
  const Var x(random_tensor({1, 1, h, w}, 1));
  double nth = 0;
  const auto fn = [&](const Var& t) {
    nth += 10;
    return affine(resize(t, {2 * t.dim(2), 2 * t.dim(3)}, {}), 1, nth);
  };
  const Tensor y = map_tiles(x, {tile, stride, blend, keep}, fn).value();
  CHECK((y.shape() == Shape{1, 1, 2 * h, 2 * w}));
  const std::vector<double> in = x.value().to_vector(), out = y.to_vector();
  const int64_t columns = (w + stride - 1) / stride;
  const auto raw = [&](int64_t i, int64_t j, int64_t r, int64_t c) {  // element r, c of tile i, j
    return in[static_cast<size_t>((i * stride + r / 2) * w + j * stride + c / 2)] +
           10.0 * static_cast<double>(i * columns + j + 1);
  };
  const std::function<double(int64_t, int64_t, int64_t, int64_t)> blended =
      [&](int64_t i, int64_t j, int64_t r, int64_t c) {
        const auto down = [&](int64_t jj, int64_t cc) {
          if (i == 0 || r >= blend) return raw(i, jj, r, cc);
          const double t = static_cast<double>(r) / static_cast<double>(blend);
          return blended(i - 1, jj, r + keep, cc) * (1 - t) + raw(i, jj, r, cc) * t;
        };
        if (j == 0 || c >= blend) return down(j, c);
        const double t = static_cast<double>(c) / static_cast<double>(blend);
        return blended(i, j - 1, r, c + keep) * (1 - t) + down(j, c) * t;
      };
  for (int64_t r = 0; r < 2 * h; ++r) {
    for (int64_t c = 0; c < 2 * w; ++c) {
      CHECK(out[static_cast<size_t>(r * 2 * w + c)] ==
            doctest::Approx(blended(r / keep, c / keep, r % keep, c % keep)).epsilon(1e-5));
    }
  }
}

TEST_CASE("images within one tile are not cut") {
  const NoGrad guard;
  const auto model = random_vae();
  const Var z(random_tensor({1, 4, 8, 8}, 2)), wide(random_tensor({1, 4, 8, 12}, 2));
  const Tensor plain = model->decode(z).value(), plain_wide = model->decode(wide).value();
  model->tiling = true;
  CHECK(same_bits(model->decode(z).value(), plain));
  const Tensor tiled = model->decode(wide).value();
  CHECK(tiled.shape() == plain_wide.shape());
  CHECK(!same_bits(tiled, plain_wide));
}

// What a tensor of ours is called by the original repositories; LDM's up levels count backwards.
std::string original_name(std::string name) {
  const auto replace = [&name](const std::string& from, const std::string& to) {
    const size_t at = name.find(from);
    if (at != std::string::npos) name.replace(at, from.size(), to);
  };
  const int64_t levels = tiny_vae().levels();
  for (int64_t i = 0; i < levels; ++i) {
    const std::string n = std::to_string(i);
    replace("up_blocks." + n, "up." + std::to_string(levels - 1 - i));
    replace("down_blocks." + n, "down." + n);
  }
  replace("mid_block.resnets.0", "mid.block_1"), replace("mid_block.resnets.1", "mid.block_2");
  replace("resnets", "block"), replace("downsamplers.0", "downsample");
  replace("upsamplers.0", "upsample"), replace("conv_shortcut", "nin_shortcut");
  replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm");
  replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out");
  replace("mid_block.attentions.0.to_", "mid.attn_1."), replace("conv_norm_out", "norm_out");
  return name;
}

NamedTensors original_tensors(const AutoencoderKl& model, const std::string& prefix) {
  NamedTensors out;
  for (auto [name, t] : model.params().tensors()) {
    if (t.rank() == 2) t = t.view({t.dim(0), t.dim(1), 1, 1});
    out.emplace_back(prefix + original_name(name), t);
  }
  return out;
}

TEST_CASE("files of the original names, alone or within a whole model's, are read") {
  const TemporaryFolder folder;
  const auto model = random_vae(with_quant_convs());
  const Var z(random_tensor({1, 4, 4, 4}, 2)), x(random_tensor({1, 3, 8, 8}, 2));
  for (const std::string prefix : {"", "first_stage_model.", "vae."}) {
    INFO("prefix ", prefix);
    NamedTensors tensors = original_tensors(*model, prefix);
    if (!prefix.empty()) tensors.emplace_back("model.diffusion_model.x", Tensor::zeros({2}));
    save_safetensors(folder / "ae.safetensors", tensors);
    const auto again = AutoencoderKl::load_file(folder / "ae.safetensors", model->config());
    const NoGrad guard;
    CHECK(same_bits(again->decode(z).value(), model->decode(z).value()));
    CHECK(same_bits(again->encode(x).mean.value(), model->encode(x).mean.value()));
  }
  CHECK(autoencoder_kl_name("decoder.up.0.block.2.nin_shortcut.bias", 4) ==
        "decoder.up_blocks.3.resnets.2.conv_shortcut.bias");
  CHECK(autoencoder_kl_name("encoder.down.1.downsample.conv.weight", 4) ==
        "encoder.down_blocks.1.downsamplers.0.conv.weight");
  CHECK(autoencoder_kl_name("encoder.mid_block.attentions.0.proj_attn.weight", 4) ==
        "encoder.mid_block.attentions.0.to_out.0.weight");
  CHECK(autoencoder_kl_name("decoder.up.7.block.0.conv1.bias", 4) ==
        "decoder.up.7.block.0.conv1.bias");
}

TEST_CASE("diffusers' names stay what they are, and a saved model is read back to the bit") {
  const TemporaryFolder folder;
  const auto model = random_vae(with_quant_convs());
  for (const auto& [name, t] : model->params().tensors()) {
    CHECK(autoencoder_kl_name(name, model->config().levels()) == name);
  }
  model->save(folder.path());
  const auto again = AutoencoderKl::load(folder.path());
  CHECK(again->config().to_json() == model->config().to_json());
  const Var z(random_tensor({1, 4, 4, 4}, 2));
  const NoGrad guard;
  CHECK(same_bits(again->decode(z).value(), model->decode(z).value()));
}

TEST_CASE("the presets have the published sizes") {
  // SD3.5's vae/ holds 83 819 683 elements, as does FLUX's ae.safetensors.
  for (const AutoencoderKlConfig& c : {sd3_vae(), flux_vae()}) {
    CHECK(AutoencoderKl(c).params().count() == 83819683);
    CHECK(c.downscale() == 8);
  }
}

TEST_CASE("a checkpoint or configuration that does not fit is refused with every offender") {
  const TemporaryFolder folder;
  const auto model = random_vae();
  NamedTensors tensors = original_tensors(*model, "");
  const std::string dropped = model->params().tensors().back().first;
  tensors.pop_back();
  tensors[3].second = Tensor::zeros({1, 2, 3});
  tensors.emplace_back("encoder.down.0.block.9.surplus", Tensor::zeros({2}));
  const std::string twice = "encoder.down_blocks.0.resnets.0.norm1.weight";
  tensors.emplace_back(twice, Tensor::zeros({8}));
  save_safetensors(folder / "diffusion_pytorch_model.safetensors", tensors);
  write_file(folder / "config.json", model->config().to_json());
  const std::string message = message_of([&] { AutoencoderKl::load(folder.path()); });
  for (const std::string& part :
       {dropped, model->params().tensors()[3].first, "given twice (1): " + twice,
        std::string("encoder.down_blocks.0.resnets.9.surplus")}) {
    INFO(part, " in ", message);
    CHECK(contains(message, part));
  }
  CHECK(!contains(message, "\n"));
  const auto refused = [&](const std::string& json, const std::string& part) {
    write_file(folder / "config.json", json);
    const std::string m =
        message_of([&] { AutoencoderKlConfig::from_json(folder / "config.json"); });
    INFO(m);
    CHECK(contains(m, part));
  };
  refused(R"({"act_fn": "relu"})", "act_fn is \"relu\"");
  refused(R"({"up_block_types": ["AttnUpDecoderBlock2D"]})", "AttnUpDecoderBlock2D");
  refused(R"({"up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"]})", "has 2 entries");
  refused(R"({"latents_mean": [0.0]})", "latents_mean");
  refused(R"({"use_quant_conv": 1})", "use_quant_conv is 1");
  refused(R"({"scaling_factor": 0})", "scaling_factor is 0");
  CHECK(contains(message_of([&] { model->decode(Var(Tensor::zeros({1, 3, 2, 2}))); }), "[B, 4"));
  CHECK(contains(message_of([&] {
                   model->encode(Var(Tensor::zeros({1, 3, 3, 8})));
                 }),
                 "at least 4"));
  AutoencoderKlConfig odd = tiny_vae();
  odd.norm_num_groups = 3;
  CHECK(contains(message_of([&] { AutoencoderKl m(odd); }), "norm_num_groups = 3"));
}

}  // namespace
}  // namespace parlo
