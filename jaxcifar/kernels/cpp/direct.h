// Convolutions computed directly from their definition. In a padded image, the columns that a
// kernel covers and their channels are contiguous, as they are in a row of the kernel, so one loop
// covers both.

#pragma once

#include "tiles.h"

namespace jaxcifar {

// Copies the channels [first, first + channels) of an image to `padded`
// [padded_height, padded_width, channels], with zeros around it.
template <class T, class S>
void Pad(const Shape& s, const S* image, Index first, Index channels, T* padded) {
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
    const S* from = image + (h * s.width + begin) * s.in + first;
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

// Copies pixels of `channels` numbers to pixels of `lanes` numbers, filled up with zeros.
template <class T, class S>
void Widen(Index pixels, Index channels, Index lanes, const S* from, T* to) {
  for (Index pixel = 0; pixel < pixels; ++pixel, from += channels, to += lanes) {
    std::copy(from, from + channels, to);
    std::fill(to + channels, to + lanes, T(0));
  }
}

// Copies the kernel so that each group's weights are contiguous: [group][rows, columns, in][lanes].
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

// T is the type of the sums, S that of the images. If they differ, both x and y are converted while
// they are in the cache.
template <class T, class S>
void ConvolveDirectly(const Threads& threads, const Shape& s, const S* x, const T* kernel, S* y) {
  constexpr bool kConverts = !std::is_same_v<S, T>;
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
  if (s.pointwise()) {  // treat all pixels as one long row
    const Index pixels = s.images * s.height * s.width;
    const Index piece = std::max<Index>(64, kCacheBytes / 4 / sizeof(T) / s.in);
    const Scratch<T> converted(kConverts * threads.count() * piece * (s.in + s.out));
    threads.Share(CeilDiv(pixels, piece), [=, &converted](Index part, Index thread) {
      const Index begin = part * piece, count = std::min(piece, pixels - begin);
      const S* const from = x + begin * s.in;
      S* const to = y + begin * s.out;
      if constexpr (kConverts) {
        T* const x_copy = converted + thread * piece * (s.in + s.out);
        T* const sums = x_copy + piece * s.in;
        std::copy(from, from + count * s.in, x_copy);
        compute({1, 1, count, s.out, {sums, 0, 0, s.out}, {x_copy, 0, 0, s.in}, 0, 1, s.in,
                 nullptr});
        std::copy(sums, sums + count * s.out, to);
      } else {
        compute({1, 1, count, s.out, {to, 0, 0, s.out}, {from, 0, 0, s.in}, 0, 1, s.in, nullptr});
      }
    });
    return;
  }
  const Index row = s.padded_width() * s.in, image = s.padded_height() * row;
  const Index in_cache = std::max<Index>(1, kCacheBytes / sizeof(T) / image);
  const Index some = std::min(CeilDiv(s.images, kParts), in_cache);
  const Scratch<T> padded(threads.count() * some * image);
  const Index y_row = s.out_width * s.out, y_image = s.out_height * y_row;
  const Scratch<T> outputs(kConverts * threads.count() * some * y_image);
  threads.Share(CeilDiv(s.images, some), [=, &padded, &outputs](Index part, Index thread) {
    const Index begin = part * some, count = std::min(some, s.images - begin);
    T* const copies = padded + thread * some * image;
    for (Index i = 0; i < count; ++i)
      Pad(s, x + (begin + i) * s.height * s.width * s.in, 0, s.in, copies + i * image);
    S* const to = y + begin * y_image;
    T* sums;
    if constexpr (kConverts) sums = outputs + thread * some * y_image;
    else sums = to;
    compute({count, s.out_height, s.out_width, s.out, {sums, y_image, y_row, s.out},
             {copies, image, s.stride_down * row, s.stride_right * s.in}, row, s.rows,
             s.columns * s.in, nullptr});
    if constexpr (kConverts) std::copy(sums, sums + count * y_image, to);
  });
}

template <class T, class S>
void KernelGradientDirectly(const Threads& threads, const Shape& shape, const S* x, const S* dy,
                            T* gradient) {
  constexpr bool kConverts = !std::is_same_v<S, T>;
  Shape s = shape;
  // Without padding the pixels are read in place, as one long row.
  const bool pointwise = s.pointwise();
  if (pointwise) {
    s.images *= s.height * s.width;
    s.height = s.width = s.out_height = s.out_width = 1;
  }
  // A part is a slice of the input channels of a share of the images. The shares are summed at the
  // end.
  const Index lanes = WholeVectors<T>(s.out), taps = s.rows * s.columns * s.in;
  const Index slice = std::min<Index>(s.in, pointwise ? 256 : 32), slices = CeilDiv(s.in, slice);
  const Index shares = std::clamp<Index>(s.images, 1, CeilDiv(kParts, slices));
  const Scratch<T> sums(shares * taps * lanes);
  const Index x_row = s.padded_width() * slice, dy_image = s.out_height * s.out_width;
  const Index x_image = s.padded_height() * x_row;
  const Index in_cache = std::max<Index>(1, kCacheBytes / sizeof(T) / (x_image + dy_image * lanes));
  const Index some = std::min(CeilDiv(s.images, shares), in_cache);
  const bool padded = kConverts || !pointwise, widened = kConverts || lanes > s.out;
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
      const S* const images = x + begin * s.height * s.width * s.in;
      const S* const gradients = dy + begin * dy_image * s.out;
      Sums<T> todo = {count, s.out_height, s.out_width, {nullptr, s.in, s.in, s.in},
                      {nullptr, dy_image * lanes, s.out_width * lanes, lanes}, nullptr};
      if constexpr (!kConverts) {
        todo.x.data = images + first;
        todo.dy.data = gradients;
      }
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
      if (pointwise) {  // each pixel counts as an image: treat them as one row
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

}  // namespace jaxcifar
