#include "tensor/safetensors.h"

#include <cstring>
#include <fstream>

#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;
namespace fs = std::filesystem;

namespace {

// A file of the given header and data, with the length field as the format wants it.
std::string raw_file(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  return out + header + data;
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape +
         "],\"data_offsets\":[" + offsets + "]}";
}

NamedTensors every_dtype() {
  NamedTensors out;
  for (DType t : {DType::f64, DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32}) {
    out.emplace_back(concat("w.", dtype_name(t)), random_tensor({3, 5}, 1, t, 10));
  }
  out.emplace_back("w.u8", Tensor::from(std::vector<uint8_t>{1, 2, 255}, {3}));
  out.emplace_back("empty", Tensor::zeros({0, 4}));
  out.emplace_back("scalar", Tensor::full({}, 2.5));
  out.emplace_back("quoted \"\\ \xc3\xa9", Tensor::full({1}, 7));
  return out;
}

struct Hostile {
  const char* what;
  std::string content;
  const char* reason;
};

std::vector<Hostile> hostile_files() {
  const std::string four(4, 'x'), eight(8, 'x');
  const auto one = [&](const std::string& dtype, const std::string& shape,
                       const std::string& offsets, const std::string& data) {
    return raw_file("{" + entry("w", dtype, shape, offsets) + "}", data);
  };
  const std::string ok = one("F32", "1", "0,4", four);
  const std::string huge_length = [] {
    std::string s = raw_file("{}", "");
    s[7] = 0x7f;
    return s;
  }();
  return {
      {"empty file", "", "has 0 bytes"},
      {"five bytes", "12345", "has 5 bytes"},
      {"header length beyond the file", ok.substr(0, 20), "exceeds the file"},
      {"absurd header length", huge_length, "exceeds the limit"},
      {"header length 0", raw_file("", ""), "does not start with '{'"},
      {"not JSON", raw_file("{nonsense", ""), "bad JSON"},
      {"JSON cut short", raw_file("{\"w\":", ""), "bad JSON"},
      {"bytes after the JSON", raw_file("{} x", ""), "bad JSON"},
      {"bad UTF-8", raw_file("{\"\xff\":1}", ""), "bad JSON"},
      {"a list", raw_file("[]", ""), "does not start with '{'"},
      {"leading space", raw_file(" {}", ""), "does not start with '{'"},
      {"data cut short", ok.substr(0, ok.size() - 1), "truncated"},
      {"data too long", ok + "x", "cover 4 of 5 bytes"},
      {"entry is a number", raw_file("{\"w\":3}", ""), "not a JSON object"},
      {"entry is a list", raw_file("{\"w\":[]}", ""), "not a JSON object"},
      {"entry is null", raw_file("{\"w\":null}", ""), "not a JSON object"},
      {"no dtype", raw_file("{\"w\":{\"shape\":[],\"data_offsets\":[0,0]}}", ""), "no 'dtype'"},
      {"no shape", raw_file("{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,0]}}", ""),
       "no 'shape'"},
      {"no offsets", raw_file("{\"w\":{\"dtype\":\"F32\",\"shape\":[]}}", ""), "no 'data_offsets'"},
      {"dtype is a number",
       raw_file("{\"w\":{\"dtype\":3,\"shape\":[],\"data_offsets\":[0,0]}}", ""),
       "dtype is not a string"},
      {"F8", one("F8_E4M3", "4", "0,4", four), "F8_E4M3"},
      {"I16", one("I16", "2", "0,4", four), "I16"},
      {"I8", one("I8", "4", "0,4", four), "I8"},
      {"unknown dtype", one("Q4\\n", "4", "0,4", four), "Q4?"},
      {"shape is a number",
       raw_file("{\"w\":{\"dtype\":\"F32\",\"shape\":3,\"data_offsets\":[0,4]}}", four),
       "shape is not a list"},
      {"negative dimension", one("F32", "-1", "0,4", four), "shape holds -1"},
      {"fractional dimension", one("F32", "1.0", "0,4", four), "shape holds 1.0"},
      {"text dimension", one("F32", "\"1\"", "0,4", four), "shape holds \"1\""},
      {"dimension beyond 64 bits", one("F32", "18446744073709551617", "0,4", four), "shape holds"},
      {"dimension 2^63", one("F32", "9223372036854775808", "0,4", four), "overflows"},
      {"product overflows", one("F32", "4294967296,4294967296,4", "0,4", four), "overflows"},
      {"overflow hidden by a zero", one("F32", "0,4294967296,4294967296", "0,0", ""), "overflows"},
      {"nine dimensions", one("F32", "1,1,1,1,1,1,1,1,1", "0,4", four), "has 9 dimensions"},
      {"one offset", one("F32", "1", "0", four), "not a pair"},
      {"negative offset", one("F32", "1", "-4,0", four), "data_offsets holds -4"},
      {"end before begin", one("F32", "1", "4,0", four), "outside"},
      {"out of range", one("F32", "1", "0,400", four), "outside"},
      {"begin out of range", one("F32", "0", "4000,4000", ""), "outside"},
      {"too few bytes", one("F32", "2", "0,4", four), "needs 8"},
      {"too many bytes", one("F32", "1", "0,8", eight), "needs 4"},
      {"overlap",
       raw_file("{" + entry("v", "F32", "1", "0,4") + "," + entry("w", "F32", "1", "2,6") + "}",
                "123456"),
       "overlaps"},
      {"the same range twice",
       raw_file("{" + entry("v", "F32", "1", "0,4") + "," + entry("w", "F32", "1", "0,4") + "}",
                four),
       "overlaps"},
      {"hole at the start", one("F32", "1", "4,8", eight), "hole of 4"},
      {"hole between",
       raw_file("{" + entry("v", "U8", "2", "0,2") + "," + entry("w", "U8", "2", "6,8") + "}",
                eight),
       "hole of 4"},
      {"duplicate name",
       raw_file("{" + entry("w", "F32", "1", "0,4") + "," + entry("w", "F32", "1", "4,8") + "}",
                eight),
       "duplicate name 'w'"},
      {"duplicate key in an entry",
       raw_file(
           "{\"w\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
           four),
       "duplicate name 'dtype'"},
      {"metadata is a list", raw_file("{\"__metadata__\":[]}", ""), "__metadata__ is not"},
      {"metadata value is a number", raw_file("{\"__metadata__\":{\"a\":1}}", ""), "not a string"},
      {"deep nesting", raw_file("{\"w\":" + std::string(100000, '['), ""), "bad JSON"},
  };
}

// Touches every byte a file offers; what hostile bytes must never turn into a crash.
size_t read_everything(const std::string& path) {
  const SafeTensors file = SafeTensors::open(path);
  size_t bytes = 0;
  volatile unsigned sum = 0;
  for (const std::string& name : file.names()) {
    const Tensor t = file.get(name);
    const auto* p = static_cast<const unsigned char*>(t.raw());
    for (size_t i = 0; i < t.nbytes(); ++i) sum = sum + p[i];
    bytes += t.nbytes();
  }
  return bytes;
}

}  // namespace

