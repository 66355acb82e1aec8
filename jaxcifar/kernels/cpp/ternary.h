// Kernels of three levels, five weights per byte: digits of base 3, and 0, 1, 2 for the levels -1, 0
// and 1. A byte has the weights of one output channel in five taps that are a fifth of all taps
// apart, the first in the lowest digit, so that the weights of a tap are in bytes that follow each
// other.

#pragma once

#include "work.h"

namespace jaxcifar {

constexpr Index kWeightsPerByte = 5;

// Writes the kernel [taps, out] of `codes` [taps / 5, rounded up, out]. An output channel has the
// weights positive[channel] at level 1 and -negative[channel] at level -1.
template <class T>
void Unpack(const Threads& threads, Index taps, Index out, const uint8_t* codes,
            const T* positive, const T* negative, T* kernel) {
  const Index rows = CeilDiv(taps, kWeightsPerByte), parts = std::min(rows, kParts);
  const Scratch<int16_t> remainders(threads.count() * out);
  threads.Share(parts, [=, &remainders](Index part, Index thread) {
    int16_t* const rest = remainders + thread * out;
    for (Index row = rows * part / parts; row < rows * (part + 1) / parts; ++row) {
      std::copy(codes + row * out, codes + (row + 1) * out, rest);
      for (Index tap = row; tap < taps; tap += rows) {
        T* const weights = kernel + tap * out;
        INDEPENDENT
        for (Index channel = 0; channel < out; ++channel) {
          const int quotient = rest[channel] * 171 >> 9;  // a division by 3, exact up to 242
          const T level = static_cast<T>(rest[channel] - 3 * quotient - 1);
          rest[channel] = static_cast<int16_t>(quotient);
          weights[channel] = level * (level > 0 ? positive[channel] : negative[channel]);
        }
      }
    }
  });
}

}  // namespace jaxcifar
