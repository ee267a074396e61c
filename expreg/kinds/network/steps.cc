// Gradient descent on the exponential network, in the multiplicative form, for one lane and a few dozen steps.
//
// With u = e + v, e = exp(z_0) and v = exp(z_t) - exp(z_0), a step moves the pre-activations by D = A h, where
// g = -eta kappa a_r r_i u and h = g (Gram space, A = K) or h = X^T g (weight space, A = X); then v += u (e^D - 1),
// with a polynomial for |D| <= 1/4. Only increments are summed (A.10). The state of W columns at a time stays in
// registers and the first cache; a step reads and writes it once.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>
#include <vector>

#include "xla/ffi/api/c_api.h"

namespace {

// Of a vector, and the rows and vectors of a tile, whose sums stay in registers: there are 32 of them, or 16.
#ifdef __AVX512F__
constexpr int kBytes = 64, kRows = 8, kVectors = 2;
#else
constexpr int kBytes = 32, kRows = 4, kVectors = 3;
#endif
constexpr int kFlush = 16;   // blocks of columns whose sums are added in T before they are added in double
enum Status : int32_t { kRunning = 0, kConverged = 1, kMaxSteps = 2, kDiverged = 3, kNonfinite = 4 };

// The extreme eigenvalues of a symmetric matrix (n, n), which is lost: Householder's reflections make it tridiagonal,
// and bisection looks at the signs of pivots. Not a number where an entry is none or infinite.
struct Spectrum {
  int64_t n;
  double bound = 0;                       // on every |eigenvalue|
  std::vector<double> diagonal, squares;  // of the tridiagonal matrix over the bound; those beside it squared

  Spectrum(double* H, int64_t n_) : n(n_), diagonal(n), squares(n) {
    for (int64_t i = 0; i < n; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < n; ++j) sum += std::abs(H[i * n + j]);
      bound = sum <= bound ? bound : sum;  // what is not a number stays
      if (std::isnan(sum)) break;
    }
    if (!std::isfinite(bound) || bound == 0) return;
    for (int64_t i = 0; i < n * n; ++i) H[i] /= bound;  // squares of no entry leave the range of numbers
    std::vector<double> u(n), w(n);
    for (int64_t k = 0; k < n - 1; ++k) {
      double size = 0, pulled = 0;
      for (int64_t i = k + 1; i < n; ++i) u[i] = H[k * n + i], w[i] = 0, size += u[i] * u[i];
      squares[k] = size;
      const double length = std::sqrt(size);
      u[k + 1] += std::copysign(length, u[k + 1]);
      const double square = 2 * std::abs(u[k + 1]) * length;  // |u|^2
      if (k == n - 2 || !(square > 0)) continue;
      for (int64_t j = k + 1; j < n; ++j)
        for (int64_t i = k + 1; i < n; ++i) w[i] += H[j * n + i] * u[j];
      for (int64_t i = k + 1; i < n; ++i) w[i] *= 2 / square, pulled += w[i] * u[i];
      for (int64_t i = k + 1; i < n; ++i) w[i] -= pulled / square * u[i];
      for (int64_t i = k + 1; i < n; ++i)
        for (int64_t j = k + 1; j < n; ++j) H[i * n + j] -= u[i] * w[j] + w[i] * u[j];
    }
    for (int64_t i = 0; i < n; ++i) diagonal[i] = H[i * n + i];
  }

  // The smallest eigenvalue (sign 1), or the negative of the largest (sign -1).
  double lowest(double sign) const {
    if (!std::isfinite(bound)) return std::numeric_limits<double>::quiet_NaN();
    double low = -1, high = 1;
    while (high - low > std::numeric_limits<double>::epsilon() / 4) {
      const double middle = (low + high) / 2;
      if (middle == low || middle == high) break;
      double pivot = sign * diagonal[0] - middle;
      for (int64_t i = 1; i < n && pivot > 0; ++i) pivot = sign * diagonal[i] - middle - squares[i - 1] / pivot;
      (pivot > 0 ? low : high) = middle;
    }
    return high * bound;
  }
};

template <typename T>
struct Lane {
  typedef T Vec __attribute__((vector_size(kBytes), aligned(kBytes), may_alias));
  static constexpr int64_t kLanes = kBytes / sizeof(T), W = kVectors * kLanes;

  int64_t n, depth, columns, rows, inner, blocks;  // rows, inner: n and depth rounded up to tiles
  std::vector<T> storage;
  T *A, *P, *e, *v, *theta, *signs, *g, *h, *pull;
  Vec *sums, *pairs;
  std::vector<double> totals, products;  // products: sums over neurons of D_i D_j, j <= i

