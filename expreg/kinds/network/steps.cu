// Steps of gradient descent on a GPU, for one lane in a thread block or in a cluster of RANKS blocks.
//
// kernel.py compiles this file for each shape. A warp has up to GROUPS groups of 16 columns, a column being one branch
// of a neuron. Transposed, z - z(0) = K theta is a product (columns, points) x (points, points) for tensor cores, whose
// result lies in registers as its left factor does if the points are numbered suitably. So theta, the change of phi and
// phi' stay in the registers of one thread, and a step waits only for the sum over neurons in r: by shuffles in a warp,
// by shared memory in a block, by distributed shared memory in a cluster.
//
// Tensor cores read 11 bits of a factor. Each factor is a sum of two such numbers, and three of the four products are
// added: the fourth is 2^-22 of each product of whole factors. Sums are rounded as tensor cores round them.
//
// Constants: N points; P neurons stored in each of BRANCHES; T threads; GROUPS; RANKS; SLOPES and BASES, whether phi'
// and what phi starts from stay in registers; STEPS of one call; ACTIVATION 0 exp, 1 cosh, 2 sinh; RADII or none.

#define UNROLL _Pragma("unroll")

namespace {

enum Status { kRunning = 0, kConverged = 1, kMaxSteps = 2, kDiverged = 3, kNonfinite = 4 };
constexpr int kBlocks = (N + 7) / 8;  // of eight points
constexpr int kPoints = 8 * kBlocks;
constexpr int kWarps = T / 32;
constexpr int kColumns = BRANCHES * P;
constexpr int kBases = ACTIVATION == 0 ? 1 : 2;
constexpr int kMine = (N + 31) / 32;  // points of which a thread of a warp knows r
constexpr int kValues = kBlocks > 4 ? 16 : kBlocks > 2 ? 8 : 2 * kBlocks;  // 2 kBlocks, up to a power of two
constexpr int kTogether = kBlocks > 2 ? 1 : 4 / kBlocks;  // groups that a warp works on at once
constexpr float kNear = 0.25f;  // where polynomials are exact to rounding

#ifndef EMULATED
__device__ uint4* block_memory() {
  extern __shared__ uint4 memory[];
  return memory;
}
__device__ int rank_in_cluster() { return RANKS > 1 ? blockIdx.x % RANKS : 0; }
__device__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
__device__ float* in_block(float* own, int rank) {  // the same place in the memory of another block of the cluster
  float* there;
  asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(own), "r"(rank));
  return there;
}
__device__ void multiply_add(float (&sum)[4], const unsigned (&left)[4], unsigned first, unsigned second) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(first), "r"(second));
}
#endif

// Write a number as a sum of two that have 11 and 12 bits (Veltkamp), of which tensor cores read 11.
__device__ void split(float value, unsigned& high, unsigned& low) {
  const float wide = __fmul_rn(value, 8193), rounded = __fsub_rn(wide, __fsub_rn(wide, value));
  high = __float_as_uint(rounded), low = __float_as_uint(value - rounded);
}

// The change phi(z_0 + x) - phi(z_0) and the derivative phi'(z_0 + x) without cancellation (A.10).
// Near 0 by polynomials: for exp that of steps.cc, with a relative error of at most 8e-8.
template <bool near>
__device__ void increment(const float* base, float x, float& change, float& derivative) {
  const float s = x * x;
  if constexpr (ACTIVATION == 0) {
    const float rise = near ? x * fmaf(x, fmaf(x, fmaf(x, fmaf(x, 0.0083333296837f, 0.04177515051f), 0.1666673932f),
                                               0.49999830897f), 0.99999999245f)
                            : expm1f(x);
    change = base[0] * rise;
    derivative = base[0] + change;
  } else {
    float rise, sine;  // cosh(x) - 1, sinh(x)
    if constexpr (near) {
      rise = s * fmaf(s, fmaf(s, 1 / 720.f, 1 / 24.f), 0.5f);
      sine = fmaf(x * s, fmaf(s, fmaf(s, 1 / 5040.f, 1 / 120.f), 1 / 6.f), x);
    } else {
      const float h = expm1f(fabsf(x)), g = h / (1 + h);
      rise = h * g / 2, sine = copysignf((h + g) / 2, x);
    }
    const float even = base[0] * rise + base[1] * sine, odd = base[1] * rise + base[0] * sine;
    change = ACTIVATION == 1 ? even : odd;
    derivative = ACTIVATION == 1 ? base[1] + odd : base[0] + even;
  }
}

