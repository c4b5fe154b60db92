// Blocking, packing and threads of the f32 GEMM; the arithmetic is in isa/gemm_tile.h.
// B is cut into panels of 1 to 3 registers width and blocks of kBlockK rows, so that a panel stays
// in the L1 while the rows of A pass by; A is read where it lies.
#include "kernels/cpu/gemm.h"

#include "kernels/cpu/gemm_panels.h"
#include "kernels/cpu/isa/gemm_isa.h"
#include "kernels/cpu/isa/isa.h"
#include "tensor/tensor.h"

namespace parlo::cpu {
namespace {

static_assert(static_cast<int>(Activation::gelu_tanh) == 1 &&
                  static_cast<int>(Activation::gelu_erf) == 2 &&
                  static_cast<int>(Activation::quick_gelu) == 3 &&
                  static_cast<int>(Activation::silu) == 4,
              "isa/gemm_tail.h switches over these numbers");

// 192 rows of 48 floats are 36 of the L1's 48 KB.
constexpr int64_t kBlockK = 192;
constexpr int64_t kChunkRows = 96;
// A product of fewer operations (about 50 us) is not worth a fork.
constexpr int64_t kSerialOperations = 4000000;
// B of more elements than this is packed block by block where only a few rows use it: written
// whole it would leave the L2 before it is read.
constexpr int64_t kPackWhole = 256 * 1024;

struct Product {
  const GemmIsa& isa;
  const Gemm<float>& g;
  const bf16_t* b_bf16;
  const GemmPairsIsa* pairs;  // set: operands in pairs of bf16, K counted in pairs
  const GemmEpilogue* epilogue;
  Panels panels;
  int64_t k, blocks, block_k;
  Tensor packed;     // every block and panel, or undefined
  Tensor packed_up;  // scale * up', [rank, n] in panels

  Product(const GemmIsa& isa, const Gemm<float>& g, const bf16_t* b, const GemmEpilogue* epilogue)
      : isa(isa),
        g(g),
        b_bf16(b),
        pairs(b && has_avx512_bf16() ? &gemm_avx512bf16 : nullptr),
        epilogue(epilogue),
        panels(isa, g.n),
        k(pairs ? ceil_div(g.k, 2) : g.k) {
    blocks = std::max<int64_t>(1, ceil_div(k, kBlockK));
    block_k = ceil_div(k, blocks);
  }

  int64_t block_begin(int64_t block) const { return std::min(k, block * block_k); }
  int64_t block_size(int64_t block) const { return block_begin(block + 1) - block_begin(block); }
  // Elements of K in a block, at most 2 a pair.
  int64_t elements(int64_t block) const {
    return pairs ? std::min(2 * block_size(block), g.k - 2 * block_begin(block))
                 : block_size(block);
  }
  bool copies_a() const { return pairs || g.a_col != 1; }
  float* packed_panel(int64_t block, int64_t p) const {
    return packed.data<float>() + block_begin(block) * panels.padded() +
           block_size(block) * panels.begin(p);
  }

  void pack(int64_t block, int64_t p, float* out) const {
    const int64_t cols = std::min(panels.width(p), g.n - panels.begin(p));
    if (g.write_b) {
      return g.write_b(
          {block_begin(block), block_size(block), panels.begin(p), cols, panels.width(p)}, out);
    }
    if (pairs) {
      const int64_t at = 2 * block_begin(block) + panels.begin(p) * g.b_col;
      const auto* b = reinterpret_cast<const uint16_t*>(b_bf16 + at);
      return pairs->pack_b({b, g.b_col, elements(block), cols, panels.width(p), out});
    }
    const int64_t at = block_begin(block) * g.b_row + panels.begin(p) * g.b_col;
    const void* b = b_bf16 ? static_cast<const void*>(b_bf16 + at) : g.b + at;
    const GemmPack task{b, g.b_row, g.b_col, block_size(block), cols, panels.width(p), out};
    b_bf16 ? isa.pack_bf16(task) : isa.pack_f32(task);
  }

