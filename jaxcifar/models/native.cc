// Convolutions for a CPU: of images [N, H, W, in] with a kernel [rows, columns, in, out], and the
// gradient by the kernel. `native.py` compiles this file for the machine at hand.
//
// Each sum over the kernel's pixels and channels, or over the images' pixels, stays in a vector
// register until it is complete: a tile of outputs, or of the kernel's gradient, at a time. Its
// lanes are output channels. In a padded image the columns that a kernel covers and their channels
// lie side by side, as in a row of the kernel, so the two are one loop.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <type_traits>

#include "xla/ffi/api/c_api.h"

namespace {

using Index = int64_t;

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kRegisters = 32;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kRegisters = 32;
#else
constexpr int kVectorBytes = 16, kRegisters = 16;
#endif

// Of the registers, those that hold sums.
constexpr int kSums = kRegisters * 3 / 4;

// What a thread works on at a time, of a second-level cache.
constexpr Index kCacheBytes = 512 * 1024;

// Work is cut into so many parts or more, whatever the number of threads: sums of parts are added
// up, and results are not to depend on it.
constexpr Index kParts = 16;

template <class T>
using Vector [[gnu::vector_size(kVectorBytes)]] = T;

template <class T>
constexpr int kLanes = kVectorBytes / sizeof(T);

template <class T>
Vector<T> Load(const T* from) {
  Vector<T> vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}

template <class V, class T>
void Store(const V& vector, T* to) {
  std::memcpy(to, &vector, sizeof vector);
}

// Sums are in registers only if no index into them is left to run time.
#define UNROLL _Pragma("GCC unroll 32")

constexpr Index CeilDiv(Index a, Index b) { return (a + b - 1) / b; }

template <class T>
Index WholeVectors(Index channels) {
  return CeilDiv(channels, kLanes<T>) * kLanes<T>;
}

// XLA's threads.
class Threads {
 public:
  explicit Threads(const XLA_FFI_CallFrame* frame) : api_(frame->api), context_(frame->ctx) {
    XLA_FFI_ThreadPool_NumThreads_Args args = {
        XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, nullptr, context_, &count_};
    if (Failed(api_->XLA_FFI_ThreadPool_NumThreads(&args))) count_ = 1;
  }

  Index count() const { return count_; }

  // Calls work(part, thread) for all parts, and returns when all are done. The calling thread takes
  // its share, and waits for no thread that has not begun, as all others may be in another call.
  void Share(Index parts, std::function<void(Index, Index)> work) const {
    auto job = std::make_shared<Job>(parts, std::move(work));
    for (Index helper = 1; helper < std::min(count_, parts); ++helper) {
      auto* its_job = new (std::nothrow) std::shared_ptr<Job>(job);
      if (its_job == nullptr) break;
      XLA_FFI_ThreadPool_Schedule_Args args = {
          XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, nullptr, context_, Help, its_job};
      if (Failed(api_->XLA_FFI_ThreadPool_Schedule(&args))) delete its_job;
    }
    job->Work();
    job->Wait();
  }

 private:
  class Job {
   public:
    Job(Index parts, std::function<void(Index, Index)> work)
        : parts_(parts), work_(std::move(work)) {}

    void Work() {
      const Index thread = threads_++;
      for (Index part; (part = next_++) < parts_;) {
        work_(part, thread);
        if (++done_ == parts_) {
          std::lock_guard<std::mutex> lock(mutex_);
          all_done_.notify_all();
        }
      }
    }

    void Wait() {
      std::unique_lock<std::mutex> lock(mutex_);
      all_done_.wait(lock, [this] { return done_ == parts_; });
    }

   private:
    const Index parts_;
    const std::function<void(Index, Index)> work_;
    std::atomic<Index> threads_{0}, next_{0}, done_{0};
    std::mutex mutex_;
    std::condition_variable all_done_;
  };

  static void Help(void* its_job) {
    std::unique_ptr<std::shared_ptr<Job>> job(static_cast<std::shared_ptr<Job>*>(its_job));
    (*job)->Work();
  }

  bool Failed(XLA_FFI_Error* error) const {
    if (error == nullptr) return false;
    XLA_FFI_Error_Destroy_Args args = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
    api_->XLA_FFI_Error_Destroy(&args);
    return true;
  }

