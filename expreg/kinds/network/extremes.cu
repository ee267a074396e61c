// The extreme eigenvalues of symmetric float64 matrices on a GPU, one warp for each; kernel.py compiles this for each N.
//
// Householder reflections make the matrix tridiagonal. Then each half of the warp narrows an interval around one of the
// two eigenvalues: its 16 threads count the eigenvalues below 16 points of it at once (Sturm sequences).

#define UNROLL _Pragma("unroll")

namespace {

constexpr int kRow = N | 1;     // of a matrix in shared memory: an odd number lets 32 threads read a column at once
constexpr int kRounds = 14;     // 17^14 parts of the first interval: 57 bits
constexpr double kTiny = 1e-290;

#ifndef EMULATED
__device__ double* block_memory() {
  extern __shared__ double memory[];
  return memory;
}
#endif

__device__ double over_warp(double value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
}

// Reduce A to a tridiagonal matrix with the same eigenvalues; off[i] is beside its diagonal in row i + 1.
__device__ void reduce(double* A, double* off, double* v, double* w) {
  const int lane = threadIdx.x;
  for (int k = 0; k + 1 < N; ++k) {
    double rest = 0;
    for (int i = k + 2 + lane; i < N; i += 32) rest += A[i * kRow + k] * A[i * kRow + k];
    rest = over_warp(rest);
    const double first = A[(k + 1) * kRow + k];
    const double length = -copysign(sqrt(first * first + rest), first), head = first - length;
    const bool beside = rest > kTiny;  // of entries up to 1
    if (lane == 0) off[k] = beside ? length : first;
    if (!beside) continue;
    const double factor = 2 / (head * head + rest);
    for (int i = k + 1 + lane; i < N; i += 32) v[i] = i == k + 1 ? head : A[i * kRow + k];
    __syncwarp();
    double along = 0;
    for (int i = k + 1 + lane; i < N; i += 32) {
      double sum = 0;
      for (int j = k + 1; j < N; ++j) sum += A[i * kRow + j] * v[j];
      w[i] = factor * sum;
      along += w[i] * v[i];
    }
    along = over_warp(along) * factor / 2;
    for (int i = k + 1 + lane; i < N; i += 32) w[i] -= along * v[i];
    __syncwarp();
    for (int i = k + 1 + lane; i < N; i += 32)
      for (int j = k + 1; j < N; ++j) A[i * kRow + j] -= v[i] * w[j] + w[i] * v[j];
    __syncwarp();
  }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(32) expreg_extremes(const double* matrices, double* low, double* high) {
  double* A = block_memory();
  double *off = A + N * kRow, *v = off + N, *w = v + N;
  const int lane = threadIdx.x, upper = lane / 16;
  const double* given = matrices + static_cast<long long>(blockIdx.x) * N * N;

  double largest = 0;
  for (int at = lane; at < N * N; at += 32) {
    const double entry = given[at];
    A[at / N * kRow + at % N] = entry;
    largest = fabs(entry) <= largest || isnan(largest) ? largest : fabs(entry);  // not a number stays
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    const double other = __shfl_xor_sync(~0u, largest, offset);
    largest = other <= largest || isnan(largest) ? largest : other;
  }
  if (!(largest > 0) || !isfinite(largest)) {
    if (lane == 0) low[blockIdx.x] = high[blockIdx.x] = largest == 0 ? 0 : nan("");
    return;
  }
  __syncwarp();
  for (int at = lane; at < N * N; at += 32) A[at / N * kRow + at % N] /= largest;
  __syncwarp();
  reduce(A, off, v, w);
  __syncwarp();

  double below = 1e300, above = -1e300;  // Gershgorin's bounds
  for (int i = lane; i < N; i += 32) {
    const double around = (i > 0 ? fabs(off[i - 1]) : 0) + (i + 1 < N ? fabs(off[i]) : 0);
    below = fmin(below, A[i * kRow + i] - around), above = fmax(above, A[i * kRow + i] + around);
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    below = fmin(below, __shfl_xor_sync(~0u, below, offset));
    above = fmax(above, __shfl_xor_sync(~0u, above, offset));
  }
  for (int round = 0; round < kRounds; ++round) {
    const double part = (above - below) / 17, point = below + part * (lane % 16 + 1);
    int count = 0;
    double pivot = 1;
    for (int i = 0; i < N; ++i) {
      const double beside = i > 0 ? off[i - 1] : 0;
      pivot = A[i * kRow + i] - point - beside * beside / pivot;
      if (fabs(pivot) < kTiny) pivot = -kTiny;
      count += pivot < 0;
    }
    const unsigned past = __ballot_sync(~0u, upper ? count == N : count > 0) >> (16 * upper) & 0xffff;
    const int first = past ? __ffs(past) - 1 : 16;  // of the points beyond the eigenvalue
    const double start = below;
    below = start + part * first;
    if (first < 16) above = start + part * (first + 1);
  }
  double* found = upper ? high : low;
  if (lane % 16 == 0) found[blockIdx.x] = largest * (below / 2 + above / 2);
}
