// Capture of one stream, and graphs: a graph is the list of operations that were captured.
#include "internal.h"
#include <set>

struct Graph {
  std::vector<Step> steps;
  bool destroyed = false;
};

// Destroyed ones stay here, so that no new one gets the same address.
static std::set<Graph*> graphs;

static Graph* graph_of(void* handle) {
  Graph* graph = (Graph*)handle;
  if (graphs.count(graph) && !graph->destroyed) return graph;
  pretended_device_say("graph %p is used, which was destroyed or never created", handle);
  return nullptr;
}

static Graph* new_graph(const std::vector<Step>& steps) {
  Graph* graph = new Graph{steps};
  graphs.insert(graph);
  return graph;
}

EXPORTED cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode how) {
  LOCK;
  RETURN_STICKY_ERROR;
  Stream* stream = stream_of(handle);
  if (!stream) return cudaErrorInvalidResourceHandle;
  if (stream == &default_stream) return cudaErrorStreamCaptureUnsupported;
  if (capturing_stream == stream) return cudaErrorIllegalState;
  if (capturing_stream)
    return (cudaError_t)pretended_device_refuse("a second capture at the same time", 801);
  stream->capturing = true;
  stream->capture_is_invalid = false;
  stream->captured.clear();
  capturing_stream = stream;
  capture_mode = how;
  return cudaSuccess;
}

EXPORTED cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  LOCK;
  RETURN_STICKY_ERROR;
  *graph = nullptr;
  Stream* stream = stream_of(handle);
  if (!stream) return cudaErrorInvalidResourceHandle;
  if (!stream->capturing) return cudaErrorIllegalState;
  stream->capturing = false;
  capturing_stream = nullptr;
  if (stream->capture_is_invalid) return cudaErrorStreamCaptureInvalidated;
  *graph = (cudaGraph_t)new_graph(stream->captured);
  stream->captured.clear();
  return cudaSuccess;
}

EXPORTED cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  LOCK;
  Stream* stream = stream_of(handle);
  if (!stream) return cudaErrorInvalidResourceHandle;
  // A blocking stream that is captured forbids any use of the legacy one.
  if (stream == &default_stream && capturing_stream && capturing_stream->is_blocking) {
    capturing_stream->capture_is_invalid = true;
    return cudaErrorStreamCaptureImplicit;
  }
  *status = cudaStreamCaptureStatusNone;
  if (stream->capturing) *status = cudaStreamCaptureStatusActive;
  if (stream->capturing && stream->capture_is_invalid)
    *status = cudaStreamCaptureStatusInvalidated;
  return cudaSuccess;
}

EXPORTED cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t handle,
                                          unsigned long long) {
  LOCK;
  RETURN_STICKY_ERROR;
  Graph* graph = graph_of(handle);
  if (!graph) return cudaErrorInvalidValue;
  *executable = (cudaGraphExec_t)new_graph(graph->steps);
  return cudaSuccess;
}

EXPORTED cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  LOCK;
  RETURN_STICKY_ERROR;
  Graph* graph = graph_of(executable);
  if (!graph) return cudaErrorInvalidValue;
  if (pretended_device_is_capturing(stream)) {
    capturing_stream->capture_is_invalid = true;
    return (cudaError_t)pretended_device_refuse("a graph in a graph", 801);
  }
  pretended_device_counters[GRAPH_LAUNCHES]++;
  TRACE("launch of a graph of %zu nodes", graph->steps.size());
  Stream* on = stream_of(stream);
  if (!on) return cudaErrorInvalidResourceHandle;
  auto steps = std::make_shared<std::vector<Step>>(graph->steps);
  auto operation = [=] {
    for (auto& step : *steps) run_guarded(step.operation, step.name + " of a graph");
  };
  enqueue(on, operation, "graph");
  return cudaSuccess;
}

EXPORTED cudaError_t cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t) {
  LOCK;
  return graph_of(executable) ? cudaSuccess : cudaErrorInvalidValue;
}

static cudaError_t destroy(void* handle) {
  LOCK;
  RETURN_STICKY_ERROR;
  Graph* graph = graph_of(handle);
  if (!graph) return cudaErrorInvalidValue;
  graph->destroyed = true;
  graph->steps.clear();
  return cudaSuccess;
}

EXPORTED cudaError_t cudaGraphDestroy(cudaGraph_t handle) { return destroy(handle); }

EXPORTED cudaError_t cudaGraphExecDestroy(cudaGraphExec_t handle) { return destroy(handle); }