// Add up values over the eight threads of a warp that know the same points. Each thread ends up with its share of the
// sums; returns the index of the first.
__device__ int fold(float (&values)[kValues]) {
  int first = 0, offset = 16;
  UNROLL for (int half = kValues / 2; half > 0 && offset > 2; half /= 2, offset /= 2) {
    const bool upper = threadIdx.x & offset;
    UNROLL for (int q = 0; q < half; ++q) {
      const float given = upper ? values[q] : values[q + half], kept = upper ? values[q + half] : values[q];
      values[q] = kept + __shfl_xor_sync(~0u, given, offset);
    }
    first += upper ? half : 0;
  }
  UNROLL for (; offset > 2; offset /= 2) values[0] += __shfl_xor_sync(~0u, values[0], offset);
  return first;
}

// ||r|| from the squares of a warp: float64 has room for the square of every float, but takes time.
__device__ float norm(const float (&r)[kMine]) {
  float sum = 0;
  UNROLL for (int l = 0; l < kMine; ++l) sum = fmaf(r[l], r[l], sum);
  UNROLL for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (sum > 1e-30f && sum < 1e38f) return sqrtf(sum);
  double wide = 0;
  UNROLL for (int l = 0; l < kMine; ++l) wide += double(r[l]) * r[l];
  for (int offset = 16; offset > 0; offset /= 2) wide += __shfl_xor_sync(~0u, wide, offset);
  return sqrt(wide);
}

__device__ float larger(float a, float b) { return a >= b || isnan(a) ? a : b; }  // not a number stays

template <bool V>
struct Constant {
  static constexpr bool value = V;
};

struct alignas(16) Column {
  int neuron, column;
  float sign;  // 0 beyond the width
};

struct Operands {
  const float *gram, *signs, *start, *numbers;
  const int* counts;
  const float *theta, *radii, *base[2];
  float *new_theta, *derivative, *sizes;
  int* ended;
  float* moved;
};

