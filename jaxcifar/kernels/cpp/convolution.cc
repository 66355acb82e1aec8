// Convolutions on a CPU as XLA calls them: of images [N, H, W, in] with a kernel
// [rows, columns, in, out], and the gradient with respect to the kernel; and sums for each channel.
// `native.py` compiles this file, the only one that includes XLA's headers.

#include "direct.h"
#include "sums.h"
#include "winograd.h"
#include "xla/ffi/api/ffi.h"

namespace {

using namespace jaxcifar;
namespace ffi = xla::ffi;

using Dimensions = ffi::AnyBuffer::Dimensions;
using Window = ffi::Span<const int64_t>;  // strides down and right, padding above and left

Shape ShapeOf(Dimensions x, Dimensions kernel, Dimensions y, Window window) {
  return {x[0], x[1], x[2], x[3], kernel[0], kernel[1], y[1], y[2], y[3],
          window[0], window[1], window[2], window[3]};
}

// Calls compute(threads, T()) with T the arrays' element type, float or double.
template <class Compute>
ffi::Error Run(ffi::ThreadPool pool, ffi::AnyBuffer array, Compute compute) {
  try {
    const Threads threads(pool.num_threads(),
                          [&](Threads::Task task) { pool.Schedule(std::move(task)); });
    if (array.element_type() == ffi::F32) compute(threads, float());
    else compute(threads, double());
    return ffi::Error::Success();
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory in a convolution");
  }
}

ffi::Error Convolve(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer kernel,
                    ffi::Result<ffi::AnyBuffer> y, Window window) {
  const Shape shape = ShapeOf(x.dimensions(), kernel.dimensions(), y->dimensions(), window);
  return Run(pool, x, [&](const Threads& threads, auto number) {
    using T = decltype(number);
    const auto convolve =
        ConvolvesFasterByPlanes(shape) ? ConvolveByPlanes<T> : ConvolveDirectly<T>;
    convolve(threads, shape, x.typed_data<T>(), kernel.typed_data<T>(), y->typed_data<T>());
  });
}

ffi::Error KernelGradient(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer dy,
                          ffi::Result<ffi::AnyBuffer> gradient, Window window) {
  const Shape shape = ShapeOf(x.dimensions(), gradient->dimensions(), dy.dimensions(), window);
  return Run(pool, x, [&](const Threads& threads, auto number) {
    using T = decltype(number);
    const auto differentiate =
        ConvolvesByPlanes(shape) ? KernelGradientByPlanes<T> : KernelGradientDirectly<T>;
    differentiate(threads, shape, x.typed_data<T>(), dy.typed_data<T>(),
                  gradient->typed_data<T>());
  });
}

ffi::Error Sum(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer y,
               ffi::Result<ffi::AnyBuffer> sums) {
  return Run(pool, x, [&](const Threads& threads, auto number) {
    using T = decltype(number);
    const Index channels = x.dimensions().back();
    const Index pixels = x.element_count() / std::max<Index>(channels, 1);
    ChannelSums(threads, pixels, channels, x.typed_data<T>(), y.typed_data<T>(),
                sums->typed_data<T>());
  });
}

// Two arrays and the window to a third array, all float or all double.
auto Signature() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<ffi::AnyBuffer>()
      .Arg<ffi::AnyBuffer>()
      .Ret<ffi::AnyBuffer>()
      .Attr<Window>("window");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcifar_convolve, Convolve, Signature());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcifar_kernel_gradient, KernelGradient, Signature());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    jaxcifar_channel_sums, Sum,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>()
        .Ret<ffi::AnyBuffer>());
