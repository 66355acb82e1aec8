// How tiles of images are read and written: as they are, or on the other side of a 2x2 max-pooling.
// T is the type of the numbers in registers, S that in memory.

#pragma once

#include "tiles.h"

namespace jaxcifar {

template <class T>
using Mask = Vector<std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>;

// As many bytes as a vector has lanes.
template <class T>
using Bytes [[gnu::vector_size(kVectorBytes / sizeof(T))]] = uint8_t;

inline bool Inside(Index h, Index w, Index height, Index width) {
  return h >= 0 && h < height && w >= 0 && w < width;
}

// Reads images [N, height, width, channels], which are 0 outside.
template <class T, class S = T>
struct Images {
  using Pixel = const S*;

  Pixel At(Index image, Index h, Index w) const {
    if (!Inside(h, w, height, width)) return nullptr;
    return data + ((image * height + h) * width + w) * channels;
  }

  template <class Count>
  static Vector<T> Load(Pixel pixel, Index channel, Count count) {
    return pixel ? LoadSome<T>(pixel + channel, count) : Vector<T>{};
  }

  const S* data;
  Index height, width, channels;
};

// Writes images [N, height, width, channels]; leaves out what lies beyond them.
template <class T, class S = T>
struct ImageTiles {
  template <class Count, int kSize>
  void Store(const Vector<T> (&tile)[kSize][kSize], Index image, Index top, Index left,
             Index channel, Count count) const {
    S* const to = data + image * height * width * channels + channel;
    UNROLL for (int row = 0; row < kSize; ++row)
      UNROLL for (int column = 0; column < kSize; ++column) {
        const Index h = top + row, w = left + column;
        if (h < height && w < width)
          StoreSome(tile[row][column], to + (h * width + w) * channels, count);
      }
  }

  S* data;
  Index height, width, channels;
};

// Reads gradients with respect to images before the pooling: those of the pooled images dy
// [N, height, width, channels] in the corner of each window that was the largest, 0 elsewhere.
template <class T, class S = T>
struct Unpooled {
  struct Pixel {
    const S* dy;
    const uint8_t* corners;
    int corner;
  };

  Pixel At(Index image, Index h, Index w) const {
    if (!Inside(h, w, 2 * height, 2 * width)) return {};
    const Index at = ((image * height + h / 2) * width + w / 2) * channels;
    return {dy + at, corners + at, static_cast<int>(h % 2 * 2 + w % 2)};
  }

  template <class Count>
  static Vector<T> Load(Pixel pixel, Index channel, Count count) {
    if (!pixel.dy) return Vector<T>{};
    Bytes<T> largest{};
    std::memcpy(&largest, pixel.corners + channel, count);
    const Mask<T> here = __builtin_convertvector(largest, Mask<T>) == pixel.corner;
    return (Vector<T>)((Mask<T>)LoadSome<T>(pixel.dy + channel, count) & here);
  }

  const S* dy;
  const uint8_t* corners;
  Index height, width, channels;
};

// Writes the maximum of each 2x2 window, [N, height, width, channels], and its corner: 0 to 3, row
// by row, the first of several. NaN counts as a maximum.
template <class T, class S = T>
struct PooledTiles {
  template <class Count, int kSize>
  void Store(const Vector<T> (&tile)[kSize][kSize], Index image, Index top, Index left,
             Index channel, Count count) const {
    UNROLL for (int row = 0; row < kSize; row += 2)
      UNROLL for (int column = 0; column < kSize; column += 2) {
        const Index h = (top + row) / 2, w = (left + column) / 2;
        if (h >= height || w >= width) continue;
        Vector<T> largest = tile[row][column];
        Mask<T> corner{};
        UNROLL for (int i = 1; i < 4; ++i) {
          const Vector<T> other = tile[row + i / 2][column + i % 2];
          const Mask<T> greater = (other > largest) | (other != other);
          largest = greater ? other : largest;
          corner = greater ? Mask<T>{} + i : corner;
        }
        const Index at = ((image * height + h) * width + w) * channels + channel;
        StoreSome(largest, data + at, count);
        const Bytes<T> bytes = __builtin_convertvector(corner, Bytes<T>);
        std::memcpy(corners + at, &bytes, count);
      }
  }

  S* data;
  uint8_t* corners;
  Index height, width, channels;
};

}  // namespace jaxcifar
