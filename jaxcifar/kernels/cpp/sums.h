// Sums over all pixels of a batch, for each channel, in an order that does not depend on the number
// of threads.

#pragma once

#include "work.h"

namespace jaxcifar {

// Adds the sums of x and of x * y over pixels [begin, end) to `sums`, [2, channels].
template <class T, class S>
void AddPixels(Index begin, Index end, Index channels, const S* x, const S* y, T* sums) {
  T* const products = sums + channels;
  Index pixel = begin;
  for (; pixel + 4 <= end; pixel += 4) {
    const S* const x0 = x + pixel * channels;
    const S* const y0 = y + pixel * channels;
    const S *const x1 = x0 + channels, *const x2 = x1 + channels, *const x3 = x2 + channels;
    const S *const y1 = y0 + channels, *const y2 = y1 + channels, *const y3 = y2 + channels;
    INDEPENDENT for (Index c = 0; c < channels; ++c) {
      sums[c] += (x0[c] + x1[c]) + (x2[c] + x3[c]);
      products[c] += (x0[c] * y0[c] + x1[c] * y1[c]) + (x2[c] * y2[c] + x3[c] * y3[c]);
    }
  }
  for (; pixel < end; ++pixel)
    INDEPENDENT for (Index c = 0; c < channels; ++c) {
      sums[c] += x[pixel * channels + c];
      products[c] += x[pixel * channels + c] * y[pixel * channels + c];
    }
}

// Computes the sums of x and of x * y, both [pixels, channels], as [2, channels].
template <class T, class S>
void ChannelSums(const Threads& threads, Index pixels, Index channels, const S* x, const S* y,
                 T* result) {
  // Sums of sums of few numbers each lose little to rounding.
  constexpr Index kPixels = 256;
  const Index parts = std::clamp<Index>(CeilDiv(pixels, kPixels), 1, 4 * kParts);
  const Index length = 2 * channels;
  const Scratch<T> sums(2 * parts * length);
  threads.Share(parts, [=, &sums](Index part, Index) {
    T* const total = sums + 2 * part * length;
    T* const some = total + length;
    std::fill(total, some, T(0));
    const Index end = pixels * (part + 1) / parts;
    for (Index begin = pixels * part / parts; begin < end; begin += kPixels) {
      std::fill(some, some + length, T(0));
      AddPixels(begin, std::min(begin + kPixels, end), channels, x, y, some);
      for (Index i = 0; i < length; ++i) total[i] += some[i];
    }
  });
  std::fill(result, result + length, T(0));
  for (Index part = 0; part < parts; ++part)
    for (Index i = 0; i < length; ++i) result[i] += (sums + 2 * part * length)[i];
}

}  // namespace jaxcifar