TEST_CASE("every dtype comes back bit for bit") {
  TemporaryFolder folder;
  const std::string path = folder / "m.safetensors";
  const NamedTensors tensors = every_dtype();
  save_safetensors(path, tensors, {{"format", "pt"}, {"a", "b\n\"c"}});
  const SafeTensors file = SafeTensors::open(path);
  CHECK(file.size() == tensors.size());
  CHECK((file.metadata() == std::map<std::string, std::string>{{"format", "pt"}, {"a", "b\n\"c"}}));
  for (const auto& [name, t] : tensors) {
    INFO(name);
    REQUIRE(file.contains(name));
    const Tensor back = file.get(name);
    CHECK(back.dtype() == t.dtype());
    CHECK(back.shape() == t.shape());
    CHECK(std::memcmp(back.raw(), t.raw(), t.nbytes()) == 0);
    // What we write is aligned, so nothing is copied.
    if (t.nbytes() > 0) CHECK(back.read_only());
  }
  CHECK(file.names().front() == "empty");
  CHECK(contains(message_of([&] { file.get("nothing"); }), "no tensor named 'nothing'"));
}

TEST_CASE("equal input gives equal bytes, in any order and layout") {
  TemporaryFolder folder;
  NamedTensors tensors = every_dtype();
  save_safetensors(folder / "a", tensors);
  std::reverse(tensors.begin(), tensors.end());
  for (auto& [name, t] : tensors) {
    if (t.rank() == 2) t = t.transpose(0, 1).contiguous().transpose(0, 1);
  }
  save_safetensors(folder / "b", tensors);
  const std::string bytes = read_file(folder / "a");
  CHECK(bytes == read_file(folder / "b"));
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  CHECK(length % 8 == 0);
}

