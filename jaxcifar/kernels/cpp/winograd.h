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

// Transforming the taps takes as long as the products of this many tiles.
constexpr Index kTilesPerTransform = 128;

// Tiles that are convolved together.
constexpr Index kTogether = 32;

// Channels of x and of dy whose products are added up together.
constexpr Index kSlice = 128;

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

// Computes G g G^T for input channels [begin, end), as [group][plane][in][lanes].
template <class T>
void TransformTaps(const Shape& s, const T* kernel, Index begin, Index end, T* packed) {
  ForGroups<T>(s.out, [&](Index first, auto vectors) {
    const Index lanes = vectors * kLanes<T>, plane = PlaneDistance<T>(s.in * lanes);
    for (Index in = begin; in < end; ++in)
      ForVectors<T>(std::min(lanes, s.out - first), [&](Index c, auto count) {
        const T* const taps = kernel + in * s.out + first + c;
        const Planes<T> to = {packed + in * lanes + c, plane, 0};
        TransformMatrix<TapTransform, T>(
            [&](int row, int column) {
              return LoadSome(taps + (row * 3 + column) * s.in * s.out, count);
            },
            [&](int row, int column, Vector<T> u) { StoreSome(u, to.At(row, column, 0), count); });
      });
    packed += kPlanes * plane;
  });
}

// Computes G^T u G, the kernel's gradient, for input channels [begin, end).
template <class T>
void TransformSums(const Shape& s, const Planes<T>& sums, Index begin, Index end, T* gradient) {
  for (Index in = begin; in < end; ++in)
    ForVectors<T>(s.out, [&](Index c, auto count) {
      TransformMatrix<SumTransform, T>(
          [&](int row, int column) { return LoadSome(sums.At(row, column, in) + c, count); },
          [&](int row, int column, Vector<T> g) {
            StoreSome(g, gradient + ((row * 3 + column) * s.in + in) * s.out + c, count);
          });
    });
}

// Convolves a source of images, such as `Images`, into tiles, such as `ImageTiles`.
template <class T, class Source, class Tiles>
void ConvolveByPlanes(const Threads& threads, const Shape& s, const Source& x, const T* kernel,
                      const Tiles& y) {
  const Grid grid(s);
  const Index tiles = grid.tiles;
  const Scratch<T> packed(kPlanes * PlaneDistance<T>(s.in) * WholeVectors<T>(s.out));
  const Index together = std::clamp<Index>(CeilDiv(tiles, kParts), 8, kTogether);
  const Index v_plane = PlaneDistance<T>(together * s.in);
  const Index size = kPlanes * (v_plane + PlaneDistance<T>(together * 3 * kLanes<T>));
  const Scratch<T> scratch(threads.count() * size);
  const auto convolve = [=, &packed, &scratch](Index part, Index thread) {
    const Index begin = part * together, end = std::min(begin + together, tiles);
    const Index count = end - begin;
    const Planes<T> v = {scratch + thread * size, v_plane, s.in};
    TransformSquares<PixelTransform>(grid, x, s.above, s.left, begin, end, 0, s.in, v);
    const T* weights = packed + 0;
    ForGroups<T>(s.out, [&](Index first, auto vectors) {
      const Index lanes = vectors * kLanes<T>;
      const Planes<T> m = {v.data + kPlanes * v_plane, PlaneDistance<T>(count * lanes), lanes};
      for (Index plane = 0; plane < kPlanes; ++plane, weights += PlaneDistance<T>(s.in * lanes))
        Compute<T, vectors>({1, 1, count, lanes, {m.data + plane * m.plane, 0, 0, lanes},
                             {v.data + plane * v.plane, 0, 0, s.in}, 0, 1, s.in, weights});
      TransformProducts(grid, m, begin, end, first, std::min(lanes, s.out - first), y);
    });
  };
  threads.ShareStages(
      {kParts, CeilDiv(tiles, together)}, [&](Index stage, Index part, Index thread) {
        if (stage == 1) return convolve(part, thread);
        TransformTaps(s, kernel, s.in * part / kParts, s.in * (part + 1) / kParts, packed + 0);
      });
}

// A slice of the channels of x, and one of the channels of dy.
struct Slices {
  Index first_in, in, first_out, out;
};

