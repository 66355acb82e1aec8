// The gradient with respect to the kernel of the convolutions of winograd.h:
// G^T [(A dy A^T) * (B^T d B)] G, where the products in the brackets are summed over all tiles. In a
// plane that is one product of matrices, [in, tiles] times [tiles, out].

#pragma once

#include "winograd.h"

namespace jaxcifar {

// Some channels of x, and some of dy.
struct Slice {
  Index first_in, in, first_out, out;
};

// Sets `sums`, [plane][in][lanes], to the products of a slice's channels of x and dy, summed over
// tiles [begin, end), of which `together` are transformed at a time.
template <class T, class Source, class Gradients>
void SumProducts(const Shape& s, const Source& x, const Gradients& dy, Index begin, Index end,
                 const Slice& c, Index together, T* scratch, const Planes<T>& sums) {
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

// Computes G^T u G, the kernel's gradient, for a slice.
template <class T>
void TransformSums(const Shape& s, const Planes<T>& sums, const Slice& c, T* gradient) {
  for (Index in = 0; in < c.in; ++in)
    ForVectors<T>(c.out, [&](Index out, auto count) {
      T* const to = gradient + (c.first_in + in) * s.out + c.first_out + out;
      TransformMatrix<SumTransform, T>(
          [&](int row, int column) { return LoadSome<T>(sums.At(row, column, in) + out, count); },
          [&](int row, int column, Vector<T> g) {
            StoreSome(g, to + (row * 3 + column) * s.in * s.out, count);
          });
    });
}

template <class T, class Source, class Gradients>
void KernelGradientByPlanes(const Threads& threads, const Shape& s, const Source& x,
                            const Gradients& dy, T* gradient) {
  // A part is a slice of the channels in a share of the tiles. There are so few shares that their
  // sums take at most a quarter of the memory of all transforms; they are added up at the end. If
  // there is one, each part completes its own slice.
  const Index tiles = Grid(s).tiles;
  const Index shares = std::clamp<Index>(tiles * (s.in + s.out) / (4 * s.in * s.out), 1, kParts);
  const auto slices_of = [&](Index size) { return CeilDiv(s.in, size) * CeilDiv(s.out, size); };
  const Index most = shares * slices_of(128) < kParts ? 64 : 128;
  const Index in_slices = CeilDiv(s.in, most), slices = slices_of(most);
  const Index in = std::min(s.in, most), lanes = std::min(WholeVectors<T>(s.out), most);
  const Index tile = kPlanes * (in + lanes), group = std::min<Index>(lanes, 3 * kLanes<T>);
  const Index together = std::max<Index>(8, 2 * kCacheBytes / sizeof(T) / tile);
  const Index transforms =
      kPlanes * (PlaneDistance<T>(together * in) + PlaneDistance<T>(together * group));
  const Index plane = PlaneDistance<T>(in * lanes), sums = kPlanes * plane;
  const Scratch<T> scratch(threads.count() * transforms);
  const Scratch<T> all_sums((shares > 1 ? shares * slices : threads.count()) * sums);
  const auto slice_of = [=](Index slice) -> Slice {
    const Index first = slice % in_slices * most, first_out = slice / in_slices * most;
    return {first, std::min(most, s.in - first), first_out, std::min(most, s.out - first_out)};
  };
  const auto sum_products = [=, &scratch, &all_sums](Index part, Index thread) {
    const Index share = part / slices;
    const Slice slice = slice_of(part % slices);
    const Planes<T> to = {all_sums + (shares > 1 ? part : thread) * sums, plane, lanes};
    SumProducts(s, x, dy, tiles * share / shares, tiles * (share + 1) / shares, slice, together,
                scratch + thread * transforms, to);
    if (shares == 1) TransformSums(s, to, slice, gradient);
  };
  const auto add_shares = [=, &all_sums](Index part) {
    const Index slice = part / kParts, begin = in * (part % kParts) / kParts;
    const Index end = in * (part % kParts + 1) / kParts;
    T* const total = all_sums + slice * sums;
    for (Index share = 1; share < shares; ++share)
      for (Index i = 0; i < kPlanes; ++i) {
        T* const to = total + i * plane;
        const T* const from = to + share * slices * sums;
        INDEPENDENT for (Index at = begin * lanes; at < end * lanes; ++at) to[at] += from[at];
      }
    Slice some = slice_of(slice);
    some.in = std::clamp<Index>(some.in - begin, 0, end - begin);
    some.first_in += begin;
    TransformSums<T>(s, {total + begin * lanes, plane, lanes}, some, gradient);
  };
  const Index parts = shares * slices, more_parts = shares > 1 ? slices * kParts : 0;
  threads.ShareStages({parts, more_parts}, [&](Index stage, Index part, Index thread) {
    if (stage == 0) sum_products(part, thread);
    else add_shares(part);
  });
}

}  // namespace jaxcifar
