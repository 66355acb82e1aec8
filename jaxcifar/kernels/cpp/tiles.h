// Sums of products that stay in vector registers until they are complete: tiles of the outputs, and
// tiles of the kernel's gradient. The lanes of a vector are output channels.

#pragma once

#include <cstring>
#include <type_traits>

#include "bfloat16.h"
#include "work.h"

namespace jaxcifar {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kRegisters = 32;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kRegisters = 32;
#else
constexpr int kVectorBytes = 16, kRegisters = 16;
#endif

// Number of registers that hold sums.
constexpr int kSums = kRegisters * 3 / 4;

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

// Loads the first `count` numbers, at most a vector; the other lanes are 0.
template <class T>
Vector<T> LoadSome(const T* from, Index count) {
  if (count == kLanes<T>) return Load(from);
  Vector<T> vector{};
  std::memcpy(&vector, from, count * sizeof(T));
  return vector;
}

// Stores the first `count` lanes.
template <class V, class T>
void StoreSome(const V& vector, T* to, Index count) {
  std::memcpy(to, &vector, count * sizeof(T));
}

// The same for numbers of type bfloat16 in memory.
using Words [[gnu::vector_size(kVectorBytes)]] = uint32_t;
using HalfWords [[gnu::vector_size(kVectorBytes / 2)]] = uint16_t;

template <class T>
Vector<float> LoadSome(const BFloat16* from, Index count) {
  static_assert(std::is_same_v<T, float>);
  HalfWords halves{};
  std::memcpy(&halves, from, count == kLanes<float> ? sizeof halves : count * sizeof *from);
  return (Vector<float>)(__builtin_convertvector(halves, Words) << 16);
}

inline void StoreSome(const Vector<float>& vector, BFloat16* to, Index count) {
  const Words words = (Words)vector;
  const Words rounded = (words + 0x7fff + (words >> 16 & 1)) >> 16;
  const Words not_numbers = (Words)(vector != vector);
  const HalfWords halves = __builtin_convertvector(not_numbers ? 0x7fc0 : rounded, HalfWords);
  std::memcpy(to, &halves, count == kLanes<float> ? sizeof halves : count * sizeof *to);
}

// Splits channels into vectors. Calls work(first, count) for each; if there are enough channels for
// a whole vector, `count` is a compile-time constant, and the last vector may overlap the one
// before.
template <class T, class Work>
void ForVectors(Index channels, Work work) {
  if (channels < kLanes<T>) return work(0, channels);
  for (Index first = 0; first < channels; first += kLanes<T>)
    work(std::min(first, channels - kLanes<T>), std::integral_constant<int, kLanes<T>>());
}

// Arrays of sums are kept in registers only if every index into them is known at compile time.
#define UNROLL _Pragma("GCC unroll 32")

// The number of channels rounded up to whole vectors.
template <class T>
Index WholeVectors(Index channels) {
  return CeilDiv(channels, kLanes<T>) * kLanes<T>;
}

// Images, or gradients with respect to images, and the distances from one image, row and pixel to
// the next.
template <class T>
struct View {
  T* data;
  Index image, down, right;

  T* At(Index i, Index h, Index w) const { return data + i * image + h * down + w * right; }
};

// Splits the output channels into groups of one to three vectors. Calls group(first, vectors) for
// each group, where `vectors` is a compile-time constant.
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

// One group of output channels of some images.
template <class T>
struct Outputs {
  Index images, height, width, channels;  // channels: may be fewer than the group's lanes
  View<T> y;
  View<const T> x;  // its first pixel is the one that meets the kernel's first tap
  Index x_row;
  Index rows, length;  // of the kernel; length is columns times input channels
  const T* weights;    // [rows, length, lanes]
};

// Computes one tile of kDown x kRight pixels.
template <class T, int kDown, int kRight, int kVectors>
void Tile(const Outputs<T>& o, Index image, Index h, Index w) {
  const T* x = o.x.At(image, h, w);
  const T* weights = o.weights;
  if (o.rows == 1) {  // x was not copied to the cache before: prefetch the next tile's pixels
    const T* const next = x + kRight * o.x.right;
    for (Index i = 0; i < kRight * o.x.right; i += kVectorBytes / sizeof(T))
      __builtin_prefetch(next + i);
  }
  Vector<T> sum[kDown][kRight][kVectors];
  UNROLL for (int d = 0; d < kDown; ++d)
    UNROLL for (int r = 0; r < kRight; ++r)
      UNROLL for (int v = 0; v < kVectors; ++v) sum[d][r][v] = Vector<T>{};
  for (Index row = 0; row < o.rows; ++row, x += o.x_row) {
    // One pointer per four pixels. The asm hides from the compiler how the pointers are related;
    // otherwise it keeps one pointer and an offset per pixel, and runs out of registers.
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

// Computes all tiles. If they do not divide an image evenly, the last ones overlap the others.
template <class T, int kDown, int kRight, int kVectors>
void Tiles(const Outputs<T>& o) {
  for (Index image = 0; image < o.images; ++image)
    for (Index h = 0; h < o.height; h += kDown)
      for (Index w = 0; w < o.width; w += kRight)
        Tile<T, kDown, kRight, kVectors>(o, image, std::min(h, o.height - kDown),
                                         std::min(w, o.width - kRight));
}

// Computes a group of output channels, in tiles of a size that fits the images.
template <class T, int kVectors>
void Compute(const Outputs<T>& o) {
  constexpr int kPixels = kRegisters / 4;
  if constexpr (kVectors == 1)
    if (o.width >= 2 * kPixels) return Tiles<T, 1, 2 * kPixels, 1>(o);
  if (o.width >= kPixels) return Tiles<T, 1, kPixels, kVectors>(o);
  if (o.width >= kPixels / 2 && o.height >= 2) return Tiles<T, 2, kPixels / 2, kVectors>(o);
  Tiles<T, 1, 1, kVectors>(o);
}

// The contribution of some images to some rows of the kernel's gradient. A row belongs to one tap
// and one input channel.
template <class T>
struct Sums {
  Index images, height, width;
  View<const T> x, dy;
  T* const* rows;  // the sums are added to these
};

// Adds to kRows rows and returns kRows.
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

// Adds to as many of the remaining rows as fit into registers, and returns their number.
template <class T, int kVectors>
int AccumulateSome(const Sums<T>& s, Index rows_left) {
  constexpr int kMost = kSums / kVectors;
  if (rows_left >= kMost) return Accumulate<T, kMost, kVectors>(s);
  if (rows_left >= 8 && kMost > 8) return Accumulate<T, 8, kVectors>(s);
  if (rows_left >= 4 && kMost > 4) return Accumulate<T, 4, kVectors>(s);
  return Accumulate<T, 1, kVectors>(s);
}

}  // namespace jaxcifar
