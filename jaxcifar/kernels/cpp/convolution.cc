// Convolutions on a CPU as XLA calls them: of images [N, H, W, in] with a kernel
// [rows, columns, in, out], and the gradient with respect to the kernel; and sums for each channel.
// `native.py` compiles this file, the only one that includes XLA's headers. Kernels are of the type of
// the images or, where these are bfloat16, float.

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

// The type of images in memory, and that of sums, kernels and their gradients.
template <class S, class T>
struct Types {
  using Stored = S;
  using Sum = T;
};

template <class S>
S* DataOf(ffi::AnyBuffer x) {
  return x.reinterpret_data<S>();
}

template <class T, class S>
Images<T, S> ImagesOf(ffi::AnyBuffer x) {
  const Dimensions size = x.dimensions();
  return {DataOf<S>(x), size[1], size[2], size[3]};
}

template <class T, class S>
ImageTiles<T, S> TilesOf(ffi::Result<ffi::AnyBuffer> y) {
  const Dimensions size = y->dimensions();
  return {DataOf<S>(*y), size[1], size[2], size[3]};
}

template <class T, class S>
Unpooled<T, S> UnpooledOf(ffi::AnyBuffer dy, ffi::AnyBuffer corners) {
  const Dimensions size = dy.dimensions();
  return {DataOf<S>(dy), DataOf<uint8_t>(corners), size[1], size[2], size[3]};
}

// Calls compute(threads, Types()) by the images' element type: float, double or bfloat16.
template <class Compute>
ffi::Error Run(ffi::ThreadPool pool, ffi::AnyBuffer array, Compute compute) {
  try {
    const Threads threads(pool.num_threads(),
                          [&](Threads::Task task) { pool.Schedule(std::move(task)); });
    if (array.element_type() == ffi::F32) compute(threads, Types<float, float>());
    else if (array.element_type() == ffi::BF16) compute(threads, Types<BFloat16, float>());
    else compute(threads, Types<double, double>());
    return ffi::Error::Success();
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "out of memory in a convolution");
  }
}

template <class T, class S>
void Convolve(const Threads& threads, const Shape& shape, ffi::AnyBuffer x, const T* kernel,
              ffi::Result<ffi::AnyBuffer> y) {
  if (ConvolvesFasterByPlanes(shape))
    ConvolveByPlanes(threads, shape, ImagesOf<T, S>(x), kernel, TilesOf<T, S>(y));
  else
    ConvolveDirectly<T>(threads, shape, DataOf<S>(x), kernel, DataOf<S>(*y));
}

ffi::Error ConvolveWithKernel(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer kernel,
                              ffi::Result<ffi::AnyBuffer> y, Window window) {
  const Shape shape = ShapeOf(x.dimensions(), kernel.dimensions(), y->dimensions(), window);
  return Run(pool, x, [&](const Threads& threads, auto types) {
    using T = typename decltype(types)::Sum;
    using S = typename decltype(types)::Stored;
    Convolve<T, S>(threads, shape, x, DataOf<T>(kernel), y);
  });
}

// The same with a ternary kernel, whose rows and columns end the window.
ffi::Error ConvolvePacked(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer codes,
                          ffi::AnyBuffer scales, ffi::Result<ffi::AnyBuffer> y, Window window) {
  const Index in = x.dimensions()[3], out = y->dimensions()[3];
  const std::array<int64_t, 4> kernel = {window[4], window[5], in, out};
  const Shape shape = ShapeOf(x.dimensions(), {kernel.data(), kernel.size()}, y->dimensions(),
                              window);
  return Run(pool, x, [&](const Threads& threads, auto types) {
    using T = typename decltype(types)::Sum;
    using S = typename decltype(types)::Stored;
    const Index taps = shape.rows * shape.columns * in;
    const Scratch<T> unpacked(taps * out);
    const T* const weights = DataOf<T>(scales);
    Unpack(threads, taps, out, DataOf<uint8_t>(codes), weights, weights + out, unpacked + 0);
    Convolve<T, S>(threads, shape, x, unpacked + 0, y);
  });
}

