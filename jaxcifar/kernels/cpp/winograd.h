// 3x3 convolutions with half of the multiplications: Lavin and Gray 2015, "Fast Algorithms for
// Convolutional Neural Networks", sections 4.1 and 4.4.
//
// F(4, 3) computes a tile of four adjacent outputs y, from three taps g and the six pixels d that
// they meet, with six products instead of twelve: y = A^T [(G g) * (B^T d)]. Each of the six
// products belongs to a plane of its own. Products are summed over channels and the kernel's rows
// before A^T is applied. In a plane, an image's outputs form one row of height * tiles numbers.
//
// The results equal the direct convolution's except for rounding, about 2e-6 of the largest output
// in float.

#pragma once

#include "tiles.h"

namespace jaxcifar {

constexpr Index kPlanes = 6, kTile = 4;

// With fewer channels the transforms take as much time as the saved products.
constexpr Index kFewestChannels = 32;

// Whether these functions support a convolution and are faster.
inline bool ConvolvesByPlanes(const Shape& s) {
  return s.rows == 3 && s.columns == 3 && s.stride_down == 1 && s.stride_right == 1 &&
         s.out_width % kTile == 0 && std::min(s.in, s.out) >= kFewestChannels;
}

// For small images the kernel gradient's sums would be read and written too often.
inline bool KernelGradientByPlanesIsFaster(const Shape& s) {
  return ConvolvesByPlanes(s) && s.out_height * s.out_width >= 64;
}

// Computes B^T d for an image's channels [first, first + channels), as
// [plane, padded_height, tiles, channels].
template <class T>
void FromPixels(const Shape& s, const T* image, Index first, Index channels, const T* zeros,
                T* planes) {
  const Index tiles = s.out_width / kTile, plane = s.padded_height() * tiles * channels;
  for (Index h = -s.above; h < s.padded_height() - s.above; ++h)
    for (Index tile = 0; tile < tiles; ++tile, planes += channels) {
      const T* d[kPlanes];
      for (Index i = 0; i < kPlanes; ++i) {
        const Index w = tile * kTile + i - s.left;
        const bool inside = h >= 0 && h < s.height && w >= 0 && w < s.width;
        d[i] = inside ? image + (h * s.width + w) * s.in + first : zeros;
      }
      INDEPENDENT for (Index c = 0; c < channels; ++c) {
        const T d0 = d[0][c], d1 = d[1][c], d2 = d[2][c], d3 = d[3][c], d4 = d[4][c], d5 = d[5][c];
        planes[c] = 4 * d0 - 5 * d2 + d4;
        planes[plane + c] = d3 + d4 - 4 * (d1 + d2);
        planes[2 * plane + c] = d4 - d3 + 4 * (d1 - d2);
        planes[3 * plane + c] = d4 - d2 + 2 * (d3 - d1);
        planes[4 * plane + c] = d4 - d2 - 2 * (d3 - d1);
        planes[5 * plane + c] = 4 * d1 - 5 * d3 + d5;
      }
    }
}

// Computes G g, packed as in `Pack`: [plane][group][rows, in][lanes].
template <class T>
void PackFromTaps(const Threads& threads, const Shape& s, const T* kernel, T* packed) {
  const Index taps = s.rows * s.in, plane = taps * WholeVectors<T>(s.out);
  threads.Share(kParts, [=](Index part, Index) {
    ForGroups<T>(s.out, [&](Index first, auto vectors) {
      const Index lanes = vectors * kLanes<T>;
      for (Index tap = taps * part / kParts; tap < taps * (part + 1) / kParts; ++tap) {
        const T* const g = kernel + (tap / s.in * 3 * s.in + tap % s.in) * s.out + first;
        T* const to = packed + first * taps + tap * lanes;
        INDEPENDENT for (Index lane = 0; lane < lanes; ++lane) {
          const bool exists = first + lane < s.out;
          const T g0 = exists ? g[lane] : 0, g1 = exists ? g[s.in * s.out + lane] : 0;
          const T g2 = exists ? g[2 * s.in * s.out + lane] : 0;
          to[lane] = g0 / 4;
          to[plane + lane] = -(g0 + g1 + g2) / 6;
          to[2 * plane + lane] = -(g0 - g1 + g2) / 6;
          to[3 * plane + lane] = g0 / 24 + g1 / 12 + g2 / 6;
          to[4 * plane + lane] = g0 / 24 - g1 / 12 + g2 / 6;
          to[5 * plane + lane] = g2;
        }
      }
    });
  });
}

template <class T>
void ConvolveByPlanes(const Threads& threads, const Shape& s, const T* x, const T* kernel, T* y) {
  const Index tiles = s.out_width / kTile, row = s.out_height * tiles, taps = s.rows * s.in;
  const Index packed_plane = taps * WholeVectors<T>(s.out);
  const Scratch<T> packed(kPlanes * packed_plane);
  PackFromTaps(threads, s, kernel, packed + 0);
  const Index x_plane = s.padded_height() * tiles * s.in, most_lanes = 3 * kLanes<T>;
  const Index image = kPlanes * (x_plane + row * most_lanes);
  const Index in_cache = std::max<Index>(1, kCacheBytes / sizeof(T) / image);
  const Index some = std::min(CeilDiv(s.images, kParts), in_cache);
  const Index size = some * image + s.in;
  const Scratch<T> scratch(threads.count() * size);
  threads.Share(CeilDiv(s.images, some), [=, &packed, &scratch](Index part, Index thread) {
    const Index begin = part * some, count = std::min(some, s.images - begin);
    T* const zeros = scratch + thread * size;
    T* const planes = zeros + s.in;
    T* const products = planes + some * kPlanes * x_plane;
    std::fill(zeros, planes, T(0));
    for (Index i = 0; i < count; ++i)
      FromPixels(s, x + (begin + i) * s.height * s.width * s.in, 0, s.in, zeros,
                 planes + i * kPlanes * x_plane);
    ForGroups<T>(s.out, [&](Index first, auto vectors) {
      const Index lanes = vectors * kLanes<T>, m = count * row * lanes;
      for (Index plane = 0; plane < kPlanes; ++plane)
        Compute<T, vectors>({1, count, row, lanes, {products + plane * m, 0, row * lanes, lanes},
                             {planes + plane * x_plane, 0, kPlanes * x_plane, s.in},
                             tiles * s.in, s.rows, s.in,
                             packed + (plane * packed_plane + first * taps)});
      const Index used = std::min(lanes, s.out - first);
      for (Index tile = 0; tile < count * row; ++tile) {
        const T* const p = products + tile * lanes;
        T* const to = y + (begin * row + tile) * kTile * s.out + first;
        INDEPENDENT for (Index lane = 0; lane < used; ++lane) {
          const T m1 = p[m + lane], m2 = p[2 * m + lane];
          const T m3 = p[3 * m + lane], m4 = p[4 * m + lane];
          to[lane] = p[lane] + m1 + m2 + m3 + m4;
          to[s.out + lane] = m1 - m2 + 2 * (m3 - m4);
          to[2 * s.out + lane] = m1 + m2 + 4 * (m3 + m4);
          to[3 * s.out + lane] = m1 - m2 + 8 * (m3 - m4) + p[5 * m + lane];
        }
      }
    });
  });
}

// Computes A dy for an image, as [plane, out_height, tiles, lanes].
template <class T>
void FromOutputs(const Shape& s, const T* dy, Index lanes, T* planes) {
  const Index tiles = s.out_height * s.out_width / kTile, plane = tiles * lanes;
  for (Index tile = 0; tile < tiles; ++tile, dy += kTile * s.out, planes += lanes) {
    INDEPENDENT for (Index o = 0; o < s.out; ++o) {
      const T y0 = dy[o], y1 = dy[s.out + o], y2 = dy[2 * s.out + o], y3 = dy[3 * s.out + o];
      planes[o] = y0;
      planes[plane + o] = y0 + y2 + (y1 + y3);
      planes[2 * plane + o] = y0 + y2 - (y1 + y3);
      planes[3 * plane + o] = y0 + 4 * y2 + (2 * y1 + 8 * y3);
      planes[4 * plane + o] = y0 + 4 * y2 - (2 * y1 + 8 * y3);
      planes[5 * plane + o] = y3;
    }
    for (Index i = 0; i < kPlanes; ++i)
      std::fill(planes + i * plane + s.out, planes + i * plane + lanes, T(0));
  }
}

// Computes the gradient with respect to the kernel: G^T [(A dy) * (B^T d)].
template <class T>
void KernelGradientByPlanes(const Threads& threads, const Shape& s, const T* x, const T* dy,
                            T* gradient) {
  const Index lanes = WholeVectors<T>(s.out), taps = kPlanes * s.rows * s.in;
  const Index slice = std::min<Index>(s.in, 64), slices = CeilDiv(s.in, slice);
  const Index shares = std::clamp<Index>(s.images, 1, CeilDiv(kParts, slices));
  const Scratch<T> sums(shares * taps * lanes);
  const Index tiles = s.out_width / kTile, row_length = s.out_height * tiles;
  const Index x_plane = s.padded_height() * tiles * slice, dy_plane = row_length * lanes;
  const Index image = kPlanes * (x_plane + dy_plane);
  const Index in_cache = std::max<Index>(1, kCacheBytes / sizeof(T) / image);
  const Index some = std::min(CeilDiv(s.images, shares), in_cache);
  const Index size = some * image + slice;
  const Scratch<T> scratch(threads.count() * size);
  threads.Share(shares * slices, [=, &sums, &scratch](Index part, Index thread) {
    const Index share = part / slices, first = part % slices * slice;
    const Index channels = std::min(slice, s.in - first);
    const Index plane = s.padded_height() * tiles * channels;
    const Index end = s.images * (share + 1) / shares;
    T* const zeros = scratch + thread * size;
    T* const d = zeros + slice;
    T* const e = d + some * kPlanes * x_plane;
    std::fill(zeros, d, T(0));
    const auto row_of = [&](Index plane_and_row, Index channel) {
      return sums + (share * taps + plane_and_row * s.in + first + channel) * lanes;
    };
    for (Index i = 0; i < kPlanes * s.rows; ++i)
      std::fill(row_of(i, 0), row_of(i, channels), T(0));
    for (Index begin = s.images * share / shares; begin < end; begin += some) {
      const Index count = std::min(some, end - begin);
      for (Index i = 0; i < count; ++i) {
        FromPixels(s, x + (begin + i) * s.height * s.width * s.in, first, channels, zeros,
                   d + i * kPlanes * plane);
        FromOutputs(s, dy + (begin + i) * row_length * kTile * s.out, lanes,
                    e + i * kPlanes * dy_plane);
      }
      for (Index i = 0; i < kPlanes * s.rows; ++i)
        ForGroups<T>(s.out, [&](Index group, auto vectors) {
          for (Index done = 0; done < channels;) {
            T* rows[kSums];
            for (Index r = 0; r < std::min<Index>(kSums, channels - done); ++r)
              rows[r] = row_of(i, done + r) + group;
            const T* const from = d + i / s.rows * plane + i % s.rows * tiles * channels + done;
            const T* const dy_from = e + i / s.rows * dy_plane + group;
            done += AccumulateSome<T, vectors>(
                {count, 1, row_length, {from, kPlanes * plane, 0, channels},
                 {dy_from, kPlanes * dy_plane, 0, lanes}, rows}, channels - done);
          }
        });
    }
  });
  const Index plane = s.rows * s.in * lanes;
  threads.Share(kParts, [=, &sums](Index part, Index) {
    const Index pairs = s.rows * s.in;
    for (Index pair = pairs * part / kParts; pair < pairs * (part + 1) / kParts; ++pair) {
      T* const u = sums + pair * lanes;
      for (Index share = 1; share < shares; ++share)
        for (Index i = 0; i < kPlanes; ++i)
          for (Index o = 0; o < s.out; ++o)
            u[i * plane + o] += u[(share * kPlanes + i) * plane + o];
      T* const to = gradient + (pair / s.in * 3 * s.in + pair % s.in) * s.out;
      INDEPENDENT for (Index o = 0; o < s.out; ++o) {
        const T u12 = (u[plane + o] + u[2 * plane + o]) / 6;
        const T u34 = u[3 * plane + o] + u[4 * plane + o];
        to[o] = u[o] / 4 - u12 + u34 / 24;
        to[s.in * s.out + o] =
            (u[2 * plane + o] - u[plane + o]) / 6 + (u[3 * plane + o] - u[4 * plane + o]) / 12;
        to[2 * s.in * s.out + o] = u34 / 6 - u12 + u[5 * plane + o];
      }
    }
  });
}

}  // namespace jaxcifar
