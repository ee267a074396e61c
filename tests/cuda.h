// CUDA kernels on a CPU, for tests: the threads of a block, or of a cluster, are fibers, which yield where they wait.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#define EMULATED
#define __device__
#define __global__
#define __launch_bounds__(...)
#define __cluster_dims__(...)

using std::isfinite, std::isnan, std::min;

struct Index {
  int x;
};
struct float2 {
  float x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};

namespace emulator {

struct Barrier {
  int members, arrived = 0, generation = 0;
};
struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  std::vector<uint32_t> slot;  // what it shows to its warp
  int thread, block, rank;
  bool done = false;
};
inline std::vector<Fiber> fibers;
inline size_t current;
inline ucontext_t scheduler;
inline std::vector<Barrier> warps, blocks, clusters;
inline std::vector<std::vector<uint4>> memory;  // of each block
inline std::function<void()> body;

inline Fiber& me() { return fibers[current]; }
inline int lane() { return me().thread % 32; }

inline void wait(Barrier& barrier) {
  const int generation = barrier.generation;
  if (++barrier.arrived == barrier.members) {
    barrier.arrived = 0, ++barrier.generation;
    return;
  }
  while (barrier.generation == generation) swapcontext(&me().context, &scheduler);
}
inline void wait_for_warp() { wait(warps[current / 32]); }

inline void run_fiber() {
  body();
  me().done = true;
  swapcontext(&me().context, &scheduler);
}

// Run a kernel for `count` clusters of `ranks` blocks of `threads` threads, one cluster after the other.
inline void launch(int count, int ranks, int threads, size_t bytes, std::function<void()> kernel) {
  body = std::move(kernel);
  for (int cluster = 0; cluster < count; ++cluster) {
    fibers.assign(ranks * threads, Fiber{});
    warps.assign(ranks * threads / 32, {32}), blocks.assign(ranks, {threads}), clusters = {{ranks * threads}};
    memory.assign(ranks, std::vector<uint4>((bytes + 15) / 16 + 64, uint4{~0u, ~0u, ~0u, ~0u}));  // not numbers
    for (size_t place = 0; place < fibers.size(); ++place) {
      Fiber& fiber = fibers[place];
      fiber.stack.resize(1 << 17);
      fiber.rank = place / threads, fiber.thread = place % threads, fiber.block = cluster * ranks + fiber.rank;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.data(), fiber.context.uc_stack.ss_size = fiber.stack.size();
      makecontext(&fiber.context, run_fiber, 0);
    }
    for (bool open = true; open;) {
      open = false;
      for (current = 0; current < fibers.size(); ++current)
        if (!me().done) open = true, swapcontext(&scheduler, &me().context);
    }
    for (const auto& block : memory)
      for (size_t beyond = block.size() - 64; beyond < block.size(); ++beyond)
        if (block[beyond].x != ~0u || block[beyond].w != ~0u) std::abort();  // more was used than was asked for
  }
}

// Call a kernel with the addresses of its arrays.
template <typename... Arrays>
void call(void (*kernel)(Arrays...), void** given) {
  [&]<size_t... place>(std::index_sequence<place...>) {
    kernel(static_cast<Arrays>(given[place])...);
  }(std::index_sequence_for<Arrays...>());
}

// Show a value to the warp, and return what `read` makes of those of all its threads.
template <typename V, typename Read>
auto exchanged(const V& value, const Read& read) {
  me().slot.resize((sizeof value + 3) / 4);
  std::memcpy(me().slot.data(), &value, sizeof value);
  wait_for_warp();
  const auto found = read([first = current - lane()](int other) {
    V theirs;
    std::memcpy(&theirs, fibers[first + other].slot.data(), sizeof theirs);
    return theirs;
  });
  wait_for_warp();
  return found;
}

struct Memory {  // of the block, as any array
  template <typename V>
  operator V*() const { return reinterpret_cast<V*>(memory[me().rank].data()); }
};

}  // namespace emulator

#define threadIdx (Index{emulator::me().thread})
#define blockIdx (Index{emulator::me().block})

inline void __syncthreads() { emulator::wait(emulator::blocks[emulator::me().rank]); }
inline void __syncwarp() { emulator::wait_for_warp(); }
inline void cluster_barrier() { emulator::wait(emulator::clusters[0]); }
inline int rank_in_cluster() { return emulator::me().rank; }
inline emulator::Memory block_memory() { return {}; }
template <typename V>
V* in_block(V* own, int rank) {
  char* here = emulator::Memory();
  return reinterpret_cast<V*>(reinterpret_cast<char*>(emulator::memory[rank].data()) + (reinterpret_cast<char*>(own) - here));
}

template <typename V>
V __shfl_xor_sync(unsigned, V value, int offset) {
  return emulator::exchanged(value, [&](const auto& of) { return of(emulator::lane() ^ offset); });
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  return emulator::exchanged(vote, [](const auto& of) {
    unsigned votes = 0;
    for (int other = 0; other < 32; ++other) votes |= unsigned(of(other)) << other;
    return votes;
  });
}
inline bool __all_sync(unsigned, bool vote) { return __ballot_sync(~0u, vote) == ~0u; }
inline int __ffs(unsigned bits) { return __builtin_ffs(bits); }
template <typename V>
V __ldg(const V* at) { return *at; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

// The product of mma.m16n8k8: thread 4 g + t has numbers in rows g and g + 8, and columns t and t + 4 of the left
// factor, 2 t and 2 t + 1 of the sum. Tensor cores do not read the last 13 bits.
inline void multiply_add(float (&sum)[4], const unsigned (&left)[4], unsigned first, unsigned second) {
  struct Factors {
    unsigned number[6];
  };
  const auto read = [](unsigned bits) { return __uint_as_float(bits & 0xffffe000); };
  const int g = emulator::lane() / 4, t = emulator::lane() % 4;
  const Factors own{{left[0], left[1], left[2], left[3], first, second}};
  emulator::exchanged(own, [&](const auto& of) {
    for (int v = 0; v < 4; ++v)
      for (int k = 0; k < 8; ++k)
        sum[v] += read(of(4 * g + k % 4).number[k / 4 * 2 + v / 2]) * read(of(4 * (2 * t + v % 2) + k % 4).number[4 + k / 4]);
    return 0;
  });
}
