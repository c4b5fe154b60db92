// What `parlo train` leaves behind, and what it says to bad input, broken files and full disks.
#include "tests/tools/train_bench.h"

using namespace parlo;
using namespace parlo::test;

TEST_CASE("a run leaves adapters, log, pictures and summary") {
  const fs::path run = finished_run();
  CHECK(adapters_of(run).size() == 2 * (4 + 1));
  const auto log = log_of(run);
  CHECK(log.size() == 12 + 1 + 4 + 2 + 2);  // steps; base, experts and merges scored; merges
  for (const int k : {1, 2}) {
    for (const char* expert : {"jpeg_compressibility", "colorfulness"}) {
      for (int step = 1; step <= 3; ++step) {
        const std::string key = concat("step ", k, " ", expert, " ", step);
        INFO(key);
        REQUIRE(log.count(key) == 1);
        const json& j = log.at(key);
        CHECK(j.at("bad_updates") == 0);
        CHECK((j.at("grad_norm") > 0 || j.at("zero_std_groups") == j.at("groups")));
        CHECK(std::abs(j.at("ratio_mean").get<double>() - 1) < 0.1);
        CHECK(j.at("group_size") == 4);
      }
    }
    CHECK(log.at(concat("merge ", k, "  0")).at("delta_norms").size() == 2);
  }
  const json summary = json::parse(read_file(run / "summary.json"));
  CHECK(summary.at("scores").at("merged").size() == 2);
  CHECK(summary.at("hypervolume").contains("iteration_2"));
  CHECK(summary.at("command").get<std::string>().find(" --iterations 2") != std::string::npos);
  CHECK(fs::file_size(run / "samples" / "merged.png") > 100);
  CHECK(read_file(run / "samples" / "prompts.txt").starts_with("row 1, column 1: "));
  CHECK(leftovers(run).empty());
}

TEST_CASE("a base narrowed to bf16 trains other bits, and as exactly") {
  const Workshop& w = workshop();
  REQUIRE(parlo_run(w.train("narrow", {{"--dtype", "bf16"}})).code == 0);
  const auto log = log_of(w.folder / "narrow");
  const json& first = log.at("step 1 colorfulness 1");
  CHECK(std::abs(first.at("ratio_mean").get<double>() - 1) < 0.01);
  CHECK(first.at("bad_updates") == 0);
  CHECK((adapters_of(w.folder / "narrow") != adapters_of(finished_run())));
}

TEST_CASE("a run that computes its blocks again has the same bits") {
  const Workshop& w = workshop();
  std::vector<std::string> args = w.train("recomputed");
  args.push_back("--checkpoint-blocks");
  REQUIRE(parlo_run(args).code == 0);
  CHECK(contains(read_file(w.folder / "recomputed/config.toml"), "checkpoint-blocks=true"));
  CHECK((adapters_of(w.folder / "recomputed") == adapters_of(finished_run())));
}

TEST_CASE("a finished run may be resumed: nothing changes") {
  const fs::path run = copy_of_run("again");
  const auto expected = adapters_of(run);
  const auto log = log_of(run);
  // As if the first part had taken long: its time counts.
  std::string text = read_file(run / "metrics.jsonl");
  const size_t last = text.rfind("\"elapsed\":");
  REQUIRE(last != std::string::npos);
  write_file(run / "metrics.jsonl", text.substr(0, last) + "\"elapsed\":1000}\n");
  CHECK(parlo_run({"train", "--resume", run.string(), "--threads", "1"}).code == 0);
  CHECK((adapters_of(run) == expected));
  check_same_log(run, log);
  CHECK(json::parse(read_file(run / "summary.json")).at("seconds") > 1000);
}

TEST_CASE("a run given relative paths may be resumed from another folder") {
  const Workshop& w = workshop();
  const fs::path run = w.folder / "relative", base = w.base, here = fs::current_path();
  const auto args = w.train("relative", {{"--base", base.filename().string()}, {"--steps", "2"}});
  fs::current_path(base.parent_path());
  const int code = parlo_run(args).code;
  fs::current_path(here);
  CHECK(code == 0);
  CHECK(parlo_run({"train", "--resume", run.string()}).code == 0);
}