  static Vec* at(T* array, int64_t place) { return reinterpret_cast<Vec*>(array + place); }
  static int64_t up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

  // `matrix` (n, depth); weight space also needs its transpose, the kernel sums over pairs of points.
  void allocate(int64_t n_, int64_t depth_, int64_t columns_, bool weight, bool kernel) {
    n = n_, depth = depth_, columns = columns_;
    rows = up(n, kRows), inner = up(depth, kRows), blocks = up(columns, W) / W;
    const int64_t sizes[] = {rows * inner, weight ? rows * inner : 0, blocks * rows * W, blocks * rows * W,
                             blocks * inner * W, blocks * W, rows * W, weight ? inner * W : 0, rows, rows * kLanes,
                             kernel ? n * (n + 1) / 2 * kLanes : 0};
    T** const places[] = {&A, &P, &e, &v, &theta, &signs, &g, &h, &pull, reinterpret_cast<T**>(&sums),
                          reinterpret_cast<T**>(&pairs)};
    int64_t total = kLanes;
    for (int64_t size : sizes) total += up(size, kLanes);
    storage.assign(total, T(0));
    T* next = reinterpret_cast<T*>(up(reinterpret_cast<int64_t>(storage.data()), kBytes));
    for (int i = 0; i < 11; ++i) *places[i] = next, next += up(sizes[i], kLanes);
    totals.assign(rows, 0.0), products.assign(kernel ? n * (n + 1) / 2 : 0, 0.0);
    if (!weight) h = g;
  }

  // Rows in groups of kRows, so that a tile reads them in order.
  void pack_matrix(T* to, const T* from, int64_t height, int64_t width, int64_t padded, bool transposed) {
    for (int64_t i = 0; i < height; ++i)
      for (int64_t k = 0; k < width; ++k)
        to[(i / kRows * padded + k) * kRows + i % kRows] = transposed ? from[k * height + i] : from[i * width + k];
  }