  void pack_all() {
    packed = Tensor::empty({k * panels.padded()});
    const int64_t panel_size = std::max<int64_t>(1, block_k * panels.width(0));
    parallel_for(blocks * panels.count, ceil_div(64 * 1024, panel_size),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) {
                     const int64_t block = i / panels.count, p = i % panels.count;
                     pack(block, p, packed_panel(block, p));
                   }
                 });
  }

  void pack_up() {
    const int64_t rank = epilogue->rank;
    packed_up = Tensor::empty({rank * panels.padded()});
    for (int64_t p = 0; p < panels.count; ++p) {
      const int64_t j = panels.begin(p);
      isa.pack_f32({epilogue->up + j * rank, 1, rank, rank, std::min(panels.width(p), g.n - j),
                    panels.width(p), packed_up.data<float>() + rank * j});
    }
    float* up = packed_up.data<float>();
    for (int64_t i = 0; i < packed_up.numel(); ++i) up[i] *= epilogue->scale;
  }

  GemmPanel panel(int64_t row, int64_t rows, int64_t p) const {
    GemmPanel task{};
    task.b_row = panels.width(p), task.vecs = panels.width_vecs(p);
    task.c = g.c + row * g.c_row + panels.begin(p), task.c_row = g.c_row;
    task.rows = rows, task.cols = g.n - panels.begin(p);
    return task;
  }

  // Rows [row, row + rows) of C in panels [first, last).
  void run(int64_t row, int64_t rows, int64_t first, int64_t last) const {
    const int64_t tile = isa.tile_rows, b_size = packed ? 0 : block_k * panels.width(0);
    const Tensor scratch =
        Tensor::empty({b_size + (copies_a() ? ceil_div(rows, tile) * tile * block_k : 0)});
    float* b_memory = scratch.data<float>();
    for (int64_t block = 0; block < blocks; ++block) {
      GemmPanel left = left_of(block, row, rows, b_memory + b_size);
      for (int64_t p = first; p < last; ++p) {
        if (!packed) pack(block, p, b_memory);
        GemmPanel task = panel(row, rows, p);
        task.a = left.a, task.a_row = left.a_row, task.a_col = left.a_col;
        task.a_tile = left.a_tile, task.k = left.k;
        task.b = packed ? packed_panel(block, p) : b_memory;
        task.alpha = g.alpha, task.beta = block == 0 ? g.beta : 1;
        GemmTail tail{};
        if (epilogue && block + 1 == blocks) add_epilogue(row, p, task, tail);
        pairs ? pairs->panel(task) : isa.panel(task);
      }
    }
  }

  // The fields of A for one block of K; A is copied first where it is transposed or rounded.
  GemmPanel left_of(int64_t block, int64_t row, int64_t rows, float* memory) const {
    const int64_t tile = isa.tile_rows;
    GemmPanel left{};
    left.k = block_size(block);
    if (pairs) {
      const float* a = g.a + row * g.a_row + 2 * block_begin(block);
      pairs->pack_a({a, g.a_row, rows, elements(block), memory, left.k});
      left.a = memory, left.a_row = left.k, left.a_col = 1;
      return left;
    }
    left.a = g.a + row * g.a_row + block_begin(block) * g.a_col;
    left.a_row = g.a_row, left.a_col = 1, left.a_tile = g.a_row * tile;
    if (g.a_col == 1) return left;
    isa.pack_a({left.a, g.a_col, left.k, rows, memory});
    left.a = memory, left.a_row = 1, left.a_col = tile, left.a_tile = left.k * tile;
    return left;
  }

