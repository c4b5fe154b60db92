#include "models/t5.h"

#include <cmath>
#include <limits>

#include "tensor/file.h"
#include "tensor/safetensors.h"
#include "tensor/trace.h"

namespace parlo {

T5Config T5Config::from_json(const JsonConfig& json) {
  T5Config c;
  c.vocab_size = json.integer("vocab_size", c.vocab_size);
  c.d_model = json.integer("d_model", c.d_model);
  c.d_kv = json.integer("d_kv", c.d_kv);
  c.d_ff = json.integer("d_ff", c.d_ff);
  c.num_layers = json.integer("num_layers", c.num_layers);
  c.num_heads = json.integer("num_heads", c.num_heads);
  c.relative_attention_num_buckets =
      json.integer("relative_attention_num_buckets", c.relative_attention_num_buckets);
  c.relative_attention_max_distance =
      json.integer("relative_attention_max_distance", c.relative_attention_max_distance);
  c.layer_norm_epsilon = json.number("layer_norm_epsilon", c.layer_norm_epsilon);
  const std::string act = json.text("feed_forward_proj", "relu");
  CHECK(act == "gated-gelu", "T5: feed_forward_proj is ", act,
        ", expected gated-gelu (T5 v1.1); T5 v1.0 is not supported");
  return c;
}

std::string T5Config::to_json() const {
  nlohmann::ordered_json j;
  j["architectures"] = {"T5EncoderModel"};
  j["d_ff"] = d_ff;
  j["d_kv"] = d_kv;
  j["d_model"] = d_model;
  j["feed_forward_proj"] = "gated-gelu";
  j["is_encoder_decoder"] = false;
  j["layer_norm_epsilon"] = layer_norm_epsilon;
  j["model_type"] = "t5";
  j["num_heads"] = num_heads;
  j["num_layers"] = num_layers;
  j["relative_attention_max_distance"] = relative_attention_max_distance;
  j["relative_attention_num_buckets"] = relative_attention_num_buckets;
  j["tie_word_embeddings"] = false;
  j["vocab_size"] = vocab_size;
  return j.dump(2) + "\n";
}

Tensor t5_buckets(int64_t tokens, int64_t buckets, int64_t max_distance) {
  CHECK(buckets >= 4 && buckets % 2 == 0 && max_distance > buckets / 4, "T5: ", buckets,
        " buckets for distances up to ", max_distance,
        ", expected an even number >= 4 and a distance above a quarter of it");
  const int64_t half = buckets / 2, exact = half / 2;
  // In f32, as the reference: at a bucket's edge one rounding decides.
  const auto span =
      static_cast<float>(std::log(static_cast<double>(max_distance) / static_cast<double>(exact)));
  const auto bucket = [&](int64_t distance) {
    if (distance < exact) return distance;
    const float ratio = std::log(static_cast<float>(distance) / static_cast<float>(exact)) / span;
    return std::min(half - 1,
                    exact + static_cast<int64_t>(ratio * static_cast<float>(half - exact)));
  };
  const Tensor out = Tensor::empty({tokens, tokens}, DType::i64);
  for (int64_t query = 0; query < tokens; ++query) {
    for (int64_t key = 0; key < tokens; ++key) {
      out.data<int64_t>()[query * tokens + key] =
          (key > query ? half : 0) + bucket(std::abs(key - query));
    }
  }
  return out;
}

namespace {

Scope attention_scope(const Scope& block) {
  return block / "layer" / 0 / "SelfAttention";
}
Scope feed_forward_scope(const Scope& block) {
  return block / "layer" / 1 / "DenseReluDense";
}

// softmax(q k' + bias) v with the scores stored; q, k, v [B, T, H, D].
Var biased_attention(const Var& q, const Var& k, const Var& v, const Var& bias) {
  const auto heads_first = [](const Var& x) { return permute(x, {0, 2, 1, 3}); };
  const Var scores = matmul(heads_first(q), heads_first(k), false, true);
  return heads_first(matmul(softmax(add(scores, bias)), heads_first(v)));
}

}  // namespace

T5Block::T5Block(const Scope& scope, const T5Config& c)
    : name(scope.prefix()),
      attention_norm(
          (scope / "layer" / 0 / "layer_norm").param("weight", {c.d_model}, Init::ones())),
      feed_forward_norm(
          (scope / "layer" / 1 / "layer_norm").param("weight", {c.d_model}, Init::ones())),
      q(attention_scope(scope) / "q", c.d_model, c.num_heads * c.d_kv, false),
      k(attention_scope(scope) / "k", c.d_model, c.num_heads * c.d_kv, false),
      v(attention_scope(scope) / "v", c.d_model, c.num_heads * c.d_kv, false),
      o(attention_scope(scope) / "o", c.num_heads * c.d_kv, c.d_model, false),
      wi_0(feed_forward_scope(scope) / "wi_0", c.d_model, c.d_ff, false),
      wi_1(feed_forward_scope(scope) / "wi_1", c.d_model, c.d_ff, false),
      wo(feed_forward_scope(scope) / "wo", c.d_ff, c.d_model, false),
      heads(c.num_heads),
      eps(c.layer_norm_epsilon) {}

Var T5Block::operator()(const Var& x, const Var& bias) const {
  const Var n = rms_norm(x, attention_norm, eps);
  const Var a = biased_attention(split_heads(q(n), heads), split_heads(k(n), heads),
                                 split_heads(v(n), heads), bias);
  const Var h = o(join_heads(a), Activation::none, x);
  const Var m = rms_norm(h, feed_forward_norm, eps);
  return wo(glu(Activation::gelu_tanh, wi_0(m), wi_1(m)), Activation::none, h);
}

T5EncoderModel::T5EncoderModel(const T5Config& c, const std::string& embeddings) : config_(c) {
  CHECK(c.vocab_size > 0 && c.d_model > 0 && c.d_kv > 0 && c.d_ff > 0 && c.num_heads > 0,
        "T5: expected positive sizes");
  check_layers("T5", c.num_layers);
  t5_buckets(0, c.relative_attention_num_buckets, c.relative_attention_max_distance);
  const Scope root(params_), encoder = root / "encoder";
  embedding_ = (root / embeddings).param("weight", {c.vocab_size, c.d_model}, Init::normal(1.0));
  blocks_.reserve(static_cast<size_t>(c.num_layers));
  for (int64_t i = 0; i < c.num_layers; ++i) {
    blocks_.emplace_back(encoder / "block" / static_cast<int>(i), c);
  }
  relative_bias_ = (attention_scope(encoder / "block" / 0) / "relative_attention_bias")
                       .param("weight", {c.relative_attention_num_buckets, c.num_heads},
                              Init::normal(1.0 / std::sqrt(static_cast<double>(c.d_model))));
  final_norm_ = (encoder / "final_layer_norm").param("weight", {c.d_model}, Init::ones());
}

Var T5EncoderModel::embed(const Tensor& ids) const {
  CHECK(ids.rank() == 2 && ids.dtype() == DType::i64,
        "T5EncoderModel: input_ids must be [B, T] i64, got ", ids.shape(), " ",
        dtype_name(ids.dtype()));
  return cast(gather_rows(embedding_, ids), DType::f32);
}

Var T5EncoderModel::attention_bias(const Tensor& attention_mask, const Shape& rows) const {
  const int64_t tokens = rows[1];
  const Tensor buckets = t5_buckets(tokens, config_.relative_attention_num_buckets,
                                    config_.relative_attention_max_distance);
  const Var table = cast(relative_bias_, DType::f32);
  const Var bias = reshape(permute(gather_rows(table, buckets), {2, 0, 1}),
                           {1, config_.num_heads, tokens, tokens});
  if (!attention_mask) return bias;
  check_shape("T5EncoderModel", "attention_mask", attention_mask, rows);
  // The lowest number, not -inf: a row without any key has a mean of all of them, as the reference.
  const Var hidden = affine(Var(attention_mask.to(table.value().device()).to(DType::f32)), -1, 1);
  return add(
      bias, reshape(affine(hidden, std::numeric_limits<float>::lowest()), {rows[0], 1, 1, tokens}));
}

T5Output T5EncoderModel::forward(const Var& embeds, const Tensor& attention_mask) const {
  CHECK(embeds.rank() == 3 && embeds.dim(2) == config_.d_model, "T5EncoderModel: embeddings have ",
        "shape ", embeds.shape(), ", expected [B, T, ", config_.d_model, "]");
  const Var bias = attention_bias(attention_mask, {embeds.dim(0), embeds.dim(1)});
  T5Output r;
  Var x = embeds;
  for (const T5Block& block : blocks_) {
    r.hidden_states.push_back(x);
    const TraceRange range(block.name.c_str());
    x = block(x, bias);
  }
  r.last_hidden_state = rms_norm(x, final_norm_, config_.layer_norm_epsilon);
  r.hidden_states.push_back(r.last_hidden_state);
  return r;
}

Linears T5EncoderModel::linears() {
  Linears out;
  for (T5Block& b : blocks_) {
    for (Linear* l : {&b.q, &b.k, &b.v, &b.o, &b.wi_0, &b.wi_1, &b.wo}) out.push_back(l);
  }
  return out;
}

std::unique_ptr<T5EncoderModel> T5EncoderModel::load(const std::filesystem::path& folder,
                                                     const Placement& to) {
  const auto config = T5Config::from_json(JsonConfig(folder / "config.json"));
  // One table under either name, or under both.
  const std::string tied = "encoder.embed_tokens";
  const SafeTensors file = SafeTensors::open_sharded(folder, "model");
  const bool shared = file.contains("shared.weight");
  auto model = std::make_unique<T5EncoderModel>(config, shared ? "shared" : tied);
  model->params_.load(file, folder.string(), stored_by_name(file), to, {tied + ".weight"});
  return model;
}

void T5EncoderModel::save(const std::filesystem::path& folder) const {
  make_folders(folder);
  save_safetensors(folder / "model.safetensors", params_.tensors(), {{"format", "pt"}});
  write_file(folder / "config.json", config_.to_json());
}

}  // namespace parlo
