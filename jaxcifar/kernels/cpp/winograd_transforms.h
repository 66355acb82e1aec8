// The transforms of F(4x4, 3x3), see winograd.h: each is a matrix that is applied along both axes.

#pragma once

#include "tiles.h"

namespace jaxcifar {

constexpr int kTile = 4, kPatch = 6;

// Along one axis, a transform maps kFrom numbers to kTo numbers.

struct PixelTransform {  // B^T
  static constexpr int kFrom = kPatch, kTo = kPatch;
  template <class V>
  static void Apply(const V* d, V* v) {
    v[0] = 4 * d[0] - 5 * d[2] + d[4];
    v[1] = d[3] + d[4] - 4 * (d[1] + d[2]);
    v[2] = d[4] - d[3] + 4 * (d[1] - d[2]);
    v[3] = d[4] - d[2] + 2 * (d[3] - d[1]);
    v[4] = d[4] - d[2] - 2 * (d[3] - d[1]);
    v[5] = 4 * d[1] - 5 * d[3] + d[5];
  }
};

struct TapTransform {  // G
  static constexpr int kFrom = 3, kTo = kPatch;
  template <class V>
  static void Apply(const V* g, V* u) {
    const V outer = g[0] + g[2], wide = g[0] + 4 * g[2], middle = 2 * g[1];
    u[0] = g[0] / 4;
    u[1] = (outer + g[1]) / -6;
    u[2] = (outer - g[1]) / -6;
    u[3] = (wide + middle) / 24;
    u[4] = (wide - middle) / 24;
    u[5] = g[2];
  }
};

struct ProductTransform {  // A^T
  static constexpr int kFrom = kPatch, kTo = kTile;
  template <class V>
  static void Apply(const V* m, V* y) {
    const V sum = m[1] + m[2], difference = m[1] - m[2];
    const V far_sum = m[3] + m[4], far_difference = m[3] - m[4];
    y[0] = m[0] + sum + far_sum;
    y[1] = difference + 2 * far_difference;
    y[2] = sum + 4 * far_sum;
    y[3] = difference + 8 * far_difference + m[5];
  }
};

struct OutputTransform {  // A, for the gradient with respect to the kernel
  static constexpr int kFrom = kTile, kTo = kPatch;
  template <class V>
  static void Apply(const V* y, V* e) {
    const V even = y[0] + y[2], odd = y[1] + y[3];
    const V far_even = y[0] + 4 * y[2], far_odd = 2 * y[1] + 8 * y[3];
    e[0] = y[0];
    e[1] = even + odd;
    e[2] = even - odd;
    e[3] = far_even + far_odd;
    e[4] = far_even - far_odd;
    e[5] = y[3];
  }
};

struct SumTransform {  // G^T
  static constexpr int kFrom = kPatch, kTo = 3;
  template <class V>
  static void Apply(const V* u, V* g) {
    const V near = (u[1] + u[2]) / 6, far = (u[3] + u[4]) / 24;
    g[0] = u[0] / 4 - near + far;
    g[1] = (u[2] - u[1]) / 6 + (u[3] - u[4]) / 12;
    g[2] = 4 * far - near + u[5];
  }
};

// Transforms a matrix along both axes. load(row, column) returns a vector of channels, and
// store(row, column, vector) takes one.
template <class Transform, class T, class Load, class Store>
void TransformMatrix(Load load, Store store) {
  Vector<T> half[Transform::kTo][Transform::kFrom];
  UNROLL for (int column = 0; column < Transform::kFrom; ++column) {
    Vector<T> from[Transform::kFrom], to[Transform::kTo];
    UNROLL for (int row = 0; row < Transform::kFrom; ++row) from[row] = load(row, column);
    Transform::Apply(from, to);
    UNROLL for (int row = 0; row < Transform::kTo; ++row) half[row][column] = to[row];
  }
  UNROLL for (int row = 0; row < Transform::kTo; ++row) {
    Vector<T> to[Transform::kTo];
    Transform::Apply(half[row], to);
    UNROLL for (int column = 0; column < Transform::kTo; ++column) store(row, column, to[column]);
  }
}

}  // namespace jaxcifar
