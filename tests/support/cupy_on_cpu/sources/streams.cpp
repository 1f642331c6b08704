// Streams and events. A stream is a chain of nodes; a node runs when somebody waits for it.
#include "internal.h"
#include <chrono>
#include <set>

std::recursive_mutex everything;
const int mode = (int)pretended_device_setting("ASYNC", IMMEDIATE);
Stream default_stream{true};
Stream* capturing_stream = nullptr;
cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;

struct Event {
  bool destroyed = false;
  bool captured = false;
  std::shared_ptr<Node> node;
};

// Destroyed ones stay here, so that no new one gets the same address.
static std::set<Stream*> streams;
static std::set<Event*> events;

double seconds() {
  auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

Stream* stream_of(void* handle) {
  if (handle == nullptr || handle == cudaStreamLegacy || handle == cudaStreamPerThread)
    return &default_stream;
  Stream* stream = (Stream*)handle;
  if (streams.count(stream) && !stream->destroyed) return stream;
  pretended_device_say("stream %p is used, which was destroyed or never created", handle);
  return nullptr;
}

static Event* event_of(cudaEvent_t handle) {
  Event* event = (Event*)handle;
  if (events.count(event) && !event->destroyed) return event;
  pretended_device_say("event %p is used, which was destroyed or never created", (void*)handle);
  return nullptr;
}

void wait_for(const std::shared_ptr<Node>& wanted) {
  std::vector<std::shared_ptr<Node>> stack{wanted};
  while (!stack.empty()) {
    std::shared_ptr<Node> node = stack.back();
    if (!node || node->done) {
      stack.pop_back();
      continue;
    }
    bool ready = true;
    for (auto& other : node->before) {
      if (!other || other->done) continue;
      stack.push_back(other);
      ready = false;
      break;
    }
    if (!ready) continue;
    stack.pop_back();
    node->done = true;
    if (node->operation) node->operation();
    node->operation = nullptr;
    node->before.clear();
    node->finished_at = seconds();
  }
}

void wait_for_all() {
  wait_for(default_stream.last);
  for (Stream* stream : streams) wait_for(stream->last);
}

std::shared_ptr<Node> enqueue(Stream* stream, Operation operation, const std::string& name) {
  auto node = std::make_shared<Node>();
  node->operation = std::move(operation);
  node->name = name;
  std::vector<std::shared_ptr<Node>> of_streams{stream->last}, of_events = stream->waits_for;
  stream->waits_for.clear();
  // The legacy default stream and blocking streams wait for each other.
  if (stream == &default_stream) {
    for (Stream* other : streams)
      if (other->is_blocking) of_streams.push_back(other->last);
  } else if (stream->is_blocking) {
    of_streams.push_back(default_stream.last);
  }
  auto& first = mode == STREAM_FIRST ? of_streams : of_events;
  auto& second = mode == STREAM_FIRST ? of_events : of_streams;
  node->before = first;
  node->before.insert(node->before.end(), second.begin(), second.end());
  stream->last = node;
  if (mode == IMMEDIATE) wait_for(node);
  return node;
}

int pretended_device_run(void* handle, Operation operation, const char* name) {
  LOCK;
  RETURN_STICKY_ERROR;
  Stream* stream = stream_of(handle);
  if (!stream) return cudaErrorInvalidResourceHandle;
  std::string words = name;
  if (stream->capturing) {
    pretended_device_counters[CAPTURED_NODES]++;
    stream->captured.push_back({operation, words});
    return cudaSuccess;
  }
  if (stream == &default_stream && capturing_stream && capturing_stream->is_blocking) {
    capturing_stream->capture_is_invalid = true;
    return cudaErrorStreamCaptureImplicit;
  }
  enqueue(stream, [=] { run_guarded(operation, words); }, words);
  return cudaSuccess;
}

int pretended_device_is_capturing(void* handle) {
  LOCK;
  Stream* stream = stream_of(handle);
  return stream && stream->capturing;
}

cudaError_t refused_by_capture(bool allowed_if_relaxed) {
  bool is_relaxed = capture_mode == cudaStreamCaptureModeRelaxed;
  if (!capturing_stream || (allowed_if_relaxed && is_relaxed)) return cudaSuccess;
  capturing_stream->capture_is_invalid = true;
  return cudaErrorStreamCaptureUnsupported;
}

int pretended_device_synchronize() {
  LOCK;
  RETURN_STICKY_ERROR;
  if (cudaError_t error = refused_by_capture()) return error;
  pretended_device_counters[SYNCHRONIZATIONS]++;
  pretended_device_counters[DEVICE_SYNCHRONIZATIONS]++;
  TRACE("synchronization of the device");
  wait_for_all();
  check_guards();
  return sticky_error;
}

EXPORTED cudaError_t cudaDeviceSynchronize() {
  return (cudaError_t)pretended_device_synchronize();
}

// ---- streams

EXPORTED cudaError_t cudaStreamCreateWithFlags(cudaStream_t* handle, unsigned flags) {
  LOCK;
  RETURN_STICKY_ERROR;
  Stream* stream = new Stream{!(flags & cudaStreamNonBlocking)};
  streams.insert(stream);
  *handle = (cudaStream_t)stream;
  return cudaSuccess;
}

EXPORTED cudaError_t cudaStreamCreate(cudaStream_t* handle) {
  return cudaStreamCreateWithFlags(handle, cudaStreamDefault);
}

EXPORTED cudaError_t cudaStreamCreateWithPriority(cudaStream_t* handle, unsigned flags, int) {
  return cudaStreamCreateWithFlags(handle, flags);
}

EXPORTED cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  LOCK;
  RETURN_STICKY_ERROR;
  Stream* stream = stream_of(handle);
  if (!stream || stream == &default_stream) return cudaErrorInvalidResourceHandle;
  wait_for(stream->last);
  if (capturing_stream == stream) capturing_stream = nullptr;
  stream->destroyed = true;
  stream->captured.clear();
  stream->last = nullptr;
  return cudaSuccess;
}