// Sets `sums`, [plane][in][lanes], to the products of the channels of x with those of dy, summed
// over tiles [begin, end).
template <class T, class Source, class Gradients>
void SumProducts(const Shape& s, const Source& x, const Gradients& dy, Index begin, Index end,
                 const Slices& c, Index together, T* scratch, const Planes<T>& sums) {
  const Grid grid(s);
  for (Index plane = 0; plane < kPlanes; ++plane)
    for (Index in = 0; in < c.in; ++in) {
      T* const to = sums.data + plane * sums.plane + in * sums.tile;
      std::fill(to, to + WholeVectors<T>(c.out), T(0));
    }
  const Planes<T> v = {scratch, PlaneDistance<T>(together * c.in), c.in};
  for (; begin < end; begin += together) {
    const Index count = std::min(together, end - begin);
    TransformSquares<PixelTransform>(grid, x, s.above, s.left, begin, begin + count, c.first_in,
                                     c.in, v);
    ForGroups<T>(c.out, [&](Index first, auto vectors) {
      const Index lanes = vectors * kLanes<T>;
      const Planes<T> e = {v.data + kPlanes * v.plane, PlaneDistance<T>(count * lanes), lanes};
      TransformSquares<OutputTransform>(grid, dy, 0, 0, begin, begin + count, c.first_out + first,
                                        std::min(lanes, c.out - first), e);
      for (Index plane = 0; plane < kPlanes; ++plane)
        for (Index done = 0; done < c.in;) {
          T* rows[kSums];
          for (Index r = 0; r < std::min<Index>(kSums, c.in - done); ++r)
            rows[r] = sums.data + plane * sums.plane + (done + r) * sums.tile + first;
          done += AccumulateSome<T, vectors>(
              {1, 1, count, {v.data + plane * v.plane + done, 0, 0, v.tile},
               {e.data + plane * e.plane, 0, 0, e.tile}, rows}, c.in - done);
        }
    });
  }
}

// Computes the gradient with respect to the kernel: G^T [(A dy A^T) * (B^T d B)] G.
template <class T, class Source, class Gradients>
void KernelGradientByPlanes(const Threads& threads, const Shape& s, const Source& x,
                            const Gradients& dy, T* gradient) {
  // A part is a slice of the channels of x and one of dy, in a share of the tiles. The shares are
  // summed at the end; there are so many that their sums take no more memory than the transforms.
  const Index tiles = Grid(s).tiles, lanes = WholeVectors<T>(s.out);
  const Index in_slices = CeilDiv(s.in, kSlice), slices = in_slices * CeilDiv(s.out, kSlice);
  const Index shares = std::clamp<Index>(tiles * (s.in + s.out) / (s.in * s.out), 1, kParts);
  const Index plane = PlaneDistance<T>(s.in * lanes);
  const Scratch<T> sums(shares * kPlanes * plane);
  const auto sums_of = [=, &sums](Index share) -> Planes<T> {
    return {sums + share * kPlanes * plane, plane, lanes};
  };
  const Index most_in = std::min(s.in, kSlice), most_out = std::min(lanes, kSlice);
  const Index tile = kPlanes * (most_in + most_out);
  const Index together = std::max<Index>(8, 2 * kCacheBytes / sizeof(T) / tile);
  const Index size = kPlanes * (PlaneDistance<T>(together * most_in) +
                                PlaneDistance<T>(together * std::min<Index>(lanes, 3 * kLanes<T>)));
  const Scratch<T> scratch(threads.count() * size);
  const auto sum_products = [=, &scratch](Index part, Index thread) {
    const Index share = part / slices, slice = part % slices;
    const Index first_in = slice % in_slices * kSlice, first_out = slice / in_slices * kSlice;
    const Slices channels = {first_in, std::min(kSlice, s.in - first_in),
                             first_out, std::min(kSlice, s.out - first_out)};
    Planes<T> to = sums_of(share);
    to.data += first_in * lanes + first_out;
    SumProducts(s, x, dy, tiles * share / shares, tiles * (share + 1) / shares, channels, together,
                scratch + thread * size, to);
  };
  const auto transform_sums = [=](Index begin, Index end) {
    const Planes<T> total = sums_of(0);
    for (Index share = 1; share < shares; ++share)
      for (Index i = 0; i < kPlanes; ++i) {
        T* const to = total.data + i * plane;
        const T* const from = sums_of(share).data + i * plane;
        INDEPENDENT for (Index at = begin * lanes; at < end * lanes; ++at) to[at] += from[at];
      }
    TransformSums(s, total, begin, end, gradient);
  };
  threads.ShareStages({shares * slices, kParts}, [&](Index stage, Index part, Index thread) {
    if (stage == 0) sum_products(part, thread);
    else transform_sums(s.in * part / kParts, s.in * (part + 1) / kParts);
  });
}

}  // namespace jaxcifar
