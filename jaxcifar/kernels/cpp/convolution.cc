// Convolutions for a CPU, called by XLA: of images [N, H, W, in] with a kernel
// [rows, columns, in, out], and the gradient by the kernel. `native.py` compiles this file.

#include "direct.h"
#include "winograd.h"

namespace {

using namespace jaxcifar;

const XLA_FFI_Buffer& Argument(const XLA_FFI_CallFrame* frame, int index) {
  return *static_cast<const XLA_FFI_Buffer*>(frame->args.args[index]);
}

template <class T>
T* Data(const XLA_FFI_Buffer& buffer) {
  return static_cast<T*>(buffer.data);
}

Shape ShapeOf(const XLA_FFI_CallFrame* frame, const Index* x, const Index* kernel, const Index* y) {
  // The only attribute: strides down and right, padding above and left.
  const Index* const window =
      static_cast<const Index*>(static_cast<const XLA_FFI_Array*>(frame->attrs.attrs[0])->data);
  return {x[0], x[1], x[2], x[3], kernel[0], kernel[1], y[1], y[2], y[3],
          window[0], window[1], window[2], window[3]};
}

// Tells XLA the interface's version, if that is what it asks for.
bool Introduced(const XLA_FFI_CallFrame* frame) {
  XLA_FFI_Extension_Base* const extension = frame->extension_start;
  if (extension == nullptr || extension->type != XLA_FFI_Extension_Metadata) return false;
  XLA_FFI_Api_Version& version =
      reinterpret_cast<XLA_FFI_Metadata_Extension*>(extension)->metadata->api_version;
  version.major_version = XLA_FFI_API_MAJOR;
  version.minor_version = XLA_FFI_API_MINOR;
  return true;
}

// Calls work with a float or a double, as the arrays hold; returns an error if memory is short.
template <class Work>
XLA_FFI_Error* Typed(const XLA_FFI_CallFrame* frame, Work work) {
  try {
    if (Argument(frame, 0).dtype == XLA_FFI_DataType_F32) work(float());
    else work(double());
    return nullptr;
  } catch (const std::bad_alloc&) {
    XLA_FFI_Error_Create_Args args = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, nullptr,
                                      "no memory for a convolution",
                                      XLA_FFI_Error_Code_RESOURCE_EXHAUSTED};
    return frame->api->XLA_FFI_Error_Create(&args);
  }
}

}  // namespace

// (x, kernel) -> y, and (x, dy) -> the gradient by the kernel; all float, or all double.

extern "C" XLA_FFI_Error* jaxcifar_convolve(XLA_FFI_CallFrame* frame) {
  if (Introduced(frame)) return nullptr;
  const XLA_FFI_Buffer &x = Argument(frame, 0), &kernel = Argument(frame, 1);
  const XLA_FFI_Buffer& y = *static_cast<const XLA_FFI_Buffer*>(frame->rets.rets[0]);
  return Typed(frame, [&](auto number) {
    using T = decltype(number);
    const Shape shape = ShapeOf(frame, x.dims, kernel.dims, y.dims);
    const auto convolve = ConvolvesByPlanes(shape) ? ConvolveByPlanes<T> : ConvolveDirectly<T>;
    convolve(Threads(frame), shape, Data<const T>(x), Data<const T>(kernel), Data<T>(y));
  });
}

extern "C" XLA_FFI_Error* jaxcifar_kernel_gradient(XLA_FFI_CallFrame* frame) {
  if (Introduced(frame)) return nullptr;
  const XLA_FFI_Buffer &x = Argument(frame, 0), &dy = Argument(frame, 1);
  const XLA_FFI_Buffer& gradient = *static_cast<const XLA_FFI_Buffer*>(frame->rets.rets[0]);
  return Typed(frame, [&](auto number) {
    using T = decltype(number);
    const Shape shape = ShapeOf(frame, x.dims, gradient.dims, dy.dims);
    const auto differentiate = KernelGradientByPlanesIsFaster(shape) ? KernelGradientByPlanes<T>
                                                                     : KernelGradientDirectly<T>;
    differentiate(Threads(frame), shape, Data<const T>(x), Data<const T>(dy), Data<T>(gradient));
  });
}
