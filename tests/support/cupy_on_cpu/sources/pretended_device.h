// What the parts of the pretended device share: counters, messages, memory and streams.
#pragma once
#include <cstddef>
#include <functional>

#define EXPORTED extern "C" __attribute__((visibility("default")))

typedef std::function<void()> Operation;

// Their names are in counters.cpp, in this order.
enum Counter {
  LAUNCHES,
  GRAPH_LAUNCHES,
  CAPTURED_NODES,
  PRODUCTS,
  CUB_CALLS,
  HOST_TO_DEVICE,
  DEVICE_TO_HOST,
  DEVICE_TO_DEVICE,
  HOST_TO_DEVICE_BYTES,
  DEVICE_TO_HOST_BYTES,
  MEMSETS,
  ALLOCATIONS,
  FREES,
  SYNCHRONIZATIONS,
  DEVICE_SYNCHRONIZATIONS,
  COUNTERS
};

EXPORTED long long pretended_device_counters[COUNTERS];
EXPORTED int pretended_device_trace;

// One line on stderr, behind the words "pretended device: ".
EXPORTED void pretended_device_say(const char* format, ...) __attribute__((format(printf, 1, 2)));
// Says that `name` is not pretended, and returns `code`.
EXPORTED int pretended_device_refuse(const char* name, int code);
// An environment variable `PRETENDED_DEVICE_<name>` as a number.
EXPORTED long long pretended_device_setting(const char* name, long long otherwise);

// Appends to a stream, or to the graph that the stream captures. Returns a cudaError_t.
EXPORTED int pretended_device_run(void* stream, Operation operation, const char* name);
EXPORTED int pretended_device_is_capturing(void* stream);
EXPORTED int pretended_device_synchronize();
// Whether `bytes` from `address` lie in one live allocation.
EXPORTED int pretended_device_owns(const void* address, size_t bytes);

#define TRACE(...)                                              \
  do {                                                          \
    if (pretended_device_trace) pretended_device_say(__VA_ARGS__); \
  } while (0)