TEST_CASE("a tensor outlives the file object and a view needs no copy") {
  TemporaryFolder folder;
  save_safetensors(folder / "a", {{"w", Tensor::full({100}, 3)}});
  Tensor t;
  {
    const SafeTensors file = SafeTensors::open(folder / "a");
    t = file.get("w");
    CHECK(t.raw() == file.get("w").raw());
  }
  CHECK(t.to_vector() == std::vector<double>(100, 3));
}

TEST_CASE("misaligned tensors are copied, BOOL is read as u8") {
  TemporaryFolder folder;
  const std::string values("\x01\0\0\0\x80\x3f\0\0\0\x40", 10);
  // Header of odd length: the f32 starts at an odd address.
  std::string header = "{" + entry("b", "BOOL", "2", "0,2") + "," + entry("w", "F32", "2", "2,10");
  header += "}";
  if ((8 + header.size() + 2) % 4 == 0) header += " ";
  write_file(folder / "a", raw_file(header, values));
  const SafeTensors file = SafeTensors::open(folder / "a");
  CHECK((file.get("w").to_vector() == std::vector<double>{1, 2}));
  CHECK(!file.get("w").read_only());
  CHECK(file.get("b").dtype() == DType::u8);
  CHECK((file.get("b").to_vector() == std::vector<double>{1, 0}));
}

TEST_CASE("malformed files are refused in one line with file, tensor and reason") {
  TemporaryFolder folder;
  const std::string path = folder / "bad.safetensors";
  for (const Hostile& h : hostile_files()) {
    write_file(path, h.content);
    const std::string message = message_of([&] { read_everything(path); });
    INFO(h.what, ": ", message);
    CHECK(contains(message, h.reason));
    CHECK(contains(message, "bad.safetensors"));
    CHECK(!contains(message, "\n"));
    CHECK(message.size() < 500 + path.size());
  }
  CHECK(contains(message_of([&] { SafeTensors::open(folder.path()); }), "it is a folder"));
  CHECK(contains(message_of([&] { SafeTensors::open(folder / "none"); }), "no such file"));
}

TEST_CASE("random damage gives a loaded file or an Error, never a crash") {
  TemporaryFolder folder;
  const std::string path = folder / "fuzz.safetensors";
  save_safetensors(path, every_dtype(), {{"format", "pt"}});
  const std::string good = read_file(path);
  const size_t data_bytes = read_everything(path);
  std::mt19937 random(7);
  int loaded = 0, refused = 0;
  for (int i = 0; i < 2000; ++i) {
    std::string bad = good;
    const bool cut = i % 4 == 0;
    if (cut) bad.resize(random() % bad.size());
    for (uint32_t flips = cut ? 0 : 1 + random() % 3; flips > 0; --flips) {
      // Mostly the header: damage in the data changes values only.
      bad[random() % std::min<size_t>(bad.size(), 1000)] = char(random());
    }
    std::ofstream(path, std::ios::binary) << bad;  // write_file would sync 2,000 times
    try {
      const size_t bytes = read_everything(path);
      CHECK(bytes == data_bytes);
      ++loaded;
    } catch (const Error& error) {
      ++refused;
      CHECK(!contains(error.what(), "\n"));
    }
  }
  CHECK(loaded > 50);
  CHECK(refused > 1000);
}

TEST_CASE("files of the reference are written back byte for byte") {
  TemporaryFolder folder;
  for (const char* name :
       {"sd3_a/diffusion_pytorch_model.safetensors", "sd3_a/outputs.safetensors",
        "sd3_a_lora/adapter_model.safetensors", "lora_merge/expected.safetensors"}) {
    const SafeTensors file = SafeTensors::open(golden(name));
    NamedTensors tensors;
    for (const std::string& n : file.names()) tensors.emplace_back(n, file.get(n));
    save_safetensors(folder / "copy", tensors, file.metadata());
    INFO(name);
    CHECK(read_file(folder / "copy") == read_file(golden(name)));
  }
}