  // out (kRows, W) = kRows rows of the matrix, (kRows, depth), times `in` (depth, W).
  static inline void tile(const T* matrix, const Vec* x, int64_t depth, Vec (&out)[kRows][kVectors]) {
    Vec sum[kRows][kVectors] = {};
    for (int64_t k = 0; k < depth; ++k, matrix += kRows, x += kVectors) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < kVectors; ++c) sum[r][c] += matrix[r] * x[c];
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) out[r][c] = sum[r][c];
  }

  // e^D - 1 for |D| < 0.35, to rounding: the Taylor polynomial.
  static inline Vec expm1_near(Vec D) {
    constexpr T inverse[] = {1, 1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040, 1. / 40320, 1. / 362880,
                             1. / 3628800, 1. / 39916800, 1. / 479001600};
    constexpr int degree = sizeof(T) == 4 ? 7 : 12;
    Vec p = Vec{} + inverse[degree - 1];
#pragma GCC unroll 12
    for (int k = degree - 2; k >= 0; --k) p = p * D + inverse[k];
    return D * p;
  }

  // The same for any D: with D = k log 2 + f it is 2^k (e^f - 1) + (2^k - 1).
  static inline Vec expm1(Vec D) {
    typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Int;
    typedef Int Ints __attribute__((vector_size(kBytes)));
    constexpr int digits = std::numeric_limits<T>::digits - 1, bias = std::numeric_limits<T>::max_exponent - 1;
    const Vec magic = Vec{} + T(1.5) * T(Int(1) << digits);  // adding it rounds to an integer in the low bits
    D = D > T(2 * bias) ? Vec{} + T(2 * bias) : D < T(-2 * bias) ? Vec{} - T(2 * bias) : D;
    const Vec shifted = D * T(1.4426950408889634) + magic, k = shifted - magic;
    constexpr T high = sizeof(T) == 4 ? 0.693359375 : 0.693145751953125;  // log 2 in two parts: k times it is exact
    const Vec f = (D - k * high) - k * T(0.69314718055994530942L - high);
    Ints power = reinterpret_cast<Ints>(shifted) - reinterpret_cast<Ints>(magic) + bias;
    power = power < 0 ? Ints{} : power > 2 * bias + 1 ? Ints{} + (2 * bias + 1) : power;
    const Vec scale = reinterpret_cast<Vec>(power << digits);  // 0 and infinity at the ends
    return scale * expm1_near(f) + (scale - T(1));
  }

  // Whether every |D| <= 1/4; what is not a number stays that in the polynomial.
  static inline bool small(const Vec (&D)[kRows][kVectors]) {
    typedef decltype(D[0][0] > D[0][0]) Mask;
    Mask beyond{};
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) beyond |= D[r][c] * D[r][c] > T(1) / 16;
    int64_t any = 0;
    for (int i = 0; i < kBytes / 8; ++i) any |= reinterpret_cast<const int64_t*>(&beyond)[i];
    return any == 0;
  }

  // One step of the columns of a block: pull (rows) is -eta kappa r.
  template <bool weight>
  void step(int64_t block) {
    const int64_t tall = rows, deep = inner;  // copies: the compiler cannot know that no store below changes them
    const Vec *a = at(signs, block * W), *initial = at(e, block * tall * W);
    Vec *change = at(v, block * tall * W), *moved = at(theta, block * deep * W), *out = at(g, 0), *in = at(h, 0);
    Vec* const total = sums;
    const T *factor = pull, *forward = A, *back = P;
    Vec sign[kVectors];
    std::copy_n(a, kVectors, sign);
    for (int64_t i = 0; i < tall; ++i)
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) {
        const int64_t place = i * kVectors + c;
        const Vec value = (factor[i] * sign[c]) * (initial[place] + change[place]);
        out[place] = value;
        if (!weight) moved[place] += value;
      }
    Vec D[kRows][kVectors];
    for (int64_t k = 0; weight && k < deep; k += kRows) {
      tile(back + k * tall, out, tall, D);
      for (int j = 0; j < kRows * kVectors; ++j) {
        in[k * kVectors + j] = D[j / kVectors][j % kVectors];
        moved[k * kVectors + j] += D[j / kVectors][j % kVectors];
      }
    }
    for (int64_t i = 0; i < tall; i += kRows) {
      tile(forward + i * deep, in, deep, D);
      const bool inside = small(D);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        Vec sum = total[i + r];
#pragma GCC unroll 4
        for (int c = 0; c < kVectors; ++c) {
          const int64_t place = (i + r) * kVectors + c;
          Vec value = change[place];
          value += (initial[place] + value) * (inside ? expm1_near(D[r][c]) : expm1(D[r][c]));
          change[place] = value;
          sum += sign[c] * value;
        }
        total[i + r] = sum;
      }
    }
  }

  // One step of all columns; totals are sum_r a_r v_ir then.
  template <bool weight>
  void advance() {
    std::fill(totals.begin(), totals.end(), 0.0);
    for (int64_t block = 0; block < blocks; ++block) {
      step<weight>(block);
      if (block % kFlush == kFlush - 1 || block == blocks - 1) flush(sums, totals);
    }
  }

  void sum_at_start() {
    std::fill(totals.begin(), totals.end(), 0.0);
    for (int64_t block = 0; block < blocks; ++block) {
      for (int64_t i = 0; i < rows * kVectors; ++i)
        sums[i / kVectors] += at(signs, block * W)[i % kVectors] * at(v, block * rows * W)[i];
      if (block % kFlush == kFlush - 1 || block == blocks - 1) flush(sums, totals);
    }
  }

  // v of a block again from theta, so that rounding does not add up for long; the squares of how far neurons moved.
  template <bool weight>
  void refresh(int64_t block, Vec (&squares)[kVectors]) {
    const Vec *initial = at(e, block * rows * W), *own = at(theta, block * inner * W);
    Vec *change = at(v, block * rows * W), D[kRows][kVectors];
    for (Vec& square : squares) square = Vec{};
    for (int64_t i = 0; i < rows; i += kRows) {
      tile(A + i * inner, own, inner, D);
      for (int64_t j = 0, place = i * kVectors; j < kRows * kVectors; ++j, ++place) {
        const Vec moved = D[j / kVectors][j % kVectors];
        change[place] = initial[place] * expm1(moved);
        if (!weight) squares[j % kVectors] += own[place] * moved;  // c^T K c
      }
    }
    for (int64_t k = 0; weight && k < inner * kVectors; ++k) squares[k % kVectors] += own[k] * own[k];
  }

  // Adds D_i D_j of the columns of a block, D = e + v = phi'(z_t).
  void correlate(int64_t block) {
    const Vec *initial = at(e, block * rows * W), *change = at(v, block * rows * W);
    Vec *D = at(g, 0), *sum = pairs;
    for (int64_t i = 0; i < rows * kVectors; ++i) D[i] = initial[i] + change[i];
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j <= i; ++j, ++sum)
#pragma GCC unroll 4
        for (int c = 0; c < kVectors; ++c) *sum += D[i * kVectors + c] * D[j * kVectors + c];
  }

  // The smallest eigenvalue of H(t) = K o (D D^T) / width.
  double kernel(const T* gram, double width) {
    for (int64_t block = 0; block < blocks; ++block) {
      correlate(block);
      if (block % kFlush == kFlush - 1 || block == blocks - 1) flush(pairs, products);
    }
    std::vector<double> H(n * n);
    const double* product = products.data();
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j <= i; ++j) H[i * n + j] = H[j * n + i] = gram[i * n + j] * *product++ / width;
    return Spectrum(H.data(), n).lowest(1);
  }

  static void flush(Vec* from, std::vector<double>& to) {
    for (double& total : to) {
      for (int l = 0; l < kLanes; ++l) total += (*from)[l];
      *from++ = Vec{};
    }
  }
};

