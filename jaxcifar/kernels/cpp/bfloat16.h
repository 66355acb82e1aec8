// Numbers of type bfloat16 in memory, the upper half of a float; sums and products are of floats.

#pragma once

#include <cstdint>
#include <cstring>

namespace jaxcifar {

struct BFloat16 {
  BFloat16() = default;

  // Rounds to the nearest, of two equally near ones to the even.
  BFloat16(float number) {
    uint32_t word;
    std::memcpy(&word, &number, sizeof word);
    bits = number != number ? 0x7fc0 : (word + 0x7fff + (word >> 16 & 1)) >> 16;
  }

  operator float() const {
    const uint32_t word = static_cast<uint32_t>(bits) << 16;
    float number;
    std::memcpy(&number, &word, sizeof number);
    return number;
  }

  uint16_t bits;
};

}  // namespace jaxcifar
