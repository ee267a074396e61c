// Gradient descent on the exponential network, in the multiplicative form, for one lane and a few dozen steps.
//
// With u = e + v, e = exp(z_0) and v = exp(z_t) - exp(z_0), all times the sign a_r of the neuron, a step moves the
// pre-activations by D = A h, where g = -eta kappa r_i u and h = g (Gram space, A = K) or h = X^T g (weight space,
// A = X); then v += u (e^D - 1), with a polynomial for |D| <= 1/4. Only increments are summed (A.10). The state of W
// columns at a time stays in registers and the first cache; a step reads and writes it once.

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
constexpr int kFlush = 16;  // blocks of columns whose sums are added in T before they are added in double
// (e^D - 1) / D with the smallest relative error: 8e-8 for |D| <= 1/4 and 1e-8 for |D| <= log(2) / 2, for float; 5e-17
// and 2e-17 for double.
constexpr double kSingle[2][6] = {
    {0.99999999245, 0.49999830897, 0.1666673932, 0.04177515051, 0.0083333296837},
    {1.0000000106, 0.49999998124, 0.16666506171, 0.041667136354, 0.0083690740072, 0.0013888872633}};
constexpr double kDouble[2][11] = {
    {1, 0.49999999999999983, 0.16666666666662948, 0.0416666666667008414, 0.00833333333810144083,
     0.00138888888713792361, 0.000198412484538256359, 2.48016153307969659e-5, 2.75964584153673213e-6,
     2.75573168397118159e-7},
    {1, 0.500000000000000555, 0.166666666666665635, 0.0416666666665738535, 0.00833333333339786493,
     0.0013888888932278148, 0.000198412697074242348, 2.48015045776196827e-5, 2.75574148010806363e-6,
     2.76262730339606815e-7, 2.50521025113207659e-8}};
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
    typedef double Points __attribute__((vector_size(64)));  // eight cost as much as one: they wait for divisions
    const Points parts = Points{1, 2, 3, 4, 5, 6, 7, 8} / 9;
    double low = -1, high = 1;
    while (high - low > std::numeric_limits<double>::epsilon() / 4) {
      const Points at = low + (high - low) * parts;
      Points pivot = sign * diagonal[0] - at, smallest = pivot;
      for (int64_t i = 1; i < n; ++i) {
        pivot = sign * diagonal[i] - at - squares[i - 1] / pivot;
        smallest = pivot < smallest ? pivot : smallest;
      }
      const double below = low, above = high;
      for (int k = 7; k >= 0; --k)
        if (!(smallest[k] > 0)) high = at[k];
      for (int k = 0; k < 8; ++k)
        if (at[k] < high) low = at[k];
      if (low == below && high == above) break;
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
  T *A, *P, *e, *v, *theta, *g, *h, *pull;
  Vec *sums, *pairs;
  std::vector<double> totals, products;  // products: sums over neurons of D_i D_j, j <= i

  static Vec* at(T* array, int64_t place) { return reinterpret_cast<Vec*>(array + place); }
  static int64_t up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

  // `matrix` (n, depth); weight space also needs its transpose, the kernel sums over pairs of points.
  void allocate(int64_t n_, int64_t depth_, int64_t columns_, bool weight, bool kernel) {
    n = n_, depth = depth_, columns = columns_;
    rows = up(n, kRows), inner = up(depth, kRows), blocks = up(columns, W) / W;
    const int64_t sizes[] = {rows * inner, weight ? rows * inner : 0, blocks * rows * W, blocks * rows * W,
                             blocks * inner * W, rows * W, weight ? inner * W : 0, rows, rows * kLanes,
                             kernel ? n * (n + 1) / 2 * kLanes : 0};
    T** const places[] = {&A, &P, &e, &v, &theta, &g, &h, &pull, reinterpret_cast<T**>(&sums),
                          reinterpret_cast<T**>(&pairs)};
    int64_t total = kLanes;
    for (int64_t size : sizes) total += up(size, kLanes);
    storage.assign(total, T(0));
    T* next = reinterpret_cast<T*>(up(reinterpret_cast<int64_t>(storage.data()), kBytes));
    for (int i = 0; i < 10; ++i) *places[i] = next, next += up(sizes[i], kLanes);
    totals.assign(rows, 0.0), products.assign(kernel ? n * (n + 1) / 2 : 0, 0.0);
    if (!weight) h = g;
  }

  // Rows in groups of kRows, so that a tile reads them in order.
  void pack_matrix(T* to, const T* from, int64_t height, int64_t width, int64_t padded, bool transposed) {
    for (int64_t i = 0; i < height; ++i)
      for (int64_t k = 0; k < width; ++k)
        to[(i / kRows * padded + k) * kRows + i % kRows] = transposed ? from[k * height + i] : from[i * width + k];
  }

  // out (kRows, W) = kRows rows of the matrix, (kRows, depth), times x (depth, W), of which `read` returns the vectors.
  template <typename F>
  static inline void tile(const T* matrix, int64_t depth, Vec (&out)[kRows][kVectors], F read) {
    Vec sum[kRows][kVectors] = {};
    for (int64_t place = 0; place < depth * kVectors; place += kVectors, matrix += kRows) {
      Vec x[kVectors];
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) x[c] = read(place + c);
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

  // e^D - 1 for |D| <= 1/4, or log(2) / 2 if `wide`.
  template <bool wide>
  static inline Vec expm1_near(Vec D) {
    constexpr int terms = (sizeof(T) == 4 ? 5 : 10) + wide;
    constexpr const double* coefficient = sizeof(T) == 4 ? kSingle[wide] : kDouble[wide];
    Vec p = Vec{} + T(coefficient[terms - 1]);
#pragma GCC unroll 12
    for (int k = terms - 2; k >= 0; --k) p = p * D + T(coefficient[k]);
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
    return scale * expm1_near<true>(f) + (scale - T(1));
  }

  // Whether every |D| <= 1/4: by their bits, since processors add integers while they multiply numbers.
  static inline bool small(const Vec (&D)[kRows][kVectors]) {
    typedef std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t> Int;
    typedef Int Ints __attribute__((vector_size(kBytes)));
    constexpr Int sign = Int(1) << (8 * sizeof(T) - 1), quarter = sizeof(T) == 4 ? 0x3e800000 : Int(0x3fd) << 52;
    Ints beyond{};
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c)
        beyond |= (reinterpret_cast<Ints>(D[r][c]) & (sign - 1)) + (sign - 1 - quarter);
    uint64_t any = 0;
    for (int i = 0; i < kBytes / 8; ++i) any |= reinterpret_cast<const uint64_t*>(&beyond)[i];
    return !(any & (uint64_t(sign) << (64 - 8 * sizeof(T)) | sign));
  }

  // One step of the columns of a block: pull (rows) is -eta kappa r.
  template <bool weight>
  void step(int64_t block) {
    const int64_t tall = rows, deep = inner;  // copies: the compiler cannot know that no store below changes them
    const Vec* initial = at(e, block * tall * W);
    Vec *change = at(v, block * tall * W), *moved = at(theta, block * deep * W), *out = at(g, 0), *in = at(h, 0);
    Vec* const total = sums;
    const T *factor = pull, *forward = A, *back = P;
    // g is made, and theta moved, by the first tile that reads them
    const auto make = [&](int64_t place) {
      return out[place] = factor[place / kVectors] * (initial[place] + change[place]);
    };
    const auto move = [&](int64_t place) {
      const Vec value = weight ? in[place] : make(place);
      moved[place] += value;
      return value;
    };
    Vec D[kRows][kVectors];
    for (int64_t k = 0; weight && k < deep; k += kRows) {
      if (k == 0) tile(back, tall, D, make);
      else tile(back + k * tall, tall, D, [&](int64_t place) { return out[place]; });
      for (int j = 0; j < kRows * kVectors; ++j) in[k * kVectors + j] = D[j / kVectors][j % kVectors];
    }
    for (int64_t i = 0; i < tall; i += kRows) {
      if (i == 0) tile(forward, deep, D, move);
      else tile(forward + i * deep, deep, D, [&](int64_t place) { return in[place]; });
      const int64_t place = i * kVectors;
      if (small(D)) grow(D, initial + place, change + place, total + i, [](Vec x) { return expm1_near<false>(x); });
      else grow(D, initial + place, change + place, total + i, [](Vec x) { return expm1(x); });
    }
  }

  // v += u (e^D - 1) of the rows of a tile; the sums of v.
  template <typename F>
  static inline void grow(const Vec (&D)[kRows][kVectors], const Vec* initial, Vec* change, Vec* total, F growth) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      Vec sum = total[r];
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; ++c) {
        const int64_t place = r * kVectors + c;
        Vec value = change[place];
        value += (initial[place] + value) * growth(D[r][c]);
        change[place] = value;
        sum += value;
      }
      total[r] = sum;
    }
  }

  // One step of all columns; totals are the sums of v over all neurons then.
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
      for (int64_t i = 0; i < rows * kVectors; ++i) sums[i / kVectors] += at(v, block * rows * W)[i];
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
      tile(A + i * inner, inner, D, [&](int64_t place) { return own[place]; });
      for (int64_t j = 0, place = i * kVectors; j < kRows * kVectors; ++j, ++place) {
        const Vec moved = D[j / kVectors][j % kVectors];
        change[place] = initial[place] * expm1(moved);
        if (!weight) squares[j % kVectors] += own[place] * moved;  // c^T K c
      }
    }
    for (int64_t k = 0; weight && k < inner * kVectors; ++k) squares[k % kVectors] += own[k] * own[k];
  }

  // Adds D_i D_j of the columns of a block, D = e + v = +-phi'(z_t).
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

  // A vector in double; of floats, the sums of its halves.
  typedef double Wide __attribute__((vector_size(kBytes)));
  static inline Wide widened(const Vec& sums) {
    if constexpr (sizeof(T) == 8) return sums;
    typedef float Half __attribute__((vector_size(kBytes / 2)));
    Half halves[2];
    std::memcpy(halves, &sums, kBytes);
    return __builtin_convertvector(halves[0], Wide) + __builtin_convertvector(halves[1], Wide);
  }

  static void flush(Vec* from, std::vector<double>& to) {
    for (double& total : to) {
      const Wide wide = widened(*from);
      double one[2] = {};
#pragma GCC unroll 8
      for (int l = 0; l < kBytes / 8; ++l) one[l % 2] += wide[l];
      total += one[0] + one[1];
      *from++ = Vec{};
    }
  }
};