template <typename T>
double norm(const std::vector<T>& r) {  // of numbers of any size
  double largest = 0, sum = 0;
  for (T x : r) largest = std::isnan(x) ? NAN : std::max(largest, double(std::abs(x)));
  if (!(largest > 0) || std::isinf(largest)) return largest;
  for (T x : r) sum += (x / largest) * (x / largest);
  return largest * std::sqrt(sum);
}

// Operands: matrix (n, depth); e (n, p); signs (branches, p); r_0 (n); eta, kappa, tolerance, limit; step, budget,
// live columns, whether in weight space; theta (depth, branches, p); v (n, branches, p); radii (p) or (0); X X^T (n, n)
// or (0). Results: theta, v, ||r_t|| at the steps that were looked at (not a number after the last), step and status;
// the largest movement of a neuron, alone and over its radius, and the smallest eigenvalue of H(t), if it has X X^T.
template <typename T>
void run(XLA_FFI_CallFrame* frame) {
  const auto operand = [&](int i) { return static_cast<XLA_FFI_Buffer*>(frame->args.args[i]); };
  const auto input = [&](int i) { return static_cast<const T*>(operand(i)->data); };
  const auto output = [&](int i) { return static_cast<T*>(static_cast<XLA_FFI_Buffer*>(frame->rets.rets[i])->data); };
  const int64_t n = operand(0)->dims[0], depth = operand(0)->dims[1];
  const int64_t branches = operand(2)->dims[0], p = operand(2)->dims[1];
  const int64_t most = static_cast<XLA_FFI_Buffer*>(frame->rets.rets[2])->dims[0];
  const T *start = input(3), eta = input(4)[0], scale = input(4)[1], tolerance = input(4)[2], limit = input(4)[3];
  const auto* counts = static_cast<const int32_t*>(operand(5)->data);
  int32_t step = counts[0], status = kRunning;
  const int64_t live = std::min<int64_t>(counts[2], p);
  const bool weight = counts[3];

  static thread_local Lane<T> own;
  Lane<T>& lane = own;
  constexpr int64_t W = Lane<T>::W;
  const bool asked = operand(9)->dims[0];
  lane.allocate(n, depth, branches * live, weight, asked);
  lane.pack_matrix(lane.A, input(0), n, depth, lane.inner, false);
  if (weight) lane.pack_matrix(lane.P, input(0), depth, n, lane.rows, true);
  // an array (height, branches, p) lies here in blocks of W live columns, row by row: visit each run of both
  const auto each = [&](int64_t height, int64_t padded, auto visit) {
    for (int64_t i = 0; i < height; ++i)
      for (int64_t b = 0, c = 0; b < branches; ++b)
        for (int64_t j = 0, run; j < live; j += run, c += run) {
          run = std::min(live - j, W - c % W);
          visit((c / W * padded + i) * W + c % W, (i * branches + b) * p + j, i * p + j, run);
        }
  };
  const T *signs = input(2), *e = input(1), *theta = input(6), *v = input(7);
  using Place = int64_t;
  each(1, 1, [&](Place to, Place from, Place, Place run) { std::copy_n(signs + from, run, lane.signs + to); });
  each(n, lane.rows, [&](Place to, Place from, Place shared, Place run) {
    std::copy_n(e + shared, run, lane.e + to);
    std::copy_n(v + from, run, lane.v + to);
  });
  each(depth, lane.inner, [&](Place to, Place from, Place, Place run) {
    std::copy_n(theta + from, run, lane.theta + to);
  });

  lane.sum_at_start();
  std::vector<T> r(n);
  T* size = output(2);
  std::fill(size, size + most, std::numeric_limits<T>::quiet_NaN());
  for (int64_t look = 0; look < most; ++look) {
    for (int64_t i = 0; i < n; ++i) r[i] = start[i] + scale * T(lane.totals[i]);
    const T now = size[look] = T(norm(r));
    if (!std::isfinite(now)) status = kNonfinite;
    else if (now <= tolerance && tolerance > 0) status = kConverged;
    else if (now > limit) status = kDiverged;
    else if (step >= counts[1]) status = kMaxSteps;
    if (status != kRunning) break;
    for (int64_t i = 0; i < n; ++i) lane.pull[i] = -eta * scale * r[i];
    weight ? lane.template advance<true>() : lane.template advance<false>();
    ++step;
  }

  const int64_t known = operand(8)->dims[0];
  const T* radii = input(8);
  T farthest = 0, share = 0;
  for (int64_t block = 0; block < lane.blocks; ++block) {
    typename Lane<T>::Vec squares[kVectors];
    weight ? lane.template refresh<true>(block, squares) : lane.template refresh<false>(block, squares);
    for (int64_t c = block * W; c < std::min((block + 1) * W, branches * live); ++c) {
      T moved = std::sqrt(squares[c % W / Lane<T>::kLanes][c % Lane<T>::kLanes]);
      if (std::isnan(moved)) moved = std::numeric_limits<T>::infinity();  // out of range: infinite
      farthest = std::max(farthest, moved);
      if (known && !(moved / radii[c % live] <= share)) share = moved / radii[c % live];  // not a number stays
    }
  }
  output(4)[0] = farthest, output(4)[1] = share, output(4)[2] = asked ? lane.kernel(input(9), branches * live) : 0;

  if (live < p) {
    std::memset(output(0), 0, depth * branches * p * sizeof(T));
    std::memset(output(1), 0, n * branches * p * sizeof(T));
  }
  T *new_theta = output(0), *new_v = output(1);
  each(n, lane.rows, [&](Place from, Place to, Place, Place run) { std::copy_n(lane.v + from, run, new_v + to); });
  each(depth, lane.inner, [&](Place from, Place to, Place, Place run) {
    std::copy_n(lane.theta + from, run, new_theta + to);
  });
  auto* ended = static_cast<int32_t*>(static_cast<XLA_FFI_Buffer*>(frame->rets.rets[3])->data);
  ended[0] = step, ended[1] = status;
}

