// What the files of libcuda.so.1 share beside pretended_device.h.
#pragma once
#include "../include/kernel_entry_type.h"
#include "pretended_device.h"
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <memory>
#include <mutex>
#include <string>
#include <vector>
#undef cudaStreamGetCaptureInfo

// One lock for everything: operations run on the thread that waits for them.
extern std::recursive_mutex everything;
#define LOCK std::lock_guard<std::recursive_mutex> lock(everything)

// ---- streams.cpp

// An operation and the operations that it waits for. It runs when somebody waits for it.
struct Node {
  Operation operation;
  std::string name;
  std::vector<std::shared_ptr<Node>> before;
  bool done = false;
  double finished_at = 0;
};

struct Step {
  Operation operation;
  std::string name;
};

struct Stream {
  bool is_blocking;
  bool destroyed = false;
  bool capturing = false;
  bool capture_is_invalid = false;
  std::vector<Step> captured;
  std::shared_ptr<Node> last;
  std::vector<std::shared_ptr<Node>> waits_for;
};

enum Mode { IMMEDIATE = 0, EVENTS_FIRST = 1, STREAM_FIRST = 2 };
extern const int mode;
extern Stream default_stream;
// The stream that captures, and in which mode; null without one.
extern Stream* capturing_stream;
extern cudaStreamCaptureMode capture_mode;

// The stream of a handle, or null if it was destroyed or never made.
Stream* stream_of(void* handle);
std::shared_ptr<Node> enqueue(Stream* stream, Operation operation, const std::string& name);
void wait_for(const std::shared_ptr<Node>& node);
void wait_for_all();
double seconds();
// The error of a call that is not allowed while a stream captures; the capture is then invalid.
cudaError_t refused_by_capture(bool allowed_if_relaxed = false);

// ---- memory.cpp

bool is_device(const void* address);
bool is_pinned(const void* address);
// Reports writes beyond the ends of allocations.
void check_guards();
// What lies at an address that could not be read or written, in words.
std::string describe_address(const void* address);

// ---- faults.cpp

// cudaSuccess, or the error that every call returns since a kernel failed.
extern cudaError_t sticky_error;
void fail_context(cudaError_t error, const std::string& message);
// Runs it; an access to memory that is not there makes the context fail.
void run_guarded(const Operation& operation, const std::string& name);

#define RETURN_STICKY_ERROR \
  if (sticky_error) return sticky_error

// ---- launch.cpp

struct Size3 {
  unsigned x, y, z;
};

void run_kernel(const KernelEntry* entry, Size3 grid, Size3 block, size_t shared, void** values);
// The kernel, block and thread that run now, in words.
std::string describe_position();
