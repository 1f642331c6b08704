// CUDA's words as C++: what stands before `xpnet/accel/cuda_kernels.cu` when the CPU runs it.
// See `cuda_on_cpu.py`.

#include <ucontext.h>
extern "C" {
double exp(double); double log(double); double tanh(double); double sqrt(double);
double cos(double); double sin(double);
float expf(float); float logf(float); float tanhf(float); float sqrtf(float);
float cosf(float); float sinf(float);
}
static inline float cos(float x) { return cosf(x); }
static inline float sin(float x) { return sinf(x); }
static inline float exp(float x) { return expf(x); }
static inline float log(float x) { return logf(x); }
static inline float tanh(float x) { return tanhf(x); }
static inline float sqrt(float x) { return sqrtf(x); }

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(threads, blocks)
struct Place { unsigned int x, y, z; };
static Place gridDim, blockDim, blockIdx, threadIdx;

static const unsigned int MOST = 1024;
static ucontext_t scheduler, coroutine[MOST];
static char stack[MOST][65536];
static bool ended[MOST], together;
static int failure;
static void (*body)(void**);
static void** parameters;

static void __syncthreads() {
    if (!together) { failure = 1; return; }
    swapcontext(&coroutine[threadIdx.x], &scheduler);
}
template <typename T> T atomicAdd(T* place, T value) {
    T old = *place;
    *place += value;
    return old;
}

static void one_thread() {
    body(parameters);
    ended[threadIdx.x] = true;
}

// The threads of a block, from one barrier to the next, in rising or in falling order.
static void run_block(bool falling) {
    unsigned int left = blockDim.x;
    for (unsigned int t = 0; t < blockDim.x; t++) {
        ended[t] = false;
        getcontext(&coroutine[t]);
        coroutine[t].uc_stack.ss_sp = stack[t];
        coroutine[t].uc_stack.ss_size = sizeof stack[t];
        coroutine[t].uc_link = &scheduler;
        makecontext(&coroutine[t], one_thread, 0);
    }
    while (left) {
        unsigned int before = left;
        for (unsigned int i = 0; i < blockDim.x; i++) {
            unsigned int t = falling ? blockDim.x - 1 - i : i;
            if (ended[t]) continue;
            threadIdx.x = t;
            swapcontext(&scheduler, &coroutine[t]);
            left -= ended[t];
        }
        if (left && left != before) { failure = 2; return; }
    }
}

static int run(void (*kernel)(void**), unsigned int blocks, unsigned int threads,
               bool with_barriers, bool falling, void** arguments) {
    body = kernel; parameters = arguments; together = with_barriers; failure = 0;
    gridDim.x = blocks; blockDim.x = threads;
    for (unsigned int i = 0; i < blocks && !failure; i++) {
        blockIdx.x = falling ? blocks - 1 - i : i;
        if (together) { run_block(falling); continue; }
        for (unsigned int t = 0; t < threads; t++) {
            threadIdx.x = falling ? threads - 1 - t : t;
            body(arguments);
        }
    }
    return failure;
}

// As cuLaunchKernel has it: an address for each argument, the types from the kernel.
template <int... I> struct Numbers {};
template <int N, int... I> struct Upto : Upto<N - 1, N - 1, I...> {};
template <int... I> struct Upto<0, I...> { typedef Numbers<I...> type; };
template <typename... P, int... I>
void unpack(void (*kernel)(P...), void** a, Numbers<I...>) { kernel(*(P*)a[I]...); }
template <typename... P>
void call(void (*kernel)(P...), void** a) {
    unpack(kernel, a, typename Upto<sizeof...(P)>::type());
}
