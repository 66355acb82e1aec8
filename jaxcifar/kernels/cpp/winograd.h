// 3x3 convolutions with a quarter of the multiplications: Lavin and Gray 2015, "Fast Algorithms for
// Convolutional Neural Networks", sections 4.1 and 4.3.
//
// F(4x4, 3x3) computes a tile of 4x4 outputs y from 3x3 taps g and the 6x6 pixels d that they meet,
// with 36 products instead of 144: y = A^T [(G g G^T) * (B^T d B)] A. Each of the 36 products is in
// a plane of its own, and in a plane the convolution of a batch is one product of matrices,
// [tiles, in] times [in, out]. Tiles may reach beyond the image, and those of several images follow
// each other, so images need no particular size.
//
// The results equal the direct convolution's except for rounding, about 1e-5 of the largest output
// in float.

#pragma once

#include "images.h"
#include "winograd_transforms.h"

namespace jaxcifar {

constexpr int kPlanes = kPatch * kPatch;

// With fewer channels the transforms take as much time as the saved products.
constexpr Index kFewestChannels = 16;

// Transforming the taps takes about as long as the products of this many tiles.
constexpr Index kTilesPerTransform = 16;

// Up to this many tiles, the threads share the pixels' transforms; with more, the taps'.
constexpr Index kFewTiles = 128;

// With more: the number of tiles that a thread convolves at a time.
constexpr Index kTogether = 32;

// The tiles of a batch, those of the first image first.
struct Grid {
  explicit Grid(const Shape& s)
      : down(CeilDiv(s.out_height, kTile)), right(CeilDiv(s.out_width, kTile)),
        tiles(s.images * down * right) {}

  struct Place {
    Index image, top, left;  // the tile's first output
  };

  Place At(Index tile) const {
    return {tile / (down * right), tile / right % down * kTile, tile % right * kTile};
  }

  Index down, right, tiles;
};

// Whether these functions support a convolution.
inline bool ConvolvesByPlanes(const Shape& s) {
  return s.rows == 3 && s.columns == 3 && s.stride_down == 1 && s.stride_right == 1 &&
         std::min(s.in, s.out) >= kFewestChannels;
}

// Whether they convolve faster than the definition.
inline bool ConvolvesFasterByPlanes(const Shape& s) {
  return ConvolvesByPlanes(s) && kPlanes * (Grid(s).tiles + kTilesPerTransform) <
                                     9 * s.images * s.out_height * s.out_width;
}

// Where the planes of some tiles are: the distances from one plane and one tile to the next.
template <class T>
struct Planes {
  T* data;
  Index plane, tile;

