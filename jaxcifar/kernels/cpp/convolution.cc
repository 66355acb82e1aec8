// Convolutions on a CPU as XLA calls them: of images [N, H, W, in] with a kernel
// [rows, columns, in, out], and the gradient with respect to the kernel; and sums for each channel.
// `native.py` compiles this file, the only one that includes XLA's headers.

#include "direct.h"
#include "sums.h"
#include "ternary.h"
#include "winograd_gradient.h"
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

// A 3x3 convolution of stride 1, padded so that it keeps the size.
Shape Padded3x3(Dimensions x, Index out) {
  return {x[0], x[1], x[2], x[3], 3, 3, x[1], x[2], out, 1, 1, 1, 1};
}

template <class T>
Images<T> ImagesOf(ffi::AnyBuffer x) {
  const Dimensions size = x.dimensions();
  return {x.typed_data<T>(), size[1], size[2], size[3]};
}

template <class T>
ImageTiles<T> TilesOf(ffi::Result<ffi::AnyBuffer> y) {
  const Dimensions size = y->dimensions();
  return {y->typed_data<T>(), size[1], size[2], size[3]};
}

template <class T>
Unpooled<T> UnpooledOf(ffi::AnyBuffer dy, ffi::AnyBuffer corners) {
  const Dimensions size = dy.dimensions();
  return {dy.typed_data<T>(), corners.typed_data<uint8_t>(), size[1], size[2], size[3]};
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

template <class T>
void Convolve(const Threads& threads, const Shape& shape, ffi::AnyBuffer x, const T* kernel,
              ffi::Result<ffi::AnyBuffer> y) {
  if (ConvolvesFasterByPlanes(shape))
    ConvolveByPlanes(threads, shape, ImagesOf<T>(x), kernel, TilesOf<T>(y));
  else
    ConvolveDirectly(threads, shape, x.typed_data<T>(), kernel, y->typed_data<T>());
}

ffi::Error ConvolveWithKernel(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer kernel,
                              ffi::Result<ffi::AnyBuffer> y, Window window) {
  const Shape shape = ShapeOf(x.dimensions(), kernel.dimensions(), y->dimensions(), window);
  return Run(pool, x, [&](const Threads& threads, auto number) {
    using T = decltype(number);
    Convolve<T>(threads, shape, x, kernel.typed_data<T>(), y);
  });
}

// The same with a ternary kernel, whose rows and columns end the window.
ffi::Error ConvolvePacked(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer codes,
                          ffi::AnyBuffer scales, ffi::Result<ffi::AnyBuffer> y, Window window) {
  const Index in = x.dimensions()[3], out = y->dimensions()[3];
  const std::array<int64_t, 4> kernel = {window[4], window[5], in, out};
  const Shape shape = ShapeOf(x.dimensions(), {kernel.data(), kernel.size()}, y->dimensions(),
                              window);
  return Run(pool, x, [&](const Threads& threads, auto number) {
    using T = decltype(number);
    const Index taps = shape.rows * shape.columns * in;
    const Scratch<T> unpacked(taps * out);
    const T* const weights = scales.typed_data<T>();
    Unpack(threads, taps, out, codes.typed_data<uint8_t>(), weights, weights + out, unpacked + 0);
    Convolve<T>(threads, shape, x, unpacked + 0, y);
  });
}

ffi::Error KernelGradient(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer dy,
                          ffi::Result<ffi::AnyBuffer> gradient, Window window) {
  const Shape shape = ShapeOf(x.dimensions(), gradient->dimensions(), dy.dimensions(), window);
  return Run(pool, x, [&](const Threads& threads, auto number) {
    using T = decltype(number);
    T* const to = gradient->typed_data<T>();
    if (ConvolvesByPlanes(shape))
      KernelGradientByPlanes(threads, shape, ImagesOf<T>(x), ImagesOf<T>(dy), to);
    else
      KernelGradientDirectly(threads, shape, x.typed_data<T>(), dy.typed_data<T>(), to);
  });
}

// A 3x3 convolution that keeps the size, followed by 2x2 max-pooling. `corners` holds which corner
// of each window was the largest.
ffi::Error ConvolveAndPool(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer kernel,
                           ffi::Result<ffi::AnyBuffer> y, ffi::Result<ffi::AnyBuffer> corners) {
  const Shape shape = Padded3x3(x.dimensions(), kernel.dimensions()[3]);
  return Run(pool, x, [&](const Threads& threads, auto number) {
    using T = decltype(number);
    const Dimensions size = y->dimensions();
    const PooledTiles<T> tiles = {y->typed_data<T>(), corners->typed_data<uint8_t>(), size[1],
                                  size[2], size[3]};
    ConvolveByPlanes(threads, shape, ImagesOf<T>(x), kernel.typed_data<T>(), tiles);
  });
}

// Its gradient with respect to x: the convolution of the unpooled dy with the mirrored kernel.
ffi::Error UnpoolAndConvolve(ffi::ThreadPool pool, ffi::AnyBuffer dy, ffi::AnyBuffer corners,
                             ffi::AnyBuffer mirrored, ffi::Result<ffi::AnyBuffer> dx) {
  Shape shape = Padded3x3(dx->dimensions(), dx->dimensions()[3]);
  shape.in = dy.dimensions()[3];
  return Run(pool, dy, [&](const Threads& threads, auto number) {
    using T = decltype(number);
    ConvolveByPlanes(threads, shape, UnpooledOf<T>(dy, corners), mirrored.typed_data<T>(),
                     TilesOf<T>(dx));
  });
}

// Its gradient with respect to the kernel.
ffi::Error UnpooledKernelGradient(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer dy,
                                  ffi::AnyBuffer corners, ffi::Result<ffi::AnyBuffer> gradient) {
  const Shape shape = Padded3x3(x.dimensions(), dy.dimensions()[3]);
  return Run(pool, x, [&](const Threads& threads, auto number) {
    using T = decltype(number);
    KernelGradientByPlanes(threads, shape, ImagesOf<T>(x), UnpooledOf<T>(dy, corners),
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

// Three arrays to a fourth, all but corners and codes of one float type.
auto ThreeArrays() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<ffi::AnyBuffer>()
      .Arg<ffi::AnyBuffer>()
      .Arg<ffi::AnyBuffer>()
      .Ret<ffi::AnyBuffer>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcifar_convolve, ConvolveWithKernel, Signature());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcifar_convolve_packed, ConvolvePacked,
                              ThreeArrays().Attr<Window>("window"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcifar_kernel_gradient, KernelGradient, Signature());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    jaxcifar_convolve_and_pool, ConvolveAndPool,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>()
        .Ret<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcifar_unpool_and_convolve, UnpoolAndConvolve, ThreeArrays());
XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxcifar_unpooled_kernel_gradient, UnpooledKernelGradient,
                              ThreeArrays());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    jaxcifar_channel_sums, Sum,
    ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<ffi::AnyBuffer>().Arg<ffi::AnyBuffer>()
        .Ret<ffi::AnyBuffer>());
