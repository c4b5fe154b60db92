// Conditions of prompts against diffusers' pipelines, and what is kept of them.
#include "models/text_conditioning.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "models/sd3_pipeline.h"
#include "tests/models/golden.h"

namespace parlo {
namespace {

using namespace test;
namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

constexpr int64_t kWidth = 36, kSd3Pooled = 28, kFluxPooled = 16;

struct Golden {
  nlohmann::json cases;
  SafeTensors conditioning;
  Strings prompts;

  explicit Golden(const std::string& folder)
      : cases(nlohmann::json::parse(read_file(golden(folder + "/cases.json")))),
        conditioning(SafeTensors::open(golden(folder + "/conditioning.safetensors"))),
        prompts(cases["prompts"].get<Strings>()) {}
};

// Prompts of the fixtures are longer than some encoders read.
TextSettings settings(const fs::path& cache = {}) {
  TextSettings s;
  s.t5_tokens = 24;
  s.cache = cache;
  s.warn = [](const std::string&) {};
  return s;
}

TextConditioning sd3(const fs::path& folder = golden("pipe_sd3"), const fs::path& cache = {}) {
  return {TextRule::sd3, folder, kWidth, kSd3Pooled, settings(cache)};
}

// A copy of SD3's folder without some of its parts.
void copy_without(const fs::path& to, const Strings& parts) {
  fs::copy(golden("pipe_sd3"), to, fs::copy_options::recursive);
  for (const std::string& part : parts) fs::remove_all(to / part);
}

TEST_CASE("SD3: every prompt's condition is the reference's") {
  const Golden g("pipe_sd3_cases");
  TextConditioning text = sd3();
  const Condition c = text.encode(g.prompts);
  CHECK(text.tokens() == c.context.dim(1));
  check_parity("context", c.context, g.conditioning.get("prompt_embeds"));
  check_parity("pooled", c.pooled, g.conditioning.get("pooled"));
  const Condition none = text.encode(Strings{""});
  check_parity("negative", none.context, g.conditioning.get("negative_prompt_embeds"));
  CHECK(same_bits(none.context, c.context.slice(0, 1, 2)));
  const Condition again = sd3().encode(Strings{g.prompts[4]});
  CHECK(same_bits(again.context, c.context.slice(0, 4, 5)));
}

TEST_CASE("SD3: a missing encoder counts as zeros") {
  const Golden g("pipe_sd3_cases");
  const TemporaryFolder folder;
  copy_without(folder / "t5", {"text_encoder_3", "tokenizer_3"});
  const Strings first{g.prompts[0]};
  const Condition whole = sd3().encode(first), no_t5 = sd3(folder / "t5").encode(first);
  check_parity("no T5", no_t5.context, g.conditioning.get("no_t5.prompt_embeds"));
  check_parity("no T5, pooled", no_t5.pooled, g.conditioning.get("no_t5.pooled"));

  copy_without(folder / "clip", {"text_encoder", "tokenizer"});
  TextConditioning t5_alone = sd3(folder / "clip");
  const Condition no_clip = t5_alone.encode(first);
  CHECK(t5_alone.tokens() == no_clip.context.dim(1));
  const Tensor zeros = Tensor::zeros({1, 77, 16}), pooled_zeros = Tensor::zeros({1, 16});
  CHECK(same_bits(no_clip.context.slice(1, 0, 77).slice(2, 0, 16), zeros));
  CHECK(same_bits(no_clip.context.slice(2, 16, kWidth), whole.context.slice(2, 16, kWidth)));
  CHECK(same_bits(no_clip.pooled.slice(1, 0, 16), pooled_zeros));
  CHECK(same_bits(no_clip.pooled.slice(1, 16, 28), whole.pooled.slice(1, 16, 28)));

  copy_without(folder / "alone", {"text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"});
  const Condition alone = sd3(folder / "alone").encode(first);
  CHECK(same_bits(alone.context.slice(1, 77, 101), whole.context.slice(1, 77, 101)));
  CHECK(same_bits(alone.pooled, Tensor::zeros({1, 28})));
}

TEST_CASE("FLUX: every prompt's condition is the reference's") {
  const Golden g("pipe_flux_cases");
  TextConditioning text(TextRule::flux, golden("pipe_flux"), kWidth, kFluxPooled, settings());
  const Condition c = text.encode(g.prompts);
  CHECK(text.tokens() == c.context.dim(1));
  check_parity("context", c.context, g.conditioning.get("prompt_embeds"));
  check_parity("pooled", c.pooled, g.conditioning.get("pooled"));
}

TEST_CASE("a prompt that is not read to its end is told once") {
  Strings told;
  TextSettings s = settings();
  s.warn = [&](const std::string& line) { told.push_back(line); };
  TextConditioning text(TextRule::sd3, golden("pipe_sd3"), kWidth, kSd3Pooled, s);
  std::string longer;
  for (int i = 0; i < 60; ++i) longer += "red circle ";
  text.encode(Strings{"red circle", longer, longer});
  REQUIRE(told.size() == 3);
  CHECK(contains(told[0], "text_encoder reads 75 of a prompt's 120 tokens"));
  CHECK(contains(told[1], "text_encoder_2 reads 75"));
  CHECK(contains(told[2], "text_encoder_3 reads 23"));
  CHECK(contains(told[2], "circle red circle\""));
  CHECK(text.warnings() == told);
  const std::string added = longer + "<extra_id_7>";
  text.encode(Strings{added});
  CHECK(contains(told.back(), "the added token <extra_id_7>"));
  s.warn = nullptr;
  TextConditioning silent(TextRule::sd3, golden("pipe_sd3"), kWidth, kSd3Pooled, s);
  CHECK(contains(message_of([&] { silent.encode(Strings{added}); }), "<extra_id_7>"));
  silent.encode(Strings{longer});
  CHECK(silent.warnings().size() == 3);
}

TEST_CASE("conditions on disk: the same bits, for one model and prompt") {
  const TemporaryFolder folder;
  const fs::path cache = folder / "cache", model = folder / "model";
  copy_without(model, {});
  const Strings prompts{"red circle", "", "a \"sign\"\n\u00e9"};
  const auto files = [&] {
    return std::distance(fs::directory_iterator(cache), fs::directory_iterator());
  };
  const Condition fresh = sd3(model).encode(prompts);
  const Condition stored = sd3(model, cache).encode(prompts);
  CHECK(files() == 3);
  CHECK(same_bits(stored.context, fresh.context));
  CHECK(same_bits(stored.pooled, fresh.pooled));

  // What is on disk is what comes back.
  for (const auto& entry : fs::directory_iterator(cache)) {
    const SafeTensors file = SafeTensors::open(entry.path());
    save_safetensors(entry.path(),
                     {{"context", Tensor::full(file.get("context").shape(), 7)},
                      {"pooled", Tensor::full(file.get("pooled").shape(), 8)}},
                     file.metadata());
  }
  CHECK(sd3(model, cache).encode(prompts).pooled.to_vector()[0] == 8);

  // A damaged file is made anew, and another model has files of its own.
  for (const auto& entry : fs::directory_iterator(cache)) {
    std::ofstream(entry.path(), std::ios::trunc) << "x";
  }
  CHECK(same_bits(sd3(model, cache).encode(prompts).pooled, fresh.pooled));
  fs::last_write_time(model / "text_encoder/model.safetensors", fs::file_time_type::clock::now());
  sd3(model, cache).encode(Strings{""});
  CHECK(files() == 4);
}

TEST_CASE("prepared prompts need no encoder any more") {
  const TemporaryFolder folder;
  const fs::path model = folder / "model";
  copy_without(model, {});
  const Strings prompts{"red circle", "a sign"};
  TextConditioning text = sd3(model);
  text.prepare(prompts);
  fs::remove(model / "text_encoder_3/model.safetensors");
  CHECK(same_bits(text.encode(prompts).context, sd3().encode(prompts).context));
  CHECK(contains(message_of([&] { text.encode(Strings{"blue"}); }), "model.safetensors"));
}

TEST_CASE("a tower alone gives its own states") {
  const GoldenCase c("clip_text_b");
  const std::shared_ptr<ClipTextModel> encoder = ClipTextModel::load(c.folder);
  const auto tokenizer = std::make_shared<ClipTokenizer>(ClipTokenizer(build_clip_vocab({"red"})));
  ClipTowerConfig config = encoder->tower().config();
  config.vocab_size = tokenizer->size();
  const auto model = std::make_shared<ClipTextModel>(config, true);
  model->params().initialise(RandomKey(4));
  TextConditioning text(model, tokenizer);
  const Condition out = text.encode(Strings{"red"});
  CHECK(text.tokens() == out.context.dim(1));
  const NoGrad guard;
  const Tensor ids = tokenizer->encode_batch({"red"}, config.max_position_embeddings);
  const ClipTextOutput o = model->tower().forward(model->tower().embed(ids), ids);
  CHECK(same_bits(out.context, o.hidden_states[config.num_hidden_layers - 1].value()));
  CHECK(same_bits(out.pooled, o.text_embeds.value()));
}

TEST_CASE("a folder whose parts do not fit is refused") {
  const TemporaryFolder folder;
  const auto message = [&](TextRule rule, int64_t width, int64_t pooled) {
    return message_of(
        [&] { TextConditioning(rule, golden("pipe_sd3"), width, pooled, settings()); });
  };
  CHECK(message(TextRule::sd3, kWidth, kSd3Pooled).empty());
  CHECK(contains(message(TextRule::sd3, 40, kSd3Pooled), "joint_attention_dim = 40"));
  CHECK(contains(message(TextRule::flux, kWidth, kFluxPooled), "feed_forward_proj"));
  TextConditioning narrow(TextRule::sd3, golden("pipe_sd3"), kWidth, 20, settings());
  CHECK(contains(message_of([&] { narrow.encode(Strings{"red"}); }), "pooled_projection_dim = 20"));
  CHECK(contains(message_of([&] { sd3(folder.path()); }), "a text encoder is missing"));
}

}  // namespace
}  // namespace parlo
