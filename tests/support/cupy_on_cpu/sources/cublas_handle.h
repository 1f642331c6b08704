// The handle of cuBLAS, and what every function checks of it.
#pragma once
#include "blas_types.h"
#include "pretended_device.h"

struct Handle {
  void* stream = nullptr;
  int scalars_on_device = 0;
  int math_mode = 0;
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
  bool destroyed = false;
};

inline int check_handle(void* handle, const char* name) {
  if (handle && !((Handle*)handle)->destroyed) return SUCCESS;
  pretended_device_say("%s refused: the handle was destroyed or never created", name);
  return NOT_INITIALIZED;
}

// A workspace of cuBLAS' own would be allocated in the capture, and shared with other products.
inline int check_workspace(void* handle, const char* name) {
  Handle* one = (Handle*)handle;
  if (one->workspace ? pretended_device_owns(one->workspace, one->workspace_bytes)
                     : !pretended_device_is_capturing(one->stream))
    return SUCCESS;
  pretended_device_say("%s refused: %s", name,
                       one->workspace ? "its workspace was freed"
                                      : "captured without a workspace of its own");
  return INTERNAL_ERROR;
}

inline int run(void* handle, Operation operation, const char* name) {
  int error = pretended_device_run(((Handle*)handle)->stream, operation, name);
  return error ? EXECUTION_FAILED : SUCCESS;
}

#define REQUIRE_HOST_SCALARS                                                      \
  if (check_handle(handle, __func__)) return NOT_INITIALIZED;                     \
  if (((Handle*)handle)->scalars_on_device)                                       \
    return pretended_device_refuse("a factor on the device", INVALID_VALUE)