TEST_CASE("bad flags: exit code 2 and nothing written") {
  const Workshop& w = workshop();
  const std::string empty = w.folder / "empty.jsonl", torn = w.folder / "torn.jsonl";
  write_file(empty, "\n");
  write_file(torn, "{\"prompt\": \"red circle\"}\n{\"prompt\": \n");
  struct Case {
    std::map<std::string, std::string> flags;
    std::string part;
  };
  const Case cases[] = {
      {{{"--rewards", "beauty"}}, "unknown reward \"beauty\""},
      {{{"--rewards", "colorfulness,colorfulness"}}, "twice"},
      {{{"--train-prompts", empty}}, empty + ": holds no prompts"},
      {{{"--train-prompts", torn}}, torn + ":2"},
      {{{"--train-prompts", "missing.jsonl"}}, "missing.jsonl: cannot be opened"},
      {{{"--train-prompts", "ocr=" + empty}}, "ocr is not among --rewards"},
      {{{"--steps", "0"}}, "0 steps"},
      {{{"--steps", "1"}}, "1 steps"},
      {{{"--steps", "-3"}}, "-3 steps"},
      {{{"--iterations", "0"}}, "iterations is 0"},
      {{{"--rank", "0"}}, "rank is 0"},
      {{{"--group-size", "1"}}, "group size is 1"},
      {{{"--window", "9"}}, "window of 9 steps"},
      {{{"--noise-level", "1.5"}}, "noise level is 1.5"},
      {{{"--lr", "fast"}}, "--lr fast"},
      {{{"--lr", "nan"}}, "learning rate is nan"},
      {{{"--weights", "1"}}, "1 merge weights for 2 rewards"},
      {{{"--eval-count", "0"}}, "--eval-count is 0"},
      {{{"--eval-steps", "0"}}, "evaluation sampler steps is 0"},
      {{{"--device", "cuda:0"}}, "--device cuda:0"},
      {{{"--config", "missing.toml"}}, "missing.toml"},
      {{{"--dtype", "f16"}}, "f16"},
  };
  for (const Case& c : cases) {
    check_refused(parlo_run(w.train("refused", c.flags)), 2, c.part);
    CHECK(!fs::exists(w.folder / "refused"));
  }
  check_refused(parlo_run({"train"}), 2, "--out DIR");
  check_refused(parlo_run({"train", "--resume", w.folder / "nowhere"}), 2, "no run to resume");
  CHECK(!fs::exists(w.folder / "nowhere"));
}

TEST_CASE("a run is not overwritten, and resumed only as it was") {
  const fs::path run = copy_of_run("protected");
  const auto before = adapters_of(run);
  const std::string config = read_file(run / "config.toml");
  check_refused(parlo_run(workshop().train("protected")), 2, "already holds a run");
  check_refused(parlo_run({"train", "--resume", run.string(), "--steps", "9"}), 2, "--steps");
  check_refused(parlo_run({"train", "--resume", run.string(), "--seed", "2"}), 2, "--seed");
  CHECK((adapters_of(run) == before));
  CHECK(read_file(run / "config.toml") == config);
  // Settings edited by hand do not go with checkpoints of another run, nor do torn ones.
  write_file(run / "config.toml", "steps=\"many\"\n");
  check_refused(parlo_run({"train", "--resume", run.string()}), 2, "config.toml");
}

namespace {

// Rewrites a safetensors file with one tensor changed; null drops it.
void change_tensor(const fs::path& file, const std::string& part,
                   const std::function<Tensor(Tensor)>& change) {
  NamedTensors tensors;
  bool done = false;
  {
    const SafeTensors old = SafeTensors::open(file);
    for (const std::string& name : old.names()) {
      Tensor t = old.get(name).clone();
      if (!done && contains(name, part)) {
        done = true;
        if (!change) continue;
        t = change(t);
      }
      tensors.emplace_back(name, t);
    }
  }
  REQUIRE(done);
  save_safetensors(file, tensors, {{"format", "pt"}});
}

}  // namespace

TEST_CASE("a broken base is refused before anything is written") {
  const Workshop& w = workshop();
  const auto broken = [&](const std::string& name, auto change) {
    const fs::path base = w.folder / name;
    fs::copy(w.base, base, fs::copy_options::recursive);
    change(base);
    return parlo_run(w.train("never", {{"--base", base.string()}}));
  };
  const std::string weights = "transformer/diffusion_pytorch_model.safetensors";
  check_refused(broken("base_missing",
                       [&](const fs::path& b) {
                         change_tensor(b / weights, "transformer_blocks.0.attn.to_q.weight", {});
                       }),
                1, "transformer_blocks.0.attn.to_q.weight");
  check_refused(broken("base_nan",
                       [&](const fs::path& b) {
                         change_tensor(b / weights, "proj_out.bias", [](Tensor t) {
                           t.data<float>()[0] = std::nanf("");
                           return t;
                         });
                       }),
                1, "proj_out.bias");
  check_refused(broken("base_shape",
                       [&](const fs::path& b) {
                         change_tensor(b / weights, "proj_out.bias",
                                       [](Tensor) { return Tensor::zeros({5}); });
                       }),
                1, "proj_out.bias is (5)");
  check_refused(broken("base_cut",
                       [&](const fs::path& b) {
                         fs::resize_file(b / weights, fs::file_size(b / weights) / 2);
                       }),
                1, weights);
  check_refused(
      broken("base_no_text", [&](const fs::path& b) { fs::remove_all(b / "text_encoder"); }), 1,
      "text_encoder");
  check_refused(
      broken("base_json",
             [&](const fs::path& b) { write_file(b / "transformer" / "config.json", "{\"a\": "); }),
      1, "config.json");
  check_refused(parlo_run(w.train("never", {{"--base", w.folder / "no_base"}})), 2,
                "no_base does not exist");
  CHECK(!fs::exists(w.folder / "never"));
}

