// Counters, messages and settings.
#include "pretended_device.h"
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>

long long pretended_device_counters[COUNTERS] = {0};
int pretended_device_trace = (int)pretended_device_setting("TRACE", 0);

static const char* const names[COUNTERS] = {
    "launches",
    "graph_launches",
    "captured_nodes",
    "products",
    "cub_calls",
    "host_to_device",
    "device_to_host",
    "device_to_device",
    "host_to_device_bytes",
    "device_to_host_bytes",
    "memsets",
    "allocations",
    "frees",
    "synchronizations",
    "device_synchronizations",
};

// Null after the last one.
EXPORTED const char* pretended_device_counter_name(int number) {
  return number < COUNTERS ? names[number] : nullptr;
}

void pretended_device_say(const char* format, ...) {
  char text[600];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  fprintf(stderr, "pretended device: %s\n", text);
}

int pretended_device_refuse(const char* name, int code) {
  pretended_device_say("%s is not pretended: nothing was done, error %d is returned", name, code);
  return code;
}

long long pretended_device_setting(const char* name, long long otherwise) {
  const char* value = getenv((std::string("PRETENDED_DEVICE_") + name).c_str());
  return value && *value ? atoll(value) : otherwise;
}
