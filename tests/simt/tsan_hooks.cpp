// The __tsan_* functions that -fsanitize=thread makes the compiler call, in place of
// ThreadSanitizer's own runtime: memory accesses go to the race detector, atomics are carried out
// (host code of the product uses them too).
#include "tests/simt/machine.h"

extern "C" const char __executable_start[], _end[];  // by the linker

namespace simt {

// The thread's own stack, or the program's constants and threadIdx.
static bool is_private(const void* p) {
  return uintptr_t(p) - uintptr_t(m.cur->stack) < kStackBytes ||
         uintptr_t(p) - uintptr_t(__executable_start) <
             uintptr_t(_end) - uintptr_t(__executable_start);
}

static void access(const void* p, uint32_t bytes, Access kind, const void* pc) {
  if (!in_kernel() || m.in_hook || !race_on() || is_private(p)) return;
  // The linker may give the simulator itself instrumented copies of library templates.
  m.in_hook = true;
  bool counts = in_arena(p);
  if (counts) {
    ++m.stat.accesses;
    touch_self(p, bytes, kind, pc, Loc::current());
  } else {
    counts = touch_global(p, bytes, kind, pc, Loc::current());
  }
  if (counts) lint(uintptr_t(pc), p, bytes);
  m.in_hook = false;
}

}  // namespace simt

#define CALLER __builtin_return_address(0)
#define HOOK(n)                                        \
  extern "C" void __tsan_read##n(void* p) {            \
    simt::access(p, n, simt::kRead, CALLER);           \
  }                                                    \
  extern "C" void __tsan_write##n(void* p) {           \
    simt::access(p, n, simt::kWrite, CALLER);          \
  }                                                    \
  extern "C" void __tsan_unaligned_read##n(void* p) {  \
    simt::access(p, n, simt::kRead, CALLER);           \
  }                                                    \
  extern "C" void __tsan_unaligned_write##n(void* p) { \
    simt::access(p, n, simt::kWrite, CALLER);          \
  }                                                    \
  extern "C" void __tsan_volatile_read##n(void* p) {   \
    simt::access(p, n, simt::kRead, CALLER);           \
  }                                                    \
  extern "C" void __tsan_volatile_write##n(void* p) {  \
    simt::access(p, n, simt::kWrite, CALLER);          \
  }
HOOK(1)
HOOK(2)
HOOK(4)
HOOK(8)
HOOK(16)
extern "C" void __tsan_read_range(void* p, size_t n) {
  simt::access(p, uint32_t(n), simt::kRead, CALLER);
}
extern "C" void __tsan_write_range(void* p, size_t n) {
  simt::access(p, uint32_t(n), simt::kWrite, CALLER);
}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {
  simt::hooked = true;
}  // runs before main
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}
extern "C" void __tsan_atomic_thread_fence(int) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
extern "C" void __tsan_atomic_signal_fence(int) {}

#define FETCH(T, bits, op)                                                 \
  extern "C" T __tsan_atomic##bits##_fetch_##op(volatile T* p, T v, int) { \
    return __atomic_fetch_##op(p, v, __ATOMIC_SEQ_CST);                    \
  }
#define ATOMIC(T, bits)                                                                            \
  extern "C" T __tsan_atomic##bits##_load(const volatile T* p, int) {                              \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                                \
  extern "C" void __tsan_atomic##bits##_store(volatile T* p, T v, int) {                           \
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                                      \
  }                                                                                                \
  extern "C" T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) {                           \
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                            \
  }                                                                                                \
  extern "C" int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* c, T v, int,      \
                                                               int) {                              \
    return __atomic_compare_exchange_n(p, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);        \
  }                                                                                                \
  extern "C" int __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* c, T v, int, int) { \
    return __atomic_compare_exchange_n(p, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);        \
  }                                                                                                \
  extern "C" T __tsan_atomic##bits##_compare_exchange_val(volatile T* p, T c, T v, int, int) {     \
    __atomic_compare_exchange_n(p, &c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);              \
    return c;                                                                                      \
  }                                                                                                \
  FETCH(T, bits, add)                                                                              \
  FETCH(T, bits, sub)                                                                              \
  FETCH(T, bits, and) FETCH(T, bits, or) FETCH(T, bits, xor) FETCH(T, bits, nand)
ATOMIC(uint8_t, 8)
ATOMIC(uint16_t, 16)
ATOMIC(uint32_t, 32)
ATOMIC(uint64_t, 64)
