// Device memory: pages of the host between gaps that nobody may touch.
#include "internal.h"
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <sys/mman.h>

static const size_t PAGE = 4096;
// Nobody may touch so many bytes before and behind the pages of an allocation.
static const size_t GAP = 1 << 20;
static const size_t ALIGNMENT = 256;
// What is fresh, freed or outside of an allocation: NaN as a float, -1 as an integer.
static const unsigned char FILLED = 0xff;
static const size_t FILLED_AT_MOST = 64u << 20;
static const size_t KEPT_AFTER_FREE = 2000;
static const size_t TOTAL = (size_t)pretended_device_setting("MEMORY", 1ll << 34);

struct Allocation {
  char* start;
  size_t bytes;
  char* mapped;
  size_t mapped_bytes;

  char* first_page() const { return mapped + GAP; }
  char* end_of_pages() const { return mapped + mapped_bytes - GAP; }
};

static std::map<const char*, Allocation> live;
static std::map<const char*, size_t> pinned;
static std::deque<Allocation> freed;
static size_t bytes_in_use = 0;

static size_t rounded_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// The allocation in which the address lies or which ends there; null without one.
static const Allocation* find(const void* address) {
  auto after = live.upper_bound((const char*)address);
  if (after == live.begin()) return nullptr;
  const Allocation& found = std::prev(after)->second;
  return (const char*)address < found.start + found.bytes ? &found : nullptr;
}

bool is_device(const void* address) {
  LOCK;
  return find(address);
}

bool is_pinned(const void* address) {
  LOCK;
  auto after = pinned.upper_bound((const char*)address);
  if (after == pinned.begin()) return false;
  --after;
  return (const char*)address < after->first + after->second;
}

int pretended_device_owns(const void* address, size_t bytes) {
  LOCK;
  const Allocation* found = find(address);
  return found && (const char*)address + bytes <= found->start + found->bytes;
}

std::string describe_address(const void* address) {
  const char* byte = (const char*)address;
  auto lies_in = [=](const Allocation& one) {
    return one.mapped <= byte && byte < one.mapped + one.mapped_bytes;
  };
  auto words = [=](const Allocation& one, const char* kind) {
    long long offset = byte - one.start;
    return "byte " + std::to_string(offset) + " of " + kind + std::to_string(one.bytes) + " bytes";
  };
  for (auto& entry : live)
    if (lies_in(entry.second)) return words(entry.second, "an allocation of ");
  for (auto& one : freed)
    if (lies_in(one)) return words(one, "freed device memory of ");
  return "no device memory";
}

static bool is_filled(const char* from, size_t bytes) {
  bool first = bytes == 0 || (unsigned char)*from == FILLED;
  return first && (bytes < 2 || !memcmp(from, from + 1, bytes - 1));
}

static void check_guard(const Allocation& one) {
  const char* end = one.start + one.bytes;
  if (is_filled(one.first_page(), one.start - one.first_page()) &&
      is_filled(end, one.end_of_pages() - end))
    return;
  fail_context(cudaErrorIllegalAddress,
               "something wrote beyond the ends of an allocation of " + std::to_string(one.bytes) +
                   " bytes");
}

void check_guards() {
  for (auto& entry : live) check_guard(entry.second);
}

// The end lies as near as the alignment allows to the gap behind it.
static cudaError_t allocate(void** address, size_t bytes) {
  pretended_device_counters[ALLOCATIONS]++;
  bytes = std::max<size_t>(bytes, 1);
  if (bytes > TOTAL - bytes_in_use) {
    TRACE("allocation of %zu bytes fails, %zu of %zu are in use", bytes, bytes_in_use, TOTAL);
    return cudaErrorMemoryAllocation;
  }
  size_t inside = rounded_up(bytes, PAGE);
  size_t mapped_bytes = inside + 2 * GAP;
  int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  char* mapped = (char*)mmap(nullptr, mapped_bytes, PROT_NONE, kind, -1, 0);
  if (mapped == MAP_FAILED) return cudaErrorMemoryAllocation;
  char* first = mapped + GAP;
  if (mprotect(first, inside, PROT_READ | PROT_WRITE)) return cudaErrorMemoryAllocation;
  char* start = first + inside - rounded_up(bytes, ALIGNMENT);
  if (bytes <= FILLED_AT_MOST) {
    memset(first, FILLED, inside);
  } else {
    memset(first, FILLED, start - first);
    memset(start + bytes, FILLED, first + inside - start - bytes);
  }
  live[start] = {start, bytes, mapped, mapped_bytes};
  bytes_in_use += bytes;
  *address = start;
  TRACE("allocation of %zu bytes at %p", bytes, (void*)start);
  return cudaSuccess;
}

static cudaError_t release(void* address) {
  if (!address) return cudaSuccess;
  auto found = live.find((const char*)address);
  if (found == live.end()) {
    pretended_device_say("free of %p, which was not allocated or is freed already", address);
    return cudaErrorInvalidValue;
  }
  wait_for_all();
  pretended_device_counters[FREES]++;
  Allocation one = found->second;
  check_guard(one);
  live.erase(found);
  bytes_in_use -= one.bytes;
  madvise(one.mapped, one.mapped_bytes, MADV_DONTNEED);
  mprotect(one.mapped, one.mapped_bytes, PROT_NONE);
  freed.push_back(one);
  if (freed.size() > KEPT_AFTER_FREE) {
    munmap(freed.front().mapped, freed.front().mapped_bytes);
    freed.pop_front();
  }
  return cudaSuccess;
}

EXPORTED cudaError_t cudaMalloc(void** address, size_t bytes) {
  LOCK;
  RETURN_STICKY_ERROR;
  if (cudaError_t error = refused_by_capture(true)) return error;
  return allocate(address, bytes);
}

EXPORTED cudaError_t cudaMallocAsync(void** address, size_t bytes, cudaStream_t stream) {
  LOCK;
  RETURN_STICKY_ERROR;
  if (pretended_device_is_capturing(stream)) {
    capturing_stream->capture_is_invalid = true;
    return (cudaError_t)pretended_device_refuse("cudaMallocAsync in a capture", 801);
  }
  return allocate(address, bytes);
}

EXPORTED cudaError_t cudaFree(void* address) {
  LOCK;
  RETURN_STICKY_ERROR;
  if (cudaError_t error = refused_by_capture(true)) return error;
  return release(address);
}

EXPORTED cudaError_t cudaFreeAsync(void* address, cudaStream_t) { return cudaFree(address); }

EXPORTED cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned) {
  LOCK;
  *address = malloc(std::max<size_t>(bytes, 1));
  pinned[(const char*)*address] = bytes;
  return cudaSuccess;
}

EXPORTED cudaError_t cudaFreeHost(void* address) {
  LOCK;
  wait_for_all();
  pinned.erase((const char*)address);
  free(address);
  return cudaSuccess;
}

EXPORTED cudaError_t cudaMemGetInfo(size_t* unused, size_t* total) {
  LOCK;
  RETURN_STICKY_ERROR;
  *total = TOTAL;
  *unused = TOTAL - bytes_in_use;
  return cudaSuccess;
}

EXPORTED cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void* address) {
  *found = {};
  if (is_device(address)) {
    found->type = cudaMemoryTypeDevice;
    found->devicePointer = (void*)address;
  } else {
    found->type = is_pinned(address) ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    found->device = is_pinned(address) ? 0 : -2;
    found->hostPointer = (void*)address;
  }
  return cudaSuccess;
}
