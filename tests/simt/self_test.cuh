// The simulator's own tests: each file defines one function, run under every schedule by
// self_test.cu.
#pragma once
#include "tests/simt/support.cuh"

void test_threads();
void test_matrix();
void test_wgmma();
void test_bulk();
void test_runtime();

inline int failures = 0;
inline void expect(bool ok, const char* what, const char* file, int line) {
  if (ok) return;
  ++failures;
  std::printf("FAIL %s:%d, schedule %d: %s\n", file, line, int(simt::options().seed), what);
}
#define EXPECT(condition) expect(condition, #condition, __FILE__, __LINE__)

// Whether f() fails with an error that contains `text`.
template <class F>
bool fails_with(const char* text, F f) {
  try {
    f();
  } catch (const simt::Error& e) {
    if (std::strstr(e.what(), text)) return true;
    std::printf("unexpected error: %s\n", e.what());
    return false;
  }
  std::printf("no error, expected: %s\n", text);
  return false;
}
