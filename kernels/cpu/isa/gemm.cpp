#include "kernels/cpu/isa/gemm_tile.h"
#include "kernels/cpu/isa/isa.h"

namespace parlo::cpu {

extern const GemmIsa PARLO_ISA_NAME(gemm);
const GemmIsa PARLO_ISA_NAME(gemm) = {kRegLanes, kTileVecs,         kTileRows,           gemm_panel,
                                      pack_a,    pack_panel<float>, pack_panel<uint16_t>};

}  // namespace parlo::cpu
