// The driver API: modules and launches. A "binary" is the path of a library that the CPU executes.
#include "internal.h"
#include <cstring>
#include <dlfcn.h>

// Begins what hook.py's compiler returns instead of a CUBIN.
static const char* const IMAGE = "pretended device:";
static const unsigned MAX_THREADS = 1024, MAX_SHARED = 49152, MAX_GRID_X = 0x7fffffff;
static const unsigned MAX_GRID_YZ = 65535, MAX_BLOCK_Z = 64;

EXPORTED CUresult cuGetErrorName(CUresult error, const char** name) {
  switch ((int)error) {
    case 0: *name = "CUDA_SUCCESS"; break;
    case 1: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case 2: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case 200: *name = "CUDA_ERROR_INVALID_IMAGE"; break;
    case 400: *name = "CUDA_ERROR_INVALID_HANDLE"; break;
    case 500: *name = "CUDA_ERROR_NOT_FOUND"; break;
    case 700: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    case 701: *name = "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"; break;
    case 801: *name = "CUDA_ERROR_NOT_SUPPORTED"; break;
    case 906: *name = "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"; break;
    default: *name = "CUDA_ERROR_UNKNOWN";
  }
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuGetErrorString(CUresult error, const char** text) {
  static thread_local std::string kept;
  const char* name;
  cuGetErrorName(error, &name);
  kept = std::string("error of the pretended device, not of a GPU (") + name + ")";
  *text = kept.c_str();
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuDriverGetVersion(int* version) {
  *version = 13000;
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }

EXPORTED CUresult cuCtxGetCurrent(CUcontext* context) {
  *context = (CUcontext)1;
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }

EXPORTED CUresult cuCtxGetDevice(CUdevice* device) {
  *device = 0;
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuStreamGetCtx(CUstream, CUcontext* context) { return cuCtxGetCurrent(context); }

EXPORTED CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  size_t length = strlen(IMAGE);
  if (strncmp((const char*)image, IMAGE, length)) {
    pretended_device_say("a module that was not compiled for it cannot be loaded");
    return CUDA_ERROR_INVALID_IMAGE;
  }
  void* library = dlopen((const char*)image + length, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    pretended_device_say("a kernel cannot be loaded: %s", dlerror());
    return CUDA_ERROR_INVALID_IMAGE;
  }
  *module = (CUmodule)library;
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }

EXPORTED CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  void* entry = dlsym((void*)module, (std::string("pretended_kernel_") + name).c_str());
  if (!entry) return CUDA_ERROR_NOT_FOUND;
  *function = (CUfunction)entry;
  return CUDA_SUCCESS;
}

// Whether every pointer is null or points to device or pinned memory.
static bool takes_device_pointers(const KernelEntry* entry, void** values) {
  for (int i = 0; i < entry->count; i++) {
    if (!entry->holds_pointer[i]) continue;
    const void* address = *(const void**)values[i];
    if (!address || is_device(address) || is_pinned(address)) continue;
    // An array without elements may begin where an allocation ends.
    if (is_device((const char*)address - 1)) continue;
    fail_context(cudaErrorIllegalAddress, std::string("argument ") + std::to_string(i) +
                                              " of kernel " + entry->name + " points to " +
                                              describe_address(address));
    return false;
  }
  return true;
}

EXPORTED CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y,
                                 unsigned grid_z, unsigned block_x, unsigned block_y,
                                 unsigned block_z, unsigned shared, CUstream stream,
                                 void** values, void**) {
  LOCK;
  if (sticky_error) return (CUresult)sticky_error;
  const KernelEntry* entry = (const KernelEntry*)function;
  Size3 grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
  bool has_none = !grid_x || !grid_y || !grid_z || !block_x || !block_y || !block_z;
  bool grid_is_too_large = grid_x > MAX_GRID_X || grid_y > MAX_GRID_YZ || grid_z > MAX_GRID_YZ;
  bool block_is_too_large =
      block_z > MAX_BLOCK_Z || (size_t)block_x * block_y * block_z > MAX_THREADS;
  if (has_none || grid_is_too_large || block_is_too_large || shared > MAX_SHARED) {
    pretended_device_say("launch of %s refused: grid (%u, %u, %u), block (%u, %u, %u), shared %u",
                         entry->name, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared);
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (!takes_device_pointers(entry, values)) return CUDA_SUCCESS;
  pretended_device_counters[LAUNCHES]++;
  TRACE("launch of %s, grid %u, block %u", entry->name, grid_x, block_x);
  std::string name = std::string("kernel ") + entry->name;
  if (mode == IMMEDIATE && !pretended_device_is_capturing(stream)) {
    auto operation = [=] { run_kernel(entry, grid, block, shared, values); };
    return (CUresult)pretended_device_run(stream, operation, name.c_str());
  }
  std::vector<std::vector<char>> copies;
  for (int i = 0; i < entry->count; i++) {
    const char* value = (const char*)values[i];
    copies.emplace_back(value, value + entry->sizes[i]);
  }
  auto operation = [=]() mutable {
    std::vector<void*> addresses;
    for (auto& copy : copies) addresses.push_back(copy.data());
    run_kernel(entry, grid, block, shared, addresses.data());
  };
  return (CUresult)pretended_device_run(stream, operation, name.c_str());
}

EXPORTED CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction) {
  *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? MAX_THREADS : 0;
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) {
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction, int,
                                                              size_t) {
  *blocks = 2;
  return CUDA_SUCCESS;
}

EXPORTED CUresult cuOccupancyMaxPotentialBlockSize(int* grid, int* block, CUfunction,
                                                   CUoccupancyB2DSize, size_t, int) {
  *grid = 4;
  *block = 256;
  return CUDA_SUCCESS;
}