__device__ void train(const Operands& given) {
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, rank = rank_in_cluster();
  const int pair = 2 * (lane % 4);                            // of points in each block of eight that a thread has
  uint4* K = block_memory();  // (kBlocks, kBlocks, 32): high parts of two entries, low parts
  Column* columns = reinterpret_cast<Column*>(K + 32 * kBlocks * kBlocks);        // (GROUPS, kWarps, 16)
  float* partial = reinterpret_cast<float*>(columns + 16 * GROUPS * kWarps);  // (2, kWarps, kPoints)
  float* totals = partial + 2 * kWarps * kPoints;             // (2, RANKS, kPoints)
  float* pull = totals + 2 * RANKS * kPoints + warp * kPoints;
  float* slopes = totals + (2 * RANKS + kWarps) * kPoints + thread;  // (GROUPS, kBlocks, 4, T) unless SLOPES

  const float eta = given.numbers[0], scale = given.numbers[1], tolerance = given.numbers[2];
  const float limit = given.numbers[3];
  const int budget = given.counts[1], live = given.counts[3], used = BRANCHES * live;
  int now = given.counts[0], status = given.counts[2];

  for (int at = thread; at < 32 * kBlocks * kBlocks; at += T) {
    const int row = at / 32 / kBlocks * 8 + 2 * (at % 4), column = at / 32 % kBlocks * 8 + at % 32 / 4;
    unsigned part[4];
    UNROLL for (int e = 0; e < 2; ++e)
      split(row + e < N && column < N ? given.gram[(row + e) * N + column] : 0, part[e], part[2 + e]);
    K[at] = {part[0], part[1], part[2], part[3]};
  }

  for (int at = thread; at < 16 * GROUPS * kWarps; at += T) {
    const int place = (at / (16 * kWarps) * RANKS + rank) * 16 * kWarps + at % (16 * kWarps);
    const int neuron = place < used ? place % live : 0, column = place < used ? place / live * P + neuron : 0;
    columns[at] = {neuron, column, place < used ? given.signs[column] : 0};
  }
  __syncthreads();

  // of a thread: numbers [group][block][2 half + e] of two columns, at point 8 block + pair + e
  float theta[GROUPS][kBlocks][4], start[kMine];
  float D[SLOPES ? GROUPS : 1][kBlocks][4], base[BASES ? GROUPS : 1][kBlocks][4][kBases];
  const auto alive = [&](int group) { return ((group * RANKS + rank) * kWarps + warp) * 16 < used; };  // one for a warp
  const auto column = [&](int group, int half) { return columns[(group * kWarps + warp) * 16 + 8 * half + lane / 4]; };
  const auto point = [&](int block, int v) { return 8 * block + pair + v % 2; };
  const auto inside = [&](const Column& own, int block, int v) {
    return own.sign != 0 && (8 * block + 7 < N || point(block, v) < N);
  };
  const auto load = [&](int group, float (&to)[kBlocks][4][kBases]) {  // times the sign
    UNROLL for (int half = 0; half < 2; ++half) {
      const Column own = column(group, half);
      UNROLL for (int b = 0; b < kBases; ++b) {
        const float* from = given.base[b] + pair * P + own.neuron;
        UNROLL for (int block = 0; block < kBlocks; ++block)
          UNROLL for (int e = 0; e < 2; ++e)
            to[block][2 * half + e][b] = inside(own, block, e) ? own.sign * __ldg(from + (8 * block + e) * P) : 0;
      }
    }
  };
  UNROLL for (int group = 0; group < GROUPS; ++group)
    UNROLL for (int block = 0; block < kBlocks; ++block)
      UNROLL for (int v = 0; v < 4; ++v) {
        const Column own = column(group, v / 2);
        theta[group][block][v] = inside(own, block, v) ? given.theta[point(block, v) * kColumns + own.column] : 0;
      }
  if constexpr (BASES) {
    UNROLL for (int group = 0; group < GROUPS; ++group) load(group, base[group]);
  }
  UNROLL for (int l = 0; l < kMine; ++l) start[l] = lane + 32 * l < N ? given.start[lane + 32 * l] : 0;
  if (rank == 0)
    for (int at = thread; at < STEPS; at += T) given.sizes[at] = nanf("");
  __syncthreads();
  if constexpr (RANKS > 1) cluster_barrier();  // no block may write to one that has not begun

  // z - z(0) for the columns of some groups
  const auto product = [&](int first, float (&dl)[kTogether][kBlocks][4]) {
    UNROLL for (int k = 0; k < kBlocks; ++k) {
      unsigned high[kTogether][4], low[kTogether][4];
      UNROLL for (int q = 0; q < kTogether; ++q)
        UNROLL for (int v = 0; v < 4; ++v) {  // the left factor has its numbers in another order than the result
          const int place = v % 2 * 2 + v / 2;
          split(first + q < GROUPS ? theta[first + q][k][v] : 0, high[q][place], low[q][place]);
        }
      UNROLL for (int block = 0; block < kBlocks; ++block) {
        const uint4 entry = K[(k * kBlocks + block) * 32 + lane];
        UNROLL for (int q = 0; q < kTogether; ++q) multiply_add(dl[q][block], low[q], entry.x, entry.y);
        UNROLL for (int q = 0; q < kTogether; ++q) multiply_add(dl[q][block], high[q], entry.z, entry.w);
        UNROLL for (int q = 0; q < kTogether; ++q) multiply_add(dl[q][block], high[q], entry.x, entry.y);
      }
    }
  };
  // Keep phi' and add the change of phi to the sums over columns.
  const auto evaluate = [&](auto near, int group, const float (&own)[kBlocks][4][kBases],
                            const float (&dl)[kBlocks][4], float (&values)[kValues]) {
    float slope[kBlocks][4];  // stored when everything has been read: no load can be moved above a store
    UNROLL for (int block = 0; block < kBlocks; ++block)
      UNROLL for (int v = 0; v < 4; ++v) {
        float change;
        increment<decltype(near)::value>(own[block][v], dl[block][v], change, slope[block][v]);
        values[2 * block + v % 2] += change;
      }
    UNROLL for (int block = 0; block < kBlocks; ++block)
      UNROLL for (int v = 0; v < 4; ++v) {
        if constexpr (SLOPES) D[group][block][v] = slope[block][v];
        else slopes[((group * kBlocks + block) * 4 + v) * T] = slope[block][v];
      }
  };

  for (int look = 0; look < STEPS; ++look) {
    float values[kValues] = {};
    UNROLL for (int first = 0; first < GROUPS; first += kTogether) {
      if (!alive(first)) continue;  // of the whole warp
      float dl[kTogether][kBlocks][4] = {}, loaded[BASES ? 1 : kTogether][kBlocks][4][kBases];
      if constexpr (!BASES) {
        UNROLL for (int q = 0; q < kTogether && first + q < GROUPS; ++q) load(first + q, loaded[q]);
      }
      product(first, dl);
      bool near = true;
      UNROLL for (int at = 0; at < kTogether * kBlocks * 4; ++at)
        near &= fabsf(dl[at / 4 / kBlocks][at / 4 % kBlocks][at % 4]) <= kNear;
      const bool all = __all_sync(~0u, near);
      UNROLL for (int q = 0; q < kTogether && first + q < GROUPS; ++q) {
        const auto& own = BASES ? base[BASES ? first + q : 0] : loaded[BASES ? 0 : q];
        if (all) evaluate(Constant<true>(), first + q, own, dl[q], values);
        else evaluate(Constant<false>(), first + q, own, dl[q], values);
      }
    }
    float* sums = partial + look % 2 * kWarps * kPoints;
    const int first = fold(values);
    constexpr int kShare = kValues > 8 ? kValues / 8 : 1, kSame = kValues < 8 ? 8 / kValues : 1;
    if (lane / 4 % kSame == 0)
      UNROLL for (int q = 0; q < kShare; ++q)
        if (first + q < 2 * kBlocks) sums[warp * kPoints + (first + q) / 2 * 8 + pair + (first + q) % 2] = values[q];
    __syncthreads();
    constexpr int kParts = RANKS > 1 ? RANKS : kWarps;
    if constexpr (RANKS > 1) {
      float* whole = totals + look % 2 * RANKS * kPoints;
      if (warp == 0)
        UNROLL for (int l = 0; l < kMine; ++l) {
          const int i = min(lane + 32 * l, kPoints - 1);
          float sum = 0;
          UNROLL for (int w = 0; w < kWarps; ++w) sum += sums[w * kPoints + i];
          UNROLL for (int other = 0; other < RANKS; ++other) in_block(whole, other)[rank * kPoints + i] = sum;
        }
      cluster_barrier();
      sums = whole;
    }
    float r[kMine];
    UNROLL for (int l = 0; l < kMine; ++l) {
      const int i = min(lane + 32 * l, kPoints - 1);
      float sum = 0;
      UNROLL for (int part = 0; part < kParts; ++part) sum += sums[part * kPoints + i];
      r[l] = lane + 32 * l < N ? start[l] + scale * sum : 0;
    }
    const float size = norm(r);
    if (rank == 0 && thread == 0) given.sizes[look] = size;
    if (!isfinite(size)) status = kNonfinite;
    else if (size <= tolerance && tolerance > 0) status = kConverged;
    else if (size > limit) status = kDiverged;
    else if (now >= budget) status = kMaxSteps;
    if (status != kRunning) break;
    UNROLL for (int l = 0; l < kMine; ++l)
      if (lane + 32 * l < kPoints) pull[lane + 32 * l] = -eta * scale * r[l];
    __syncwarp();
    UNROLL for (int block = 0; block < kBlocks; ++block) {
      const float2 both = *reinterpret_cast<const float2*>(pull + 8 * block + pair);
      UNROLL for (int group = 0; group < GROUPS; ++group) {
        if (!alive(group)) continue;
        UNROLL for (int v = 0; v < 4; ++v) {
          float derivative;
          if constexpr (SLOPES) derivative = D[group][block][v];
          else derivative = slopes[((group * kBlocks + block) * 4 + v) * T];
          theta[group][block][v] = fmaf(v % 2 ? both.y : both.x, derivative, theta[group][block][v]);
        }
      }
    }
    __syncwarp();
    ++now;
  }

  // theta, phi' and how far the neurons have moved
  float farthest = 0, share = 0;
  UNROLL for (int first = 0; first < GROUPS; first += kTogether) {
    if (!alive(first)) continue;
    float dl[kTogether][kBlocks][4] = {};
    product(first, dl);
    UNROLL for (int group = first; group < first + kTogether && group < GROUPS; ++group) {
      float squares[2] = {}, own_base[kBlocks][4][kBases];
      load(group, own_base);
      UNROLL for (int block = 0; block < kBlocks; ++block)
        UNROLL for (int v = 0; v < 4; ++v) {
          const Column own = column(group, v / 2);
          const int place = point(block, v) * kColumns + own.column;
          const float moved = dl[group - first][block][v];
          float change, derivative;
          increment<false>(own_base[block][v], moved, change, derivative);
          squares[v / 2] = fmaf(theta[group][block][v], moved, squares[v / 2]);
          if (!inside(own, block, v)) continue;
          given.new_theta[place] = theta[group][block][v];
          given.derivative[place] = own.sign * derivative;
        }
      UNROLL for (int half = 0; half < 2; ++half) {
        for (int offset = 2; offset > 0; offset /= 2) squares[half] += __shfl_xor_sync(~0u, squares[half], offset);
        const Column own = column(group, half);
        if (own.sign == 0) continue;
        float moved = sqrtf(squares[half]);
        if (isnan(moved)) moved = __uint_as_float(0x7f800000);  // out of range: infinite
        farthest = larger(moved, farthest);
        if (RADII) share = larger(moved / given.radii[own.neuron], share);
      }
    }
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    farthest = larger(farthest, __shfl_xor_sync(~0u, farthest, offset));
    share = larger(share, __shfl_xor_sync(~0u, share, offset));
  }
  float* found = partial;  // (RANKS, kWarps, 2)
  __syncthreads();
  if constexpr (RANKS > 1) {
    found = in_block(partial, 0);
    cluster_barrier();
  }
  if (lane == 0) found[(rank * kWarps + warp) * 2] = farthest, found[(rank * kWarps + warp) * 2 + 1] = share;
  __syncthreads();
  if constexpr (RANKS > 1) cluster_barrier();
  if (rank == 0 && thread == 0) {
    for (int other = 0; other < RANKS * kWarps; ++other)
      farthest = larger(farthest, partial[2 * other]), share = larger(share, partial[2 * other + 1]);
    given.moved[0] = farthest, given.moved[1] = share;
    given.ended[0] = now, given.ended[1] = status;
  }
  for (int at = rank * T + thread; at < N * kColumns; at += RANKS * T)
    if (at % P >= live) given.new_theta[at] = given.derivative[at] = 0;
}

}  // namespace

#if RANKS > 1
extern "C" __global__ void __cluster_dims__(RANKS, 1, 1) __launch_bounds__(T)
#else
extern "C" __global__ void __launch_bounds__(T)
#endif
expreg_steps(const float* gram, const float* signs, const float* start, const float* numbers, const int* counts,
             const float* theta, const float* radii, const float* base,
#if ACTIVATION > 0
             const float* second_base,
#endif
             float* new_theta, float* derivative, float* sizes, int* ended, float* moved) {
#if ACTIVATION == 0
  const float* second_base = base;
#endif
  const long long at = blockIdx.x / RANKS;
  train({gram + at * N * N, signs + at * kColumns, start + at * N, numbers + at * 4, counts + at * 4,
         theta + at * N * kColumns, radii + at * P, {base + at * N * P, second_base + at * N * P},
         new_theta + at * N * kColumns, derivative + at * N * kColumns, sizes + at * STEPS, ended + at * 2,
         moved + at * 2});
}