  T* At(int row, int column, Index t) const {
    return data + (row * kPatch + column) * plane + t * tile;
  }
};

// Transforms squares of channels [first, first + channels) for tiles [begin, end): B^T d B or
// A dy A^T. A tile's square starts `above` and `left` of its first output.
template <class Transform, class T, class Source>
void TransformSquares(const Grid& grid, const Source& source, Index above, Index left, Index begin,
                      Index end, Index first, Index channels, const Planes<T>& planes) {
  constexpr int kSize = Transform::kFrom;
  for (Index tile = begin; tile < end; ++tile) {
    const Grid::Place place = grid.At(tile);
    typename Source::Pixel square[kSize][kSize];
    for (int row = 0; row < kSize; ++row)
      for (int column = 0; column < kSize; ++column)
        square[row][column] =
            source.At(place.image, place.top - above + row, place.left - left + column);
    ForVectors<T>(channels, [&](Index c, auto count) {
      TransformMatrix<Transform, T>(
          [&](int row, int column) { return source.Load(square[row][column], first + c, count); },
          [&](int row, int column, Vector<T> v) {
            StoreSome(v, planes.At(row, column, tile - begin) + c, count);
          });
    });
  }
}

// Computes A^T m A, the outputs of tiles [begin, end) in channels [first, first + channels).
template <class T, class Tiles>
void TransformProducts(const Grid& grid, const Planes<T>& products, Index begin, Index end,
                       Index first, Index channels, const Tiles& outputs) {
  for (Index tile = begin; tile < end; ++tile) {
    const Grid::Place place = grid.At(tile);
    ForVectors<T>(channels, [&](Index c, auto count) {
      Vector<T> y[kTile][kTile];
      TransformMatrix<ProductTransform, T>(
          [&](int row, int column) { return Load(products.At(row, column, tile - begin) + c); },
          [&](int row, int column, Vector<T> output) { y[row][column] = output; });
      outputs.Store(y, place.image, place.top, place.left, first + c, count);
    });
  }
}

// The distance between planes of `size` numbers. They are a cache line apart, since planes at a
// multiple of 4 KiB would compete for the same lines of the cache.
template <class T>
Index PlaneDistance(Index size) {
  return size + 64 / sizeof(T);
}

// Computes G g G^T for a group of output channels and input channels [begin, end), as
// [plane][in][lanes].
template <class T>
void TransformTaps(const Shape& s, const T* kernel, Index begin, Index end, Index first,
                   Index lanes, T* packed) {
  const Index plane = PlaneDistance<T>(s.in * lanes);
  for (Index in = begin; in < end; ++in)
    ForVectors<T>(std::min(lanes, s.out - first), [&](Index c, auto count) {
      const T* const taps = kernel + in * s.out + first + c;
      const Planes<T> to = {packed + in * lanes + c, plane, 0};
      TransformMatrix<TapTransform, T>(
          [&](int row, int column) {
            return LoadSome<T>(taps + (row * 3 + column) * s.in * s.out, count);
          },
          [&](int row, int column, Vector<T> u) { StoreSome(u, to.At(row, column, 0), count); });
    });
}

// Computes a group of output channels of tiles [begin, end) from their pixels' transforms v and the
// group's taps' transforms. `products` has room for the group's planes.
template <class T, int kVectors, class Tiles>
void ConvolveGroup(const Shape& s, const Planes<T>& v, Index begin, Index end, Index first,
                   const T* packed, T* products, const Tiles& y) {
  constexpr Index kWidth = kVectors * kLanes<T>;
  const Index count = end - begin, weights = PlaneDistance<T>(s.in * kWidth);
  const Planes<T> m = {products, PlaneDistance<T>(count * kWidth), kWidth};
  for (Index plane = 0; plane < kPlanes; ++plane)
    Compute<T, kVectors>({1, 1, count, kWidth, {m.data + plane * m.plane, 0, 0, kWidth},
                          {v.data + plane * v.plane, 0, 0, v.tile}, 0, 1, s.in,
                          packed + plane * weights});
  TransformProducts(Grid(s), m, begin, end, first, std::min(kWidth, s.out - first), y);
}

// Each part is a group of output channels of all tiles.
template <class T, class Source, class Tiles>
void ConvolveFewTiles(const Threads& threads, const Shape& s, const Source& x, const T* kernel,
                      const Tiles& y) {
  const Grid grid(s);
  const Index tiles = grid.tiles, most_lanes = 3 * kLanes<T>;
  const Index v_plane = PlaneDistance<T>(tiles * s.in);
  const Index u_plane = PlaneDistance<T>(s.in * most_lanes);
  const Index size = kPlanes * (u_plane + PlaneDistance<T>(tiles * most_lanes));
  const Scratch<T> pixels(kPlanes * v_plane), scratch(threads.count() * size);
  const Planes<T> v = {pixels + 0, v_plane, s.in};
  Index groups = 0;
  ForGroups<T>(s.out, [&](Index, auto) { ++groups; });
  threads.ShareStages({tiles, groups}, [&](Index stage, Index part, Index thread) {
    if (stage == 0) {
      const Planes<T> to = {v.data + part * v.tile, v.plane, v.tile};
      TransformSquares<PixelTransform>(grid, x, s.above, s.left, part, part + 1, 0, s.in, to);
      return;
    }
    T* const packed = scratch + thread * size;
    Index group = 0;
    ForGroups<T>(s.out, [&](Index first, auto vectors) {
      if (group++ != part) return;
      TransformTaps(s, kernel, 0, s.in, first, vectors * kLanes<T>, packed);
      ConvolveGroup<T, vectors>(s, v, 0, tiles, first, packed, packed + kPlanes * u_plane, y);
    });
  });
}

// Each part is some tiles, in all output channels.
template <class T, class Source, class Tiles>
void ConvolveManyTiles(const Threads& threads, const Shape& s, const Source& x, const T* kernel,
                       const Tiles& y) {
  const Grid grid(s);
  const Index tiles = grid.tiles;
  const Scratch<T> packed(kPlanes * PlaneDistance<T>(s.in) * WholeVectors<T>(s.out));
  const Index v_plane = PlaneDistance<T>(kTogether * s.in);
  const Index size = kPlanes * (v_plane + PlaneDistance<T>(kTogether * 3 * kLanes<T>));
  const Scratch<T> scratch(threads.count() * size);
  const Index parts = CeilDiv(tiles, kTogether);
  threads.ShareStages({kParts, parts}, [&](Index stage, Index part, Index thread) {
    T* weights = packed + 0;
    if (stage == 0) {
      ForGroups<T>(s.out, [&](Index first, auto vectors) {
        const Index lanes = vectors * kLanes<T>;
        TransformTaps(s, kernel, s.in * part / kParts, s.in * (part + 1) / kParts, first, lanes,
                      weights);
        weights += kPlanes * PlaneDistance<T>(s.in * lanes);
      });
      return;
    }
    const Index begin = part * kTogether, end = std::min(begin + kTogether, tiles);
    const Planes<T> v = {scratch + thread * size, v_plane, s.in};
    TransformSquares<PixelTransform>(grid, x, s.above, s.left, begin, end, 0, s.in, v);
    ForGroups<T>(s.out, [&](Index first, auto vectors) {
      ConvolveGroup<T, vectors>(s, v, begin, end, first, weights, v.data + kPlanes * v_plane, y);
      weights += kPlanes * PlaneDistance<T>(s.in * vectors * kLanes<T>);
    });
  });
}

// Convolves a source of images, such as `Images`, into tiles, such as `ImageTiles`.
template <class T, class Source, class Tiles>
void ConvolveByPlanes(const Threads& threads, const Shape& s, const Source& x, const T* kernel,
                      const Tiles& y) {
  if (Grid(s).tiles <= kFewTiles) ConvolveFewTiles(threads, s, x, kernel, y);
  else ConvolveManyTiles(threads, s, x, kernel, y);
}

}  // namespace jaxcifar