TEST_CASE("a broken checkpoint or adapter is named on resume") {
  const auto broken = [](const std::string& name, auto change) {
    const fs::path run = copy_of_run(name);
    // The second iteration of the first expert is under way.
    fs::remove_all(run / "adapters" / "merged");
    fs::remove_all(run / "adapters" / "iteration_2_jpeg_compressibility");
    change(run);
    const Outcome out = parlo_run({"train", "--resume", run.string()});
    CHECK(!fs::exists(run / "adapters" / "merged"));
    return out;
  };
  const fs::path state = "checkpoints/iteration_2_jpeg_compressibility.safetensors";
  const fs::path adapter = "adapters/iteration_1_colorfulness/adapter_model.safetensors";
  check_refused(
      broken("cut_state",
             [&](const fs::path& r) { fs::resize_file(r / state, fs::file_size(r / state) / 2); }),
      1, state.string());
  check_refused(
      broken("lost_state", [&](const fs::path& r) { change_tensor(r / state, "to_q.lora_A", {}); }),
      1, "to_q.lora_A");
  check_refused(broken("lost_adapter",
                       [&](const fs::path& r) { change_tensor(r / adapter, "to_q.lora_A", {}); }),
                1, "to_q");
  check_refused(broken("nan_adapter",
                       [&](const fs::path& r) {
                         change_tensor(r / adapter, "to_q.lora_A", [](Tensor t) {
                           t.data<float>()[0] = std::nanf("");
                           return t;
                         });
                       }),
                1, "to_q");
  check_refused(
      broken("bad_scores",
             [&](const fs::path& r) { write_file(r / "checkpoints/evals/0_base.json", "{\"a\""); }),
      1, "0_base.json");
}

TEST_CASE("a folder that cannot be written is named") {
  const Workshop& w = workshop();
  write_file(w.folder / "plain_file", "not a folder");
  check_refused(parlo_run(w.train("plain_file/run")), 1, "plain_file");
  CHECK(read_file(w.folder / "plain_file") == "not a folder");
  if (::geteuid() != 0) {  // root may write anywhere
    fs::create_directory(w.folder / "locked");
    fs::permissions(w.folder / "locked", fs::perms::owner_read | fs::perms::owner_exec);
    check_refused(parlo_run(w.train("locked/run")), 1, "permission denied");
  }
}

TEST_CASE("a full disk ends a run in one line, and room lets it go on") {
  const Workshop& w = workshop();
  const auto expected = adapters_of(finished_run());
  // Room for the settings and for some of the log, then for adapters but not for checkpoints.
  for (const rlim_t bytes : {512, 4096, 12000}) {
    const std::string name = concat("limited_", bytes);
    const fs::path run = w.folder / name;
    Limits limits;
    limits.file_bytes = bytes;
    check_refused(parlo_run(w.train(name), -1, limits), 1, "size limit");
    CHECK(leftovers(run).empty());
    CHECK(!fs::exists(run / "summary.json"));
    const bool begun = fs::exists(run / "config.toml");
    const Outcome out =
        begun ? parlo_run({"train", "--resume", run.string()}) : parlo_run(w.train(name));
    INFO(out.err);
    CHECK(out.code == 0);
    CHECK((adapters_of(run) == expected));
    check_same_log(run, log_of(finished_run()));
  }
}

TEST_CASE("no space left on the device") {
  const Workshop& w = workshop();
  Limits limits;
  limits.tmpfs = w.folder / "small";
  fs::create_directory(limits.tmpfs);
  const Outcome out = parlo_run(w.train("small/run"), -1, limits);
  if (out.code == kNoMount) {
    MESSAGE("skipped: no right to mount");
    return;
  }
  check_refused(out, 1, "the disk is full");
}
