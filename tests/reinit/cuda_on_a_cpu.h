// Enough of CUDA to run kernels on a processor: a block's threads are fibers that wait for each other where CUDA's do.
// Shared memory is a function's static variable, since blocks run one after another.
//
// A warp runs as far as it can before the next one does: where a barrier is missing, it reads what is not yet written, or
// writes over what is still to be read. With BACKWARDS the last block, warp and thread are the first, so that one of the
// two orders shows it.

#include <cmath>
#include <csetjmp>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct alignas(8) int2 { int x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) ushort4 { unsigned short x, y, z, w; };
struct Index { int x, y, z; };

static Index threadIdx, blockIdx, blockDim, gridDim;

namespace fibers {
const size_t STACK = 1 << 16;
struct Barrier { int arrived = 0, generation = 0, members = 0; };
struct Fiber {
    ucontext_t context;       // where it starts
    jmp_buf place;            // where it goes on
    std::vector<char> stack;  // none before it starts
    Index thread;
    bool is_done;
    unsigned slots[2];
    int turn;
    Barrier* waits;
    int generation;
    bool is_ready() const { return !is_done && (!waits || waits->generation != generation); }
};
static std::vector<Fiber> all;
static std::vector<Barrier> warps;
static Barrier block;
static jmp_buf scheduler;
static int current;
static void (*body)(void*);
static void* closure;

#ifndef BACKWARDS
#define BACKWARDS 0
#endif
static int in_order(int index, int count) { return BACKWARDS ? count - 1 - index : index; }

static void wait(Barrier& barrier)
{
    Fiber& own = all[current];
    own.waits = &barrier;
    own.generation = barrier.generation;
    if (++barrier.arrived == barrier.members) {
        barrier.arrived = 0;
        barrier.generation++;
        return;
    }
    if (!_setjmp(own.place))
        _longjmp(scheduler, 1);
}
static void leave(Barrier& barrier)
{
    if (--barrier.members && barrier.arrived == barrier.members) {
        barrier.arrived = 0;
        barrier.generation++;
    }
}
// One block after another.
static void start()
{
    for (;;) {
        body(closure);
        all[current].is_done = true;
        leave(block);
        leave(warps[current / 32]);
        if (!_setjmp(all[current].place))
            _longjmp(scheduler, 1);
    }
}
// Until it waits. Jumps, since to switch contexts would ask the system for each thread's signals.
static void go_on(Fiber& fiber)
{
    threadIdx = fiber.thread;
    if (_setjmp(scheduler))
        return;
    if (!fiber.stack.empty())
        _longjmp(fiber.place, 1);
    fiber.stack.resize(STACK);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, start, 0);
    setcontext(&fiber.context);
}
// As far as it can; whether that was any way.
static bool run_warp(int first, int threads)
{
    int members = threads - first < 32 ? threads - first : 32;
    bool has_moved = false;
    for (bool is_busy = true; is_busy;) {
        is_busy = false;
        for (int i = 0; i < members; i++) {
            current = first + in_order(i, members);
            if (!all[current].is_ready())
                continue;
            is_busy = has_moved = true;
            go_on(all[current]);
        }
    }
    return has_moved;
}
static void run_block()
{
    int threads = blockDim.x * blockDim.y * blockDim.z;
    if ((int)all.size() < threads)
        all.resize(threads);
    warps.assign((threads + 31) / 32, Barrier());
    block = Barrier();
    block.members = threads;
    for (int i = 0; i < threads; i++) {
        Fiber& fiber = all[i];
        fiber.is_done = false;
        fiber.turn = 0;
        fiber.waits = nullptr;
        fiber.thread = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
        warps[i / 32].members++;
    }
    for (bool is_busy = true; is_busy;) {
        is_busy = false;
        for (int i = 0; i < (int)warps.size(); i++)
            is_busy |= run_warp(32 * in_order(i, (int)warps.size()), threads);
    }
    for (int i = 0; i < threads; i++)
        if (!all[i].is_done)
            std::abort();  // it waits where others do not come
}
template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>)
{
    kernel(*static_cast<A*>(arguments[I])...);
}
template <class... A> void launch(void (*kernel)(A...), const int* sizes, void** arguments)
{
    static void (*own)(A...);
    static void** given;
    own = kernel;
    given = arguments;
    body = [](void*) { call(own, given, std::index_sequence_for<A...>()); };
    gridDim = {sizes[0], sizes[1], sizes[2]};
    blockDim = {sizes[3], sizes[4], sizes[5]};
    int blocks = gridDim.x * gridDim.y * gridDim.z;
    for (int i = 0; i < blocks; i++) {
        int place = in_order(i, blocks);
        blockIdx = {place % gridDim.x, place / gridDim.x % gridDim.y, place / (gridDim.x * gridDim.y)};
        run_block();
    }
}
// What each lane of the warp gave. Two slots in turn, so that nobody writes into one that another has still to read.
static int give(const void* value)
{
    Fiber& own = all[current];
    int turn = own.turn ^= 1;
    std::memcpy(&own.slots[turn], value, 4);
    wait(warps[current / 32]);
    return turn;
}
template <class V> V exchanged(V value, int lane)
{
    static_assert(sizeof(V) == 4, "a register");
    int turn = give(&value);
    V result;
    std::memcpy(&result, &all[current / 32 * 32 + lane].slots[turn], 4);
    return result;
}
}

static void __syncthreads() { fibers::wait(fibers::block); }
template <class V> V __shfl_xor_sync(unsigned, V value, int far)
{
    return fibers::exchanged(value, fibers::current % 32 ^ far);
}
template <class V> V __shfl_sync(unsigned, V value, int lane) { return fibers::exchanged(value, lane); }
static unsigned __ballot_sync(unsigned, bool is_set)
{
    unsigned own = is_set, bits = 0;
    int turn = fibers::give(&own);
    for (int lane = 0; lane < 32; lane++)
        bits |= fibers::all[fibers::current / 32 * 32 + lane].slots[turn] << lane;
    return bits;
}
static int __popc(unsigned bits) { return __builtin_popcount(bits); }
static int atomicMin(int* at, int value)
{
    int old = *at;
    *at = value < old ? value : old;
    return old;
}
static int atomicMax(int* at, int value)
{
    int old = *at;
    *at = value > old ? value : old;
    return old;
}
static int __ffs(unsigned bits) { return __builtin_ffs(bits); }
static int __clz(unsigned bits) { return bits ? __builtin_clz(bits) : 32; }
static unsigned __umulhi(unsigned left, unsigned right) { return (unsigned long long)left * right >> 32; }
static float __uint_as_float(unsigned bits)
{
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
static unsigned __float_as_uint(float value)
{
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