EXPORTED cudaError_t cudaStreamGetFlags(cudaStream_t handle, unsigned* flags) {
  LOCK;
  Stream* stream = stream_of(handle);
  if (!stream) return cudaErrorInvalidResourceHandle;
  *flags = stream->is_blocking ? cudaStreamDefault : cudaStreamNonBlocking;
  return cudaSuccess;
}

EXPORTED cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) {
  *priority = 0;
  return cudaSuccess;
}

static cudaError_t finish(cudaStream_t handle) {
  RETURN_STICKY_ERROR;
  Stream* stream = stream_of(handle);
  if (!stream) return cudaErrorInvalidResourceHandle;
  if (stream->capturing) {
    stream->capture_is_invalid = true;
    return cudaErrorStreamCaptureUnsupported;
  }
  wait_for(enqueue(stream, nullptr, "synchronization"));
  return sticky_error;
}

EXPORTED cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  LOCK;
  pretended_device_counters[SYNCHRONIZATIONS]++;
  TRACE("synchronization of a stream");
  return finish(handle);
}

EXPORTED cudaError_t cudaStreamQuery(cudaStream_t handle) {
  LOCK;
  return finish(handle);
}

EXPORTED cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t of, unsigned) {
  LOCK;
  RETURN_STICKY_ERROR;
  Stream* stream = stream_of(handle);
  Event* event = event_of(of);
  if (!stream || !event) return cudaErrorInvalidResourceHandle;
  if (stream->capturing && !event->captured && event->node) {
    stream->capture_is_invalid = true;
    return cudaErrorStreamCaptureIsolation;
  }
  if (event->captured && !stream->capturing) {
    if (capturing_stream) capturing_stream->capture_is_invalid = true;
    return (cudaError_t)pretended_device_refuse("a capture of several streams", 801);
  }
  if (!stream->capturing && event->node) stream->waits_for.push_back(event->node);
  return cudaSuccess;
}

EXPORTED cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* data) {
  LOCK;
  Stream* stream = stream_of(handle);
  if (!stream) return cudaErrorInvalidResourceHandle;
  auto operation = [=] { function(data); };
  if (stream->capturing) stream->captured.push_back({operation, "host function"});
  else enqueue(stream, operation, "host function");
  return cudaSuccess;
}

// ---- events

EXPORTED cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned) {
  LOCK;
  RETURN_STICKY_ERROR;
  Event* event = new Event;
  events.insert(event);
  *handle = (cudaEvent_t)event;
  return cudaSuccess;
}

EXPORTED cudaError_t cudaEventCreate(cudaEvent_t* handle) {
  return cudaEventCreateWithFlags(handle, 0);
}

EXPORTED cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  LOCK;
  RETURN_STICKY_ERROR;
  Event* event = event_of(handle);
  if (!event) return cudaErrorInvalidResourceHandle;
  event->destroyed = true;
  event->node = nullptr;
  return cudaSuccess;
}

EXPORTED cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t on) {
  LOCK;
  RETURN_STICKY_ERROR;
  Event* event = event_of(handle);
  Stream* stream = stream_of(on);
  if (!event || !stream) return cudaErrorInvalidResourceHandle;
  event->captured = stream->capturing;
  event->node = stream->capturing ? nullptr : enqueue(stream, nullptr, "event");
  return cudaSuccess;
}

static cudaError_t finish_event(cudaEvent_t handle) {
  RETURN_STICKY_ERROR;
  Event* event = event_of(handle);
  if (!event) return cudaErrorInvalidResourceHandle;
  if (event->captured) return cudaErrorCapturedEvent;
  if (event->node) wait_for(event->node);
  return sticky_error;
}

EXPORTED cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  LOCK;
  if (cudaError_t error = refused_by_capture(true)) return error;
  pretended_device_counters[SYNCHRONIZATIONS]++;
  return finish_event(handle);
}

EXPORTED cudaError_t cudaEventQuery(cudaEvent_t handle) {
  LOCK;
  return finish_event(handle);
}

EXPORTED cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  LOCK;
  for (cudaEvent_t handle : {from, to})
    if (cudaError_t error = finish_event(handle)) return error;
  Event *start = (Event*)from, *end = (Event*)to;
  if (!start->node || !end->node) return cudaErrorInvalidResourceHandle;
  *milliseconds = (float)((end->node->finished_at - start->node->finished_at) * 1e3);
  return cudaSuccess;
}
