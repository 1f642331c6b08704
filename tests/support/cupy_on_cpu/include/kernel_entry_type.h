// What a compiled kernel exports, and the device launches.
#pragma once
#include <cstddef>

struct KernelEntry {
  void (*call)(void**);
  const char* name;
  int count;
  const size_t* sizes;
  const bool* holds_pointer;
};
