// A kernel's blocks one after the other, and the threads of a block on as few stacks as they need.
//
// Threads share one stack until one of them waits at a barrier. It keeps that stack, and the other
// threads continue on a next one. A kernel without barriers therefore never switches.
#include "internal.h"
#include <cstring>
#include <immintrin.h>
#include <sys/mman.h>

extern "C" {
__attribute__((visibility("default"))) Size3 threadIdx, blockIdx, blockDim, gridDim;
__attribute__((visibility("default"))) void* pretended_device_shared_memory = nullptr;
__attribute__((visibility("default"))) double pretended_device_shuffled[1024];
}

static const bool falling = pretended_device_setting("ORDER", 0);
static const bool flush_denormals = pretended_device_setting("FTZ", 1);
static const size_t STACK_BYTES = 128 << 10;
static const unsigned FLUSH_TO_ZERO_AND_DENORMALS_ARE_ZERO = 0x8040;

enum Waiting { NOT, AT_WARP, AT_BLOCK };

struct Stack {
  void* pointer;
  char* memory;
  size_t thread;
  Waiting waiting;
  bool finished;
};

// Saves the registers and the stack in *from, and continues with the stack `to`.
extern "C" void pretended_device_switch(void** from, void* to);
asm(R"(
.text
.globl pretended_device_switch
.hidden pretended_device_switch
.type pretended_device_switch,@function
pretended_device_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size pretended_device_switch,.-pretended_device_switch
)");
static const int SAVED_REGISTERS = 6;

static std::vector<Stack*> stacks;
static Stack* current = nullptr;
static void* scheduler;
static const KernelEntry* running = nullptr;
static void** arguments;
static size_t next_thread, threads;

static void set_thread(size_t thread) {
  if (falling) thread = threads - 1 - thread;
  threadIdx.x = thread % blockDim.x;
  threadIdx.y = thread / blockDim.x % blockDim.y;
  threadIdx.z = thread / blockDim.x / blockDim.y;
}

static void set_block(size_t block, size_t blocks) {
  if (falling) block = blocks - 1 - block;
  blockIdx.x = block % gridDim.x;
  blockIdx.y = block / gridDim.x % gridDim.y;
  blockIdx.z = block / gridDim.x / gridDim.y;
}

static void run_threads() {
  while (true) {
    while (next_thread < threads) {
      current->thread = next_thread++;
      set_thread(current->thread);
      running->call(arguments);
    }
    current->finished = true;
    pretended_device_switch(&current->pointer, scheduler);
  }
}

static void prepare(Stack* stack) {
  void** top = (void**)((size_t)(stack->memory + STACK_BYTES) & ~(size_t)15);
  *--top = nullptr;
  *--top = (void*)run_threads;
  for (int i = 0; i < SAVED_REGISTERS; i++) *--top = nullptr;
  stack->pointer = top;
  stack->finished = false;
  stack->waiting = NOT;
}

static Stack* fresh_stack(size_t number) {
  while (stacks.size() <= number) {
    int protection = PROT_READ | PROT_WRITE, kind = MAP_PRIVATE | MAP_ANONYMOUS;
    Stack* stack = new Stack;
    stack->memory = (char*)mmap(nullptr, STACK_BYTES, protection, kind, -1, 0);
    stacks.push_back(stack);
  }
  prepare(stacks[number]);
  return stacks[number];
}

static void resume(Stack* stack) {
  current = stack;
  pretended_device_switch(&scheduler, stack->pointer);
  current = nullptr;
}

static void pause_thread(Waiting waiting) {
  current->waiting = waiting;
  pretended_device_switch(&current->pointer, scheduler);
  set_thread(current->thread);
}

EXPORTED void __syncthreads() { pause_thread(AT_BLOCK); }
EXPORTED void pretended_device_sync_warp() { pause_thread(AT_WARP); }

static void run_block() {
  next_thread = 0;
  size_t used = 0;
  while (next_thread < threads) resume(fresh_stack(used++));
  while (true) {
    size_t unfinished = 0, at_warp = 0;
    for (size_t i = 0; i < used; i++) {
      if (stacks[i]->finished) continue;
      unfinished++;
      at_warp += stacks[i]->waiting == AT_WARP;
    }
    if (!unfinished) return;
    std::vector<Stack*> ready;
    for (size_t i = 0; i < used; i++) {
      Stack* stack = stacks[i];
      if (!stack->finished && (!at_warp || stack->waiting == AT_WARP)) ready.push_back(stack);
    }
    for (Stack* stack : ready) {
      stack->waiting = NOT;
      resume(stack);
    }
  }
}

std::string describe_position() {
  if (!running) return "";
  auto words = [](Size3 at) {
    return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " +
           std::to_string(at.z) + ")";
  };
  return ", block " + words(blockIdx) + ", thread " + words(threadIdx);
}

void run_kernel(const KernelEntry* entry, Size3 grid, Size3 block, size_t shared, void** values) {
  unsigned control = _mm_getcsr();
  if (flush_denormals) _mm_setcsr(control | FLUSH_TO_ZERO_AND_DENORMALS_ARE_ZERO);
  gridDim = grid;
  blockDim = block;
  threads = (size_t)block.x * block.y * block.z;
  running = entry;
  arguments = values;
  current = nullptr;
  // What is not written is NaN.
  std::vector<char> memory(shared + 64, (char)0xff);
  pretended_device_shared_memory = (void*)(((size_t)memory.data() + 63) & ~(size_t)63);
  size_t blocks = (size_t)grid.x * grid.y * grid.z;
  for (size_t i = 0; i < blocks; i++) {
    set_block(i, blocks);
    run_block();
  }
  running = nullptr;
  _mm_setcsr(control);
}
