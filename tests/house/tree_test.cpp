// The rules of the house that a compiler does not check: includes go one way only, they start at
// the root, PTX stands where the simulator has a twin, and files stay readable. Each rule is also
// shown a planted violation.

#include <doctest/doctest.h>

#include <unistd.h>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace fs = std::filesystem;

namespace {

constexpr int kMaxLines = 800;

// A folder may include itself and every folder of a lower rank.
const std::map<std::string, int> kRank = {{"tensor", 0},  {"kernels", 1}, {"autograd", 2},
                                          {"models", 3},  {"lora", 4},    {"rl", 5},
                                          {"distill", 5}, {"tools", 6}};
// These may include everything, but keep the length and start their includes at the root.
const std::set<std::string> kOpen = {"tests", "bench", "examples"};

bool is_source(const fs::path& path) {
  static const std::set<std::string> suffixes = {".h", ".cpp", ".cu", ".cuh"};
  return suffixes.count(path.extension().string()) > 0;
}

// The reason why FOLDER/... (path: of the including file) may not include `target`; empty if it
// may.
std::string refusal(const std::string& path, const std::string& folder, const std::string& target) {
  const size_t slash = target.find('/');
  if (slash == std::string::npos) return "includes start at the root";
  const std::string into = target.substr(0, slash);
  if (!kRank.count(into)) return kOpen.count(into) && kOpen.count(folder) ? "" : "no such folder";
  if (!kRank.count(folder) || into == folder) {
    const bool crosses = (path.find("kernels/cpu/") == 0 && target.find("kernels/cuda/") == 0) ||
                         (path.find("kernels/cuda/") == 0 && target.find("kernels/cpu/") == 0);
    return crosses ? "kernels/cpu and kernels/cuda do not include each other" : "";
  }
  if (kRank.at(into) >= kRank.at(folder)) return "upward or sideways include";
  if (into == "kernels" && kRank.at(folder) > kRank.at("autograd")) {
    return "nothing above autograd/ includes kernels/";
  }
  return "";
}

// Two types or inline constants of one name in namespace parlo: the linker keeps one copy of the
// constant, or of the types' inline functions, and the other's bytes are misread. `seen`: where
// each name of a header was defined.
void check_name(const std::string& path, const std::string& line,
                std::map<std::string, std::string>& seen, std::vector<std::string>& faults) {
  static const std::regex type(
      R"re(^(?:struct|class)(?: alignas\(\d+\))? (\w+)(?: final)?(?: :.*| )\{|)re"
      R"re(^inline (?:constexpr|const) .*?(k[A-Z]\w*)(?:\[\w*\])? ?[={])re");
  std::smatch match;
  if (!path.ends_with(".h") || !kRank.count(path.substr(0, path.find('/')))) return;
  if (!std::regex_search(line, match, type)) return;
  const std::string name = match[1].matched ? match[1] : match[2];
  const auto [at, first] = seen.emplace(name, path);
  if (!first && at->second != path) {
    faults.push_back(path + ": " + name + " is also defined in " + at->second);
  }
}

void check_file(const fs::path& root, const fs::path& file,
                std::map<std::string, std::string>& types, std::vector<std::string>& faults) {
  static const std::regex include(R"re(^\s*#\s*include\s*"([^"]+)")re"),
      ptx(R"re(\basm\b.*[("])re");
  const std::string path = fs::relative(file, root).generic_string();
  const std::string folder = path.substr(0, path.find('/'));
  const bool may_hold_ptx = folder != "kernels" || path.rfind("kernels/cuda/ptx", 0) == 0;
  std::ifstream in(file);
  std::string line;
  int number = 0;
  while (std::getline(in, line)) {
    ++number;
    check_name(path, line, types, faults);
    if (!may_hold_ptx && std::regex_search(line, ptx)) {
      faults.push_back(path + ":" + std::to_string(number) + ": PTX outside kernels/cuda/ptx*.cuh");
    }
    std::smatch match;
    if (!std::regex_search(line, match, include)) continue;
    const std::string why = refusal(path, folder, match[1]);
    if (why.empty()) continue;
    faults.push_back(path + ":" + std::to_string(number) + ": \"" + match[1].str() + "\": " + why);
  }
  if (number > kMaxLines) {
    faults.push_back(path + ": " + std::to_string(number) + " lines, at most " +
                     std::to_string(kMaxLines));
  }
}

std::vector<std::string> check_tree(const fs::path& root, int* files = nullptr) {
  std::vector<std::string> faults;
  std::map<std::string, std::string> types;
  std::set<std::string> folders = kOpen;
  for (const auto& [folder, rank] : kRank) folders.insert(folder);
  for (const std::string& folder : folders) {
    if (!fs::exists(root / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      if (!entry.is_regular_file() || !is_source(entry.path())) continue;
      if (files) ++*files;
      check_file(root, entry.path(), types, faults);
    }
  }
  return faults;
}

// A tree of a few files, thrown away at the end.
std::vector<std::string> faults_of(const std::map<std::string, std::string>& tree) {
  const fs::path root = fs::temp_directory_path() / ("parlo_house_" + std::to_string(::getpid()));
  for (const auto& [path, text] : tree) {
    fs::create_directories((root / path).parent_path());
    std::ofstream(root / path) << text;
  }
  const std::vector<std::string> faults = check_tree(root);
  fs::remove_all(root);
  return faults;
}

std::vector<std::string> faults_of(const std::string& path, const std::string& text) {
  return faults_of({{path, text}});
}

size_t faults_of_include(const std::string& path, const std::string& target) {
  return faults_of(path, "// x\n  # include \"" + target + "\"  // y\n").size();
}

}  // namespace

TEST_CASE("the tree keeps the rules") {
  int files = 0;
  for (const std::string& fault : check_tree(PARLO_SOURCE_DIR, &files)) FAIL_CHECK(fault);
  CHECK(files > 0);
}

TEST_CASE("a planted include is caught") {
  CHECK(faults_of_include("tensor/a.cpp", "kernels/matmul.h") == 1);
  CHECK(faults_of_include("kernels/a.h", "autograd/var.h") == 1);
  CHECK(faults_of_include("models/a.h", "lora/lora.h") == 1);
  CHECK(faults_of_include("models/deep/er/a.h", "rl/trainer.h") == 1);
  CHECK(faults_of_include("rl/a.cpp", "distill/rate.h") == 1);
  CHECK(faults_of_include("distill/a.cpp", "rl/trainer.h") == 1);
  CHECK(faults_of_include("rl/a.cpp", "tools/progress.h") == 1);
  CHECK(faults_of_include("models/a.cpp", "kernels/matmul.h") == 1);
  CHECK(faults_of_include("tools/a.cpp", "kernels/matmul.h") == 1);
  CHECK(faults_of_include("kernels/cpu/a.cpp", "kernels/cuda/common.cuh") == 1);
  CHECK(faults_of_include("kernels/cuda/a.cu", "kernels/cpu/pack.h") == 1);
  CHECK(faults_of_include("rl/a.cpp", "advantages.h") == 1);
  CHECK(faults_of_include("rl/a.cpp", "../lora/lora.h") == 1);
  CHECK(faults_of_include("rl/a.cpp", "tests/support.h") == 1);
}

TEST_CASE("a lawful include passes") {
  CHECK(faults_of_include("autograd/ops/a.cpp", "kernels/matmul.h") == 0);
  CHECK(faults_of_include("kernels/a.cpp", "kernels/cpu/pack.h") == 0);
  CHECK(faults_of_include("tools/a.cpp", "distill/rate.h") == 0);
  CHECK(faults_of_include("rl/rewards/a.cpp", "tensor/tensor.h") == 0);
  CHECK(faults_of_include("tests/kernels/a_test.cpp", "tests/support.h") == 0);
  CHECK(faults_of_include("bench/a.cpp", "kernels/matmul.h") == 0);
  CHECK(faults_of("rl/a.cpp", "#include <string>\n").empty());
}

TEST_CASE("PTX outside its files is caught") {
  const std::string ptx = "  asm volatile(\"bar.sync 0;\");\n";
  CHECK(faults_of("kernels/cuda/a.cuh", ptx).size() == 1);
  CHECK(faults_of("kernels/cuda/ptx_a.cuh", ptx).empty());
  CHECK(faults_of("kernels/cuda/a.cuh", "// the asm of a product\n").empty());
}

TEST_CASE("two types of one name are caught") {
  const std::string score = "struct Score {\n  int n;\n};\n";
  CHECK(faults_of({{"rl/a.h", score}, {"tools/b.h", score}}).size() == 1);
  CHECK(faults_of({{"rl/a.h", "class Score : public B {\n"}, {"tools/b.h", score}}).size() == 1);
  CHECK(faults_of({{"rl/a.h", "struct Score;\n"}, {"tools/b.h", score}}).empty());
  CHECK(faults_of({{"rl/a.h", score}, {"tests/b.h", score}}).empty());
  const std::string list = "inline constexpr std::string_view kNames[] = {\n};\n";
  CHECK(faults_of({{"lora/a.h", list}, {"tools/b.h", list}}).size() == 1);
  CHECK(
      faults_of({{"lora/a.h", list}, {"tools/b.h", "inline constexpr int kName = 1;\n"}}).empty());
}

TEST_CASE("a file that is too long is caught") {
  std::string text;
  for (int i = 0; i < kMaxLines; ++i) text += "//\n";
  CHECK(faults_of("rl/a.cpp", text).empty());
  CHECK(faults_of("rl/a.cpp", text + "//\n").size() == 1);
  CHECK(faults_of("tests/rl/a_test.cpp", text + "//\n").size() == 1);
}