  void add_epilogue(int64_t row, int64_t p, GemmPanel& task, GemmTail& tail) const {
    const GemmEpilogue& e = *epilogue;
    if (e.rank > 0) {
      task.low_a = e.down + row * e.rank, task.rank = e.rank;
      task.low_b = packed_up.data<float>() + e.rank * panels.begin(p);
    }
    if (!e.bias && !e.pre_activation && !e.residual && e.activation == Activation::none) return;
    const int64_t j = panels.begin(p), at = row * g.c_row + j;
    tail.bias = e.bias ? e.bias + j : nullptr;
    tail.pre_activation = e.pre_activation ? e.pre_activation + at : nullptr;
    tail.residual = e.residual ? e.residual + at : nullptr;
    tail.activation = static_cast<int>(e.activation);
    task.tail = &tail;
  }
};

// How many rows and panels make one task. Enough tasks for a few threads, none so small that its
// share of B is read for a handful of rows.
struct Split {
  int64_t rows, row_tasks, panels, panel_tasks;
};

Split split(const Product& product, bool whole) {
  const Gemm<float>& g = product.g;
  const int64_t count = product.panels.count, tile = product.isa.tile_rows;
  if (g.write_b) return {ceil_div(g.m, tile) * tile, 1, count, 1};
  int64_t chunk = kChunkRows;
  if (!whole) chunk = g.m < 128 ? g.m : std::max<int64_t>(64, ceil_div(g.m, 4));
  Split s{};
  const int64_t tasks = std::max<int64_t>(1, ceil_div(g.m, std::max(chunk, tile)));
  s.rows = ceil_div(ceil_div(g.m, tasks), tile) * tile;
  s.row_tasks = ceil_div(g.m, s.rows);
  s.panel_tasks = std::min(count, whole ? ceil_div(8, s.row_tasks) : g.m < 128 ? count : 1);
  s.panels = ceil_div(count, s.panel_tasks);
  s.panel_tasks = ceil_div(count, s.panels);
  return s;
}

void run_product(Product& product, Product* down = nullptr) {
  const Gemm<float>& g = product.g;
  if (g.m == 0 || g.n == 0) return;
  const bool whole =
      !g.write_b && (g.k * g.n <= kPackWhole || (g.a_col == 1 ? g.m > 128 : g.m > 512));
  if (whole) product.pack_all();
  if (product.epilogue && product.epilogue->rank > 0) product.pack_up();
  const Split s = split(product, whole);
  // The low-rank product reads the rows of A just before the main one, while they are in the L2.
  if (down && s.panel_tasks > 1) {
    run_product(*down);
    down = nullptr;
  }
  if (down) down->pack_all();
  const int64_t tasks = s.row_tasks * s.panel_tasks;
  const bool serial = 2 * g.m * g.n * g.k < kSerialOperations;
  parallel_for(tasks, serial ? tasks : 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / s.panel_tasks * s.rows, first = i % s.panel_tasks * s.panels;
      const int64_t rows = std::min(s.rows, g.m - row);
      if (down) down->run(row, rows, 0, down->panels.count);
      product.run(row, rows, first, std::min(first + s.panels, product.panels.count));
    }
  });
}

// With the low-rank product where the epilogue asks for one.
void run_linear(const Gemm<float>& g, const bf16_t* b, const GemmEpilogue* epilogue) {
  const GemmIsa& isa = PARLO_ISA_TABLE(gemm);
  Product product(isa, g, b, epilogue);
  if (!epilogue || epilogue->rank == 0) return run_product(product);
  Gemm<float> low = g;
  low.n = epilogue->rank, low.alpha = 1, low.beta = 0;
  low.b = epilogue->low_a, low.b_row = 1, low.b_col = g.k;
  low.c = epilogue->down, low.c_row = epilogue->rank;
  Product down(isa, low, nullptr, nullptr);
  if (g.n == 0) return run_product(down);
  run_product(product, &down);
}

}  // namespace

void gemm(const Gemm<float>& g, const GemmEpilogue* epilogue) {
  run_linear(g, nullptr, epilogue);
}

void gemm_bf16(const Gemm<float>& g, const bf16_t* b, const GemmEpilogue* epilogue) {
  run_linear(g, b, epilogue);
}

}  // namespace parlo::cpu