template <typename T>
double norm(const std::vector<T>& r) {  // of numbers of any size
  double largest = 0, sum = 0;
  for (T x : r) sum += double(x) * double(x);
  if (sum > 1e-200 && sum < 1e200) return std::sqrt(sum);
  for (T x : r) largest = std::isnan(x) ? NAN : std::max(largest, double(std::abs(x)));
  if (!(largest > 0) || std::isinf(largest)) return largest;
  sum = 0;
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
  const T *signs = input(2), *e = input(1), *theta = input(6), *v = input(7);
  const auto each = [&](int64_t height, int64_t padded, auto visit) {
    for (int64_t i = 0; i < height; ++i)
      for (int64_t b = 0, c = 0; b < branches; ++b)
        for (int64_t j = 0, run; j < live; j += run, c += run) {
          run = std::min(live - j, W - c % W);
          visit((c / W * padded + i) * W + c % W, (i * branches + b) * p + j, i * p + j, signs + b * p + j, run);
        }
  };
  using Place = int64_t;
  const auto signed_copy = [](const T* from, const T* sign, Place run, T* to) {
    for (Place k = 0; k < run; ++k) to[k] = sign[k] * from[k];
  };
  each(n, lane.rows, [&](Place to, Place from, Place shared, const T* sign, Place run) {
    signed_copy(e + shared, sign, run, lane.e + to);
    signed_copy(v + from, sign, run, lane.v + to);
  });
  each(depth, lane.inner, [&](Place to, Place from, Place, const T*, Place run) {
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

  T *new_theta = output(0), *new_v = output(1);
  // in place, padding is 0 already
  if (new_theta != theta) std::memset(new_theta, 0, depth * branches * p * sizeof(T));
  if (new_v != v) std::memset(new_v, 0, n * branches * p * sizeof(T));
  each(n, lane.rows, [&](Place from, Place to, Place, const T* sign, Place run) {
    signed_copy(lane.v + from, sign, run, new_v + to);
  });
  each(depth, lane.inner, [&](Place from, Place to, Place, const T*, Place run) {
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