ffi::Error KernelGradient(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer dy,
                          ffi::Result<ffi::AnyBuffer> gradient, Window window) {
  const Shape shape = ShapeOf(x.dimensions(), gradient->dimensions(), dy.dimensions(), window);
  return Run(pool, x, [&](const Threads& threads, auto types) {
    using T = typename decltype(types)::Sum;
    using S = typename decltype(types)::Stored;
    T* const to = DataOf<T>(*gradient);
    if (ConvolvesByPlanes(shape))
      KernelGradientByPlanes(threads, shape, ImagesOf<T, S>(x), ImagesOf<T, S>(dy), to);
    else
      KernelGradientDirectly(threads, shape, DataOf<S>(x), DataOf<S>(dy), to);
  });
}

// A 3x3 convolution that keeps the size, followed by 2x2 max-pooling. `corners` holds which corner
// of each window was the largest.
ffi::Error ConvolveAndPool(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer kernel,
                           ffi::Result<ffi::AnyBuffer> y, ffi::Result<ffi::AnyBuffer> corners) {
  const Shape shape = Padded3x3(x.dimensions(), kernel.dimensions()[3]);
  return Run(pool, x, [&](const Threads& threads, auto types) {
    using T = typename decltype(types)::Sum;
    using S = typename decltype(types)::Stored;
    const Dimensions size = y->dimensions();
    const PooledTiles<T, S> tiles = {DataOf<S>(*y), DataOf<uint8_t>(*corners), size[1], size[2],
                                     size[3]};
    ConvolveByPlanes(threads, shape, ImagesOf<T, S>(x), DataOf<T>(kernel), tiles);
  });
}

// Its gradient with respect to x: the convolution of the unpooled dy with the mirrored kernel.
ffi::Error UnpoolAndConvolve(ffi::ThreadPool pool, ffi::AnyBuffer dy, ffi::AnyBuffer corners,
                             ffi::AnyBuffer mirrored, ffi::Result<ffi::AnyBuffer> dx) {
  Shape shape = Padded3x3(dx->dimensions(), dx->dimensions()[3]);
  shape.in = dy.dimensions()[3];
  return Run(pool, dy, [&](const Threads& threads, auto types) {
    using T = typename decltype(types)::Sum;
    using S = typename decltype(types)::Stored;
    ConvolveByPlanes(threads, shape, UnpooledOf<T, S>(dy, corners), DataOf<T>(mirrored),
                     TilesOf<T, S>(dx));
  });
}

// Its gradient with respect to the kernel.
ffi::Error UnpooledKernelGradient(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer dy,
                                  ffi::AnyBuffer corners, ffi::Result<ffi::AnyBuffer> gradient) {
  const Shape shape = Padded3x3(x.dimensions(), dy.dimensions()[3]);
  return Run(pool, x, [&](const Threads& threads, auto types) {
    using T = typename decltype(types)::Sum;
    using S = typename decltype(types)::Stored;
    KernelGradientByPlanes(threads, shape, ImagesOf<T, S>(x), UnpooledOf<T, S>(dy, corners),
                           DataOf<T>(*gradient));
  });
}

ffi::Error Sum(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer y,
               ffi::Result<ffi::AnyBuffer> sums) {
  return Run(pool, x, [&](const Threads& threads, auto types) {
    using T = typename decltype(types)::Sum;
    using S = typename decltype(types)::Stored;
    const Index channels = x.dimensions().back();
    const Index pixels = x.element_count() / std::max<Index>(channels, 1);
    ChannelSums(threads, pixels, channels, DataOf<S>(x), DataOf<S>(y), DataOf<T>(*sums));
  });
}

// Two arrays and the window to a third array.
auto Signature() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<ffi::AnyBuffer>()
      .Arg<ffi::AnyBuffer>()
      .Ret<ffi::AnyBuffer>()
      .Attr<Window>("window");
}

// Three arrays to a fourth.
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