TEST_CASE("sharded checkpoints") {
  TemporaryFolder folder;
  const std::string base = "diffusion_pytorch_model";
  const auto shard = [&](int i) {
    return base + "-0000" + std::to_string(i) + "-of-00002.safetensors";
  };
  save_safetensors(folder / shard(1), {{"a", Tensor::full({2}, 1)}, {"b", Tensor::full({3}, 2)}});
  save_safetensors(folder / shard(2), {{"c", Tensor::full({4}, 3)}});
  const std::string index = folder / (base + ".safetensors.index.json");
  const auto write_index = [&](const std::string& map) {
    write_file(index, "{\"metadata\":{\"total_size\":36},\"weight_map\":{" + map + "}}");
  };
  const std::string ab = "\"a\":\"" + shard(1) + "\",\"b\":\"" + shard(1) + "\"";
  const std::string abc = ab + ",\"c\":\"" + shard(2) + "\"";
  write_index(abc);
  for (const fs::path& place : {folder.path(), fs::path(index)}) {
    const SafeTensors file = SafeTensors::open_sharded(place, base);
    CHECK((file.names() == std::vector<std::string>{"a", "b", "c"}));
    CHECK(file.get("b").to_vector() == std::vector<double>(3, 2));
    CHECK(file.get("c").to_vector() == std::vector<double>(4, 3));
    CHECK(file.files().size() == 2);
  }
  const auto message = [&] {
    return message_of([&] { SafeTensors::open_sharded(folder.path(), base); });
  };
  write_index(ab);
  CHECK(message().empty());  // a shard the index does not name is not read
  write_index("\"a\":\"" + shard(1) + "\",\"c\":\"" + shard(2) + "\"");
  CHECK(contains(message(), "the index lacks tensors of the shards: 'b'"));
  write_index(abc + ",\"d\":\"" + shard(2) + "\",\"e\":\"" + shard(1) + "\"");
  CHECK(contains(message(), "the shards lack tensors of the index: 'd'"));
  CHECK(contains(message(), "'e'"));
  write_index(abc + ",\"d\":\"x.safetensors\",\"e\":\"y.safetensors\"");
  CHECK(contains(message(), "that it names: x.safetensors, y.safetensors"));
  write_index("\"a\":\"../" + shard(1) + "\"");
  CHECK(contains(message(), "not a plain file name"));
  write_index("\"a\":\"none.safetensors\"");
  CHECK(contains(message(), "no such file"));
  write_index("\"a\":3");
  CHECK(contains(message(), "not a string"));
  write_index("");
  CHECK(contains(message(), "weight_map is empty"));
  write_file(index, "[]");
  CHECK(contains(message(), "weight_map"));
}

TEST_CASE("variants") {
  TemporaryFolder folder;
  const auto open = [&](const std::string& variant) {
    return SafeTensors::open_sharded(folder.path(), "model", variant);
  };
  CHECK(contains(message_of([&] { open(""); }), "holds neither model.safetensors nor"));
  save_safetensors(folder / "model.fp16.safetensors", {{"half", Tensor::zeros({1}, DType::f16)}});
  CHECK(open("").contains("half"));
  save_safetensors(folder / "model.bf16-00001-of-00001.safetensors",
                   {{"brain", Tensor::zeros({1})}});
  write_file(folder / "model.safetensors.index.bf16.json",
             "{\"weight_map\":{\"brain\":\"model.bf16-00001-of-00001.safetensors\"}}");
  CHECK(contains(message_of([&] { open(""); }), "bf16, fp16"));
  CHECK(open("bf16").contains("brain"));
  save_safetensors(folder / "model.safetensors", {{"full", Tensor::zeros({1})}});
  CHECK(open("").contains("full"));
  CHECK(open("fp16").contains("half"));
  CHECK(contains(message_of([&] { open("int8"); }), "model.int8.safetensors"));
}

TEST_CASE("what cannot be written is named") {
  TemporaryFolder folder;
  const std::string path = folder / "a";
  const Tensor t = Tensor::zeros({1});
  CHECK(contains(message_of([&] { save_safetensors(path, {{"w", t}, {"w", t}}); }), "two tensors"));
  CHECK(contains(message_of([&] { save_safetensors(path, {{"w", Tensor()}}); }), "undefined"));
  CHECK(contains(message_of([&] { save_safetensors(path, {{"\xff", t}}); }), "not UTF-8"));
  CHECK(contains(message_of([&] { save_safetensors(path, {{"__metadata__", t}}); }), "no tensor"));
  CHECK(!fs::exists(path));
}