  const XLA_FFI_Api* api_;
  XLA_FFI_ExecutionContext* context_;
  Index count_ = 1;
};

// Memory for numbers; throws std::bad_alloc.
template <class T>
class Scratch {
 public:
  explicit Scratch(Index count)
      : data_(static_cast<T*>(::operator new(count * sizeof(T), kAlignment))) {}
  ~Scratch() { ::operator delete(data_, kAlignment); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* operator+(Index offset) const { return data_ + offset; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  T* const data_;
};

struct Shape {
  Index images, height, width, in;
  Index rows, columns;  // of the kernel
  Index out_height, out_width, out;
  Index stride_down, stride_right;
  Index above, left;  // padding

  Index padded_height() const { return (out_height - 1) * stride_down + rows; }
  Index padded_width() const { return (out_width - 1) * stride_right + columns; }

  // Whether each output is made of one pixel, its own.
  bool pointwise() const {
    return rows == 1 && columns == 1 && stride_down == 1 && stride_right == 1 && above == 0 &&
           left == 0 && height == out_height && width == out_width;
  }
};

// Copies the channels [first, first + channels) of an image, with zeros around it, to `padded`
// [padded_height, padded_width, channels].
template <class T>
void Pad(const Shape& s, const T* image, Index first, Index channels, T* padded) {
  const Index row = s.padded_width() * channels;
  const Index begin = std::max<Index>(0, -s.left);
  const Index end = std::max(begin, std::min(s.width, s.padded_width() - s.left));
  for (Index h = -s.above; h < s.padded_height() - s.above; ++h, padded += row) {
    if (h < 0 || h >= s.height) {
      std::fill(padded, padded + row, T(0));
      continue;
    }
    T* const inside = padded + (begin + s.left) * channels;
    T* const after = padded + (end + s.left) * channels;
    const T* from = image + (h * s.width + begin) * s.in + first;
    std::fill(padded, inside, T(0));
    if (channels == s.in) {
      std::copy(from, from + (after - inside), inside);
    } else {
      for (T* pixel = inside; pixel < after; pixel += channels, from += s.in)
        std::copy(from, from + channels, pixel);
    }
    std::fill(after, padded + row, T(0));
  }
}

// Copies pixels of `channels` to pixels of `lanes`, which are more.
template <class T>
void Widen(Index pixels, Index channels, Index lanes, const T* from, T* to) {
  for (Index pixel = 0; pixel < pixels; ++pixel, from += channels, to += lanes) {
    std::copy(from, from + channels, to);
    std::fill(to + channels, to + lanes, T(0));
  }
}

// Images, or the gradient by them, and how far from an image, a row and a pixel to the next.
template <class T>
struct View {
  T* data;
  Index image, down, right;

  T* At(Index i, Index h, Index w) const { return data + i * image + h * down + w * right; }
};

// Output channels are taken in groups of one to three vectors. Calls group(first, vectors) for
// each, `vectors` a constant.
template <class T, class Group>
void ForGroups(Index channels, Group group) {
  for (Index first = 0; first < channels;) {
    const Index left = CeilDiv(channels - first, kLanes<T>);
    const Index vectors = left % 2 ? std::min<Index>(left, 3) : 2;
    if (vectors == 1) group(first, std::integral_constant<int, 1>());
    if (vectors == 2) group(first, std::integral_constant<int, 2>());
    if (vectors == 3) group(first, std::integral_constant<int, 3>());
    first += vectors * kLanes<T>;
  }
}

// Has the weights of a group lie together: [group][rows, columns, in][lanes].
template <class T>
void Pack(const Threads& threads, const Shape& s, const T* kernel, T* packed) {
  const Index taps = s.rows * s.columns * s.in;
  threads.Share(kParts, [=](Index part, Index) {
    ForGroups<T>(s.out, [&](Index first, auto vectors) {
      const Index lanes = vectors * kLanes<T>, used = std::min(lanes, s.out - first);
      for (Index tap = taps * part / kParts; tap < taps * (part + 1) / kParts; ++tap) {
        const T* const from = kernel + tap * s.out + first;
        T* const to = packed + first * taps + tap * lanes;
        std::copy(from, from + used, to);
        std::fill(to + used, to + lanes, T(0));
      }
    });
  });
}

// A group of output channels of some images.
template <class T>
struct Outputs {
  Index images, height, width, channels;  // the last may be fewer than the lanes
  View<T> y;
  View<const T> x;  // what the first pixel of the kernel meets
  Index x_row;
  Index rows, length;  // of the kernel; the length is columns times channels
  const T* weights;    // [rows, length, lanes]
};

template <class T, int kDown, int kRight, int kVectors>
void Tile(const Outputs<T>& o, Index image, Index h, Index w) {
  const T* x = o.x.At(image, h, w);
  const T* weights = o.weights;
  if (o.rows == 1) {  // no copy of x in the cache was made: fetch the next tile's
    const T* const next = x + kRight * o.x.right;
    for (Index i = 0; i < kRight * o.x.right; i += kVectorBytes / sizeof(T))
      __builtin_prefetch(next + i);
  }
  Vector<T> sum[kDown][kRight][kVectors];
  UNROLL for (int d = 0; d < kDown; ++d)
    UNROLL for (int r = 0; r < kRight; ++r)
      UNROLL for (int v = 0; v < kVectors; ++v) sum[d][r][v] = Vector<T>{};
  for (Index row = 0; row < o.rows; ++row, x += o.x_row) {
    // A pointer for four pixels each. Their relation is hidden from the compiler, which else takes
    // one pointer and the distance of each pixel, and runs out of registers.
    const T* pixels[kDown][CeilDiv(kRight, 4)];
    UNROLL for (int d = 0; d < kDown; ++d)
      UNROLL for (int r = 0; r < kRight; r += 4) {
        pixels[d][r / 4] = x + d * o.x.down + r * o.x.right;
        asm("" : "+r"(pixels[d][r / 4]));
      }
    _Pragma("GCC unroll 4") for (Index i = 0; i < o.length; ++i) {
      Vector<T> weight[kVectors];
      UNROLL for (int v = 0; v < kVectors; ++v, weights += kLanes<T>) weight[v] = Load(weights);
      UNROLL for (int d = 0; d < kDown; ++d)
        UNROLL for (int r = 0; r < kRight; ++r)
          UNROLL for (int v = 0; v < kVectors; ++v)
            sum[d][r][v] += pixels[d][r / 4][r % 4 * o.x.right + i] * weight[v];
    }
  }
  UNROLL for (int d = 0; d < kDown; ++d)
    UNROLL for (int r = 0; r < kRight; ++r)
      UNROLL for (int v = 0; v < kVectors; ++v) {
        T* const y = o.y.At(image, h + d, w + r) + v * kLanes<T>;
        const Index left = o.channels - v * kLanes<T>;
        if (left >= kLanes<T>) Store(sum[d][r][v], y);
        else for (Index lane = 0; lane < left; ++lane) y[lane] = sum[d][r][v][lane];
      }
}

// All tiles. Where they do not divide an image, the last ones overlap those before.
template <class T, int kDown, int kRight, int kVectors>
void Tiles(const Outputs<T>& o) {
  for (Index image = 0; image < o.images; ++image)
    for (Index h = 0; h < o.height; h += kDown)
      for (Index w = 0; w < o.width; w += kRight)
        Tile<T, kDown, kRight, kVectors>(o, image, std::min(h, o.height - kDown),
                                         std::min(w, o.width - kRight));
}

template <class T, int kVectors>
void Compute(const Outputs<T>& o) {
  constexpr int kPixels = kRegisters / 4;
  if constexpr (kVectors == 1)
    if (o.width >= 2 * kPixels) return Tiles<T, 1, 2 * kPixels, 1>(o);
  if (o.width >= kPixels) return Tiles<T, 1, kPixels, kVectors>(o);
  if (o.width >= kPixels / 2 && o.height >= 2) return Tiles<T, 2, kPixels / 2, kVectors>(o);
  Tiles<T, 1, 1, kVectors>(o);
}

template <class T>
void Convolve(const Threads& threads, const Shape& s, const T* x, const T* kernel, T* y) {
  const Index taps = s.rows * s.columns * s.in;
  const Scratch<T> packed(taps * WholeVectors<T>(s.out));
  Pack(threads, s, kernel, packed + 0);
  const auto compute = [&](Outputs<T> o) {
    T* const first_channel = o.y.data;
    ForGroups<T>(s.out, [&](Index first, auto vectors) {
      o.y.data = first_channel + first;
      o.channels = s.out - first;
      o.weights = packed + first * taps;
      Compute<T, vectors>(o);
    });
  };
  if (s.pointwise()) {  // all pixels as one long row
    const Index pixels = s.images * s.height * s.width;
    const Index piece = std::max<Index>(64, kCacheBytes / 4 / sizeof(T) / s.in);
    threads.Share(CeilDiv(pixels, piece), [=](Index part, Index) {
      const Index begin = part * piece, count = std::min(piece, pixels - begin);
      compute({1, 1, count, s.out, {y + begin * s.out, 0, 0, s.out},
               {x + begin * s.in, 0, 0, s.in}, 0, 1, s.in, nullptr});
    });
    return;
  }
  const Index row = s.padded_width() * s.in, image = s.padded_height() * row;
  const Index in_cache = std::max<Index>(1, kCacheBytes / sizeof(T) / image);
  const Index some = std::min(CeilDiv(s.images, kParts), in_cache);
  const Scratch<T> padded(threads.count() * some * image);
  threads.Share(CeilDiv(s.images, some), [=, &padded](Index part, Index thread) {
    const Index begin = part * some, count = std::min(some, s.images - begin);
    T* const copies = padded + thread * some * image;
    for (Index i = 0; i < count; ++i)
      Pad(s, x + (begin + i) * s.height * s.width * s.in, 0, s.in, copies + i * image);
    const Index y_row = s.out_width * s.out, y_image = s.out_height * y_row;
    compute({count, s.out_height, s.out_width, s.out, {y + begin * y_image, y_image, y_row, s.out},
             {copies, image, s.stride_down * row, s.stride_right * s.in}, row, s.rows,
             s.columns * s.in, nullptr});
  });
}

// Some rows of the kernel's gradient, each of a tap and an input channel, from some images.
template <class T>
struct Sums {
  Index images, height, width;
  View<const T> x, dy;
  T* const* rows;  // to which the sums are added
};

// As many rows as a template argument says, which is returned.
template <class T, int kRows, int kVectors>
int Accumulate(const Sums<T>& s) {
  Vector<T> sum[kRows][kVectors];
  UNROLL for (int r = 0; r < kRows; ++r)
    UNROLL for (int v = 0; v < kVectors; ++v)
      sum[r][v] = Load(s.rows[r] + v * kLanes<T>);
  for (Index image = 0; image < s.images; ++image)
    for (Index h = 0; h < s.height; ++h) {
      const T* x = s.x.At(image, h, 0);
      const T* dy = s.dy.At(image, h, 0);
      for (Index w = 0; w < s.width; ++w, x += s.x.right, dy += s.dy.right) {
        __builtin_prefetch(x + 8 * s.x.right);
        __builtin_prefetch(dy + 8 * s.dy.right);
        Vector<T> gradient[kVectors];
        UNROLL for (int v = 0; v < kVectors; ++v)
          gradient[v] = Load(dy + v * kLanes<T>);
        UNROLL for (int r = 0; r < kRows; ++r)
          UNROLL for (int v = 0; v < kVectors; ++v) sum[r][v] += x[r] * gradient[v];
      }
    }
  UNROLL for (int r = 0; r < kRows; ++r)
    UNROLL for (int v = 0; v < kVectors; ++v)
      Store(sum[r][v], s.rows[r] + v * kLanes<T>);
  return kRows;
}

template <class T, int kVectors>
int AccumulateSome(const Sums<T>& s, Index rows_left) {
  constexpr int kMost = kSums / kVectors;
  if (rows_left >= kMost) return Accumulate<T, kMost, kVectors>(s);
  if (rows_left >= 8 && kMost > 8) return Accumulate<T, 8, kVectors>(s);
  if (rows_left >= 4 && kMost > 4) return Accumulate<T, 4, kVectors>(s);
  return Accumulate<T, 1, kVectors>(s);
}

template <class T>
void KernelGradient(const Threads& threads, Shape s, const T* x, const T* dy, T* gradient) {
  // Pixels that need no padding are read where they are, all as one long row.
  const bool pointwise = s.pointwise();
  if (pointwise) {
    s.images *= s.height * s.width;
    s.height = s.width = s.out_height = s.out_width = 1;
  }
  // A part is a slice of the input channels, of a share of the images; shares are added up at last.
  const Index lanes = WholeVectors<T>(s.out), taps = s.rows * s.columns * s.in;
  const Index slice = std::min<Index>(s.in, pointwise ? 256 : 32), slices = CeilDiv(s.in, slice);
  const Index shares = std::clamp<Index>(s.images, 1, CeilDiv(kParts, slices));
  const Scratch<T> sums(shares * taps * lanes);
  const Index x_row = s.padded_width() * slice, dy_image = s.out_height * s.out_width;
  const Index x_image = s.padded_height() * x_row;
  const Index in_cache = std::max<Index>(1, kCacheBytes / sizeof(T) / (x_image + dy_image * lanes));
  const Index some = std::min(CeilDiv(s.images, shares), in_cache);
  const bool padded = !pointwise, widened = lanes > s.out;
  const Index copies_size = some * (x_image * padded + dy_image * lanes * widened);
  const Scratch<T> copies(threads.count() * copies_size);
  threads.Share(shares * slices, [=, &sums, &copies](Index part, Index thread) {
    const Index share = part / slices, first = part % slices * slice;
    const Index channels = std::min(slice, s.in - first);
    const Index end = s.images * (share + 1) / shares;
    T* const x_copy = copies + thread * copies_size;
    T* const dy_copy = x_copy + some * x_image * padded;
    T* const share_sums = sums + share * taps * lanes;
    const auto row_of = [&](Index row, Index column, Index channel) {
      return share_sums + ((row * s.columns + column) * s.in + first + channel) * lanes;
    };
    for (Index row = 0; row < s.rows; ++row)
      for (Index column = 0; column < s.columns; ++column)
        std::fill(row_of(row, column, 0), row_of(row, column, channels), T(0));
    for (Index begin = s.images * share / shares; begin < end; begin += some) {
      const Index count = std::min(some, end - begin);
      const T* const images = x + begin * s.height * s.width * s.in;
      const T* const gradients = dy + begin * dy_image * s.out;
      Sums<T> todo = {count, s.out_height, s.out_width, {images + first, s.in, s.in, s.in},
                      {gradients, dy_image * lanes, s.out_width * lanes, lanes}, nullptr};
      Index row_length = 0;
      if (padded) {
        row_length = s.padded_width() * channels;
        const Index image = s.padded_height() * row_length;
        for (Index i = 0; i < count; ++i)
          Pad(s, images + i * s.height * s.width * s.in, first, channels, x_copy + i * image);
        todo.x = {x_copy, image, s.stride_down * row_length, s.stride_right * channels};
      }
      if (widened) {
        Widen(count * dy_image, s.out, lanes, gradients, dy_copy);
        todo.dy.data = dy_copy;
      }
      if (pointwise) {  // a pixel is an image here: one row of them
        todo.images = 1;
        todo.width = count;
      }
      const View<const T> x_all = todo.x, dy_all = todo.dy;
      for (Index row = 0; row < s.rows; ++row)
        ForGroups<T>(s.out, [&](Index group, auto vectors) {
          todo.dy.data = dy_all.data + group;
          const Index length = s.columns * channels;
          for (Index done = 0; done < length;) {
            T* rows[kSums];
            for (Index i = 0; i < std::min<Index>(kSums, length - done); ++i)
              rows[i] = row_of(row, (done + i) / channels, (done + i) % channels) + group;
            todo.x.data = x_all.data + row * row_length + done;
            todo.rows = rows;
            done += AccumulateSome<T, vectors>(todo, length - done);
          }
        });
    }
  });
  threads.Share(kParts, [=, &sums](Index part, Index) {
    for (Index tap = taps * part / kParts; tap < taps * (part + 1) / kParts; ++tap) {
      T* const to = gradient + tap * s.out;
      std::copy(sums + tap * lanes, sums + (tap * lanes + s.out), to);
      for (Index share = 1; share < shares; ++share)
        for (Index o = 0; o < s.out; ++o) to[o] += (sums + (share * taps + tap) * lanes)[o];
    }
  });
}

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
    Convolve(Threads(frame), ShapeOf(frame, x.dims, kernel.dims, y.dims), Data<const T>(x),
             Data<const T>(kernel), Data<T>(y));
  });
}

extern "C" XLA_FFI_Error* jaxcifar_kernel_gradient(XLA_FFI_CallFrame* frame) {
  if (Introduced(frame)) return nullptr;
  const XLA_FFI_Buffer &x = Argument(frame, 0), &dy = Argument(frame, 1);
  const XLA_FFI_Buffer& gradient = *static_cast<const XLA_FFI_Buffer*>(frame->rets.rets[0]);
  return Typed(frame, [&](auto number) {
    using T = decltype(number);
    KernelGradient(Threads(frame), ShapeOf(frame, x.dims, gradient.dims, dy.dims),
                   Data<const T>(x), Data<const T>(dy), Data<T>(gradient));
  });
}
