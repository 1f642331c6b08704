// The runtime API: the device, errors, and copies.
#include "internal.h"
#include <cstdlib>
#include <cstring>

static const int WARP = 32, MULTIPROCESSORS = 4, MAX_THREADS = 1024, MAX_SHARED = 49152;

// ---- the device

EXPORTED cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

EXPORTED cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13020;
  return cudaSuccess;
}

EXPORTED cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

EXPORTED cudaError_t cudaGetDeviceCount(int* count) {
  const char* visible = getenv("CUDA_VISIBLE_DEVICES");
  bool none = visible && (!*visible || *visible == '-');
  *count = none ? 0 : 1;
  return none ? cudaErrorNoDevice : cudaSuccess;
}

EXPORTED cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

EXPORTED cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch ((int)attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMultiProcessorCount: *value = MULTIPROCESSORS; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = MAX_THREADS; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = MAX_SHARED; break;
    case cudaDevAttrWarpSize: *value = WARP; break;
    default: *value = 0;
  }
  return cudaSuccess;
}

EXPORTED cudaError_t cudaGetDeviceProperties(cudaDeviceProp* found, int) {
  size_t unused, total;
  if (cudaError_t error = cudaMemGetInfo(&unused, &total)) return error;
  memset(found, 0, sizeof *found);
  strcpy(found->name, "pretended device on the CPU");
  found->major = 9;
  found->warpSize = WARP;
  found->multiProcessorCount = MULTIPROCESSORS;
  found->maxThreadsPerBlock = MAX_THREADS;
  found->maxThreadsPerMultiProcessor = 2048;
  found->maxThreadsDim[0] = MAX_THREADS;
  found->maxGridSize[0] = 2147483647;
  found->sharedMemPerBlock = MAX_SHARED;
  found->regsPerBlock = 65536;
  found->totalGlobalMem = total;
  return cudaSuccess;
}

EXPORTED cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return cudaSuccess;
}

EXPORTED cudaError_t cudaProfilerStart() { return cudaSuccess; }

EXPORTED cudaError_t cudaProfilerStop() { return cudaSuccess; }

// ---- errors

EXPORTED const char* cudaGetErrorName(cudaError_t error) {
  switch ((int)error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver: return "cudaErrorInsufficientDriver";
    case cudaErrorDevicesUnavailable: return "cudaErrorDevicesUnavailable";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorNoKernelImageForDevice: return "cudaErrorNoKernelImageForDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorIllegalState: return "cudaErrorIllegalState";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorNotSupported: return "cudaErrorNotSupported";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureIsolation: return "cudaErrorStreamCaptureIsolation";
    case cudaErrorStreamCaptureImplicit: return "cudaErrorStreamCaptureImplicit";
    case cudaErrorCapturedEvent: return "cudaErrorCapturedEvent";
    default: return "cudaErrorUnknown";
  }
}

EXPORTED const char* cudaGetErrorString(cudaError_t error) {
  static thread_local std::string kept;
  std::string name = cudaGetErrorName(error);
  kept = "error of the pretended device, not of a GPU (" + name + ")";
  return kept.c_str();
}

EXPORTED cudaError_t cudaGetLastError() { return sticky_error; }

// ---- copies

static bool fits(const void* address, size_t bytes, bool on_device) {
  return on_device ? pretended_device_owns(address, bytes) : !is_device(address);
}

// Counts a copy; cudaErrorInvalidValue if an end of it lies elsewhere than `kind` says.
static cudaError_t check_copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  bool to_device = is_device(to), from_device = is_device(from);
  if (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) to_device = true;
  if (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice) from_device = true;
  if (kind == cudaMemcpyDeviceToHost) to_device = false;
  if (kind == cudaMemcpyHostToDevice) from_device = false;
  if (bytes && (!fits(to, bytes, to_device) || !fits(from, bytes, from_device))) {
    pretended_device_say("copy of %zu bytes refused: to %s (%s), from %s (%s)", bytes,
                         to_device ? "device" : "host", describe_address(to).c_str(),
                         from_device ? "device" : "host", describe_address(from).c_str());
    return cudaErrorInvalidValue;
  }
  if (to_device && from_device) {
    pretended_device_counters[DEVICE_TO_DEVICE]++;
  } else if (to_device) {
    pretended_device_counters[HOST_TO_DEVICE]++;
    pretended_device_counters[HOST_TO_DEVICE_BYTES] += bytes;
  } else if (from_device) {
    pretended_device_counters[DEVICE_TO_HOST]++;
    pretended_device_counters[DEVICE_TO_HOST_BYTES] += bytes;
  }
  TRACE("copy of %zu bytes from %s to %s", bytes, from_device ? "device" : "host",
        to_device ? "device" : "host");
  return cudaSuccess;
}

EXPORTED cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  LOCK;
  RETURN_STICKY_ERROR;
  if (cudaError_t error = refused_by_capture()) return error;
  if (cudaError_t error = check_copy(to, from, bytes, kind)) return error;
  if (kind != cudaMemcpyDeviceToDevice) pretended_device_counters[SYNCHRONIZATIONS]++;
  auto operation = [=] { run_guarded([=] { memmove(to, from, bytes); }, "copy"); };
  wait_for(enqueue(&default_stream, operation, "copy"));
  return sticky_error;
}

EXPORTED cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                                     cudaStream_t stream) {
  LOCK;
  RETURN_STICKY_ERROR;
  if (cudaError_t error = check_copy(to, from, bytes, kind)) return error;
  bool is_pageable = !is_device(from) && !is_pinned(from);
  if (mode == IMMEDIATE || !is_pageable || pretended_device_is_capturing(stream)) {
    auto operation = [=] { memmove(to, from, bytes); };
    return (cudaError_t)pretended_device_run(stream, operation, "copy");
  }
  // Pageable memory is read before the call returns.
  const char* start = (const char*)from;
  auto kept = std::make_shared<std::vector<char>>(start, start + bytes);
  auto operation = [=] { memcpy(to, kept->data(), bytes); };
  return (cudaError_t)pretended_device_run(stream, operation, "copy");
}

EXPORTED cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  LOCK;
  RETURN_STICKY_ERROR;
  if (cudaError_t error = refused_by_capture()) return error;
  return cudaMemsetAsync(to, value, bytes, nullptr);
}

EXPORTED cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  LOCK;
  RETURN_STICKY_ERROR;
  if (!pretended_device_owns(to, bytes)) {
    pretended_device_say("memset of %zu bytes refused: %s", bytes, describe_address(to).c_str());
    return cudaErrorInvalidValue;
  }
  pretended_device_counters[MEMSETS]++;
  TRACE("memset of %zu bytes", bytes);
  auto operation = [=] { memset(to, value, bytes); };
  return (cudaError_t)pretended_device_run(stream, operation, "memset");
}