// Operand: matrices (..., n, n). Results: the smallest and the largest eigenvalue of each, (...).
void extremes(XLA_FFI_CallFrame* frame) {
  const auto* given = static_cast<XLA_FFI_Buffer*>(frame->args.args[0]);
  const int64_t n = given->dims[given->rank - 1];
  const auto* matrices = static_cast<const double*>(given->data);
  double* found[2];
  for (int i = 0; i < 2; ++i) found[i] = static_cast<double*>(static_cast<XLA_FFI_Buffer*>(frame->rets.rets[i])->data);
  int64_t count = 1;
  for (int64_t i = 0; i < given->rank - 2; ++i) count *= given->dims[i];
  for (int64_t i = 0; i < count; ++i) {
    std::vector<double> H(matrices + i * n * n, matrices + (i + 1) * n * n);
    const Spectrum spectrum(H.data(), n);
    found[0][i] = spectrum.lowest(1), found[1][i] = -spectrum.lowest(-1);
  }
}

XLA_FFI_Error* answer(XLA_FFI_CallFrame* frame, void (*work)(XLA_FFI_CallFrame*)) {
  for (auto* asked = frame->extension_start; asked != nullptr; asked = asked->next)
    if (asked->type == XLA_FFI_Extension_Metadata) {  // XLA asks once for which interface this was built
      auto* metadata = reinterpret_cast<XLA_FFI_Metadata_Extension*>(asked)->metadata;
      metadata->api_version.major_version = XLA_FFI_API_MAJOR;
      metadata->api_version.minor_version = XLA_FFI_API_MINOR;
      metadata->traits = 0;
      return nullptr;
    }
  try {
    work(frame);
    return nullptr;
  } catch (const std::bad_alloc&) {  // the engine halves its lanes and goes on
    XLA_FFI_Error_Create_Args error{sizeof(XLA_FFI_Error_Create_Args), nullptr, "RESOURCE_EXHAUSTED: a lane",
                                    XLA_FFI_Error_Code_RESOURCE_EXHAUSTED};
    return frame->api->XLA_FFI_Error_Create(&error);
  }
}

}  // namespace

extern "C" XLA_FFI_Error* expreg_steps(XLA_FFI_CallFrame* frame) {
  return answer(frame, [](XLA_FFI_CallFrame* own) {
    const bool single = static_cast<XLA_FFI_Buffer*>(own->args.args[0])->dtype == XLA_FFI_DataType_F32;
    single ? run<float>(own) : run<double>(own);
  });
}

extern "C" XLA_FFI_Error* expreg_extremes(XLA_FFI_CallFrame* frame) { return answer(frame, extremes); }
