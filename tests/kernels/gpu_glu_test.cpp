#include "kernels/glu.h"

#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {

TEST_CASE("gpu: glu and its gradient") {
  for (const DType dtype : kGpuTypes) {
    for (const Shape& shape : {Shape{5, 3}, Shape{7, 64}, Shape{2, 2056}, Shape{0, 8}}) {
      for (const Activation f : {Activation::silu, Activation::gelu_tanh, Activation::gelu_erf}) {
        INFO("activation ", static_cast<int>(f), " of ", shape[0], " x ", shape[1]);
        const Shape wide{shape[0], 2 * shape[1]};
        const GpuInput x(wide, 1, dtype, 3), dy(shape, 2, dtype);
        const Tensor y = gpu_output(shape, dtype), dx = gpu_output(wide, dtype);
        const Tensor want = Tensor::empty(shape, DType::f64),
                     slope = Tensor::empty(wide, DType::f64);
        cpu::glu(f, x.reference, want);
        cuda::glu(f, x.gpu, y);
        check_close(y, want, tolerance(dtype));
        cpu::glu_backward(f, x.reference, dy.reference, slope);
        cuda::glu_backward(f, x.gpu, dy.gpu, dx);
        check_close(dx, slope, tolerance(dtype));
        cuda::glu(f, shifted(x.gpu), y);  // an element at a time
        check_close(y, want, tolerance(dtype));
      }
    }
  }
}

}  // namespace parlo::test
