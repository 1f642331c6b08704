// What the module cupy.cuda.cub calls: reductions, scans and histograms of the whole device.
#include "cub_types.h"
#include <cuda_runtime.h>
#include "cupy_cub.h"
#include <algorithm>

static const size_t WORKSPACE = 1024;

template <class T> static T smaller(const T& a, const T& b) {
  if (is_nan(a)) return a;
  return is_nan(b) || is_less(b, a) ? b : a;
}

template <class T> static T larger(const T& a, const T& b) {
  if (is_nan(a)) return a;
  return is_nan(b) || is_less(a, b) ? b : a;
}

// Pairs of pairs, as a tree of threads adds.
template <class T, class Function> static T tree(const T* values, long count, Function function) {
  if (count > 8) {
    T left = tree(values, count / 2, function);
    return function(left, tree(values + count / 2, count - count / 2, function));
  }
  T result = values[0];
  for (long i = 1; i < count; i++) result = function(result, values[i]);
  return result;
}

template <class T> static T reduced(const T* values, long count, int operation) {
  if (operation == CUPY_CUB_SUM)
    return count ? tree(values, count, [](T a, T b) { return (T)(a + b); }) : T(0);
  if (operation == CUPY_CUB_PROD)
    return count ? tree(values, count, [](T a, T b) { return (T)(a * b); }) : T(1);
  if (operation == CUPY_CUB_MIN) return tree(values, count, smaller<T>);
  return tree(values, count, larger<T>);
}

template <class T> struct KeyValue {
  int key;
  T value;
};

template <class T> static KeyValue<T> extreme(const T* values, long count, bool smallest) {
  long best = 0;
  for (long i = 1; i < count && !is_nan(values[best]); i++) {
    bool is_better = smallest ? is_less(values[i], values[best]) : is_less(values[best], values[i]);
    if (is_nan(values[i]) || is_better) best = i;
  }
  return {(int)best, values[best]};
}

template <class Function> static void run(cudaStream_t stream, int type, Function function) {
  pretended_device_counters[CUB_CALLS]++;
  by_type(type, [&](auto zero) {
    pretended_device_run(stream, [=] { function(zero); }, "CUB");
  });
}

void cub_device_reduce(void*, size_t&, void* input, void* output, int count, cudaStream_t stream,
                       int operation, int type) {
  run(stream, type, [=](auto zero) {
    typedef decltype(zero) T;
    const T* values = (const T*)input;
    if (operation == CUPY_CUB_ARGMIN || operation == CUPY_CUB_ARGMAX)
      *(KeyValue<T>*)output = extreme(values, count, operation == CUPY_CUB_ARGMIN);
    else
      *(T*)output = reduced(values, count, operation);
  });
}

void cub_device_segmented_reduce(void*, size_t&, void* input, void* output, int rows, int width,
                                 cudaStream_t stream, int operation, int type) {
  run(stream, type, [=](auto zero) {
    typedef decltype(zero) T;
    for (long row = 0; row < rows; row++)
      ((T*)output)[row] = reduced((const T*)input + row * width, width, operation);
  });
}

void cub_device_scan(void*, size_t&, void* data, void*, int count, cudaStream_t stream,
                     int operation, int type) {
  run(stream, type, [=](auto zero) {
    typedef decltype(zero) T;
    T* values = (T*)data;
    for (long i = 1; i < count; i++)
      values[i] = operation == CUPY_CUB_CUMSUM ? (T)(values[i - 1] + values[i])
                                               : (T)(values[i - 1] * values[i]);
  });
}

void cub_device_histogram_range(void*, size_t&, void* input, void* output, int edges, void* bins,
                                size_t count, cudaStream_t stream, int type) {
  run(stream, type, [=](auto zero) {
    typedef decltype(zero) T;
    if constexpr (!is_complex<T>::value) {
      typedef typename std::conditional<std::is_floating_point<T>::value, T, double>::type Edge;
      const Edge* edge = (const Edge*)bins;
      long long* histogram = (long long*)output;
      std::fill(histogram, histogram + edges - 1, 0);
      for (size_t i = 0; i < count; i++) {
        Edge value = (Edge)((const T*)input)[i];
        long bin = std::upper_bound(edge, edge + edges, value) - edge - 1;
        if (bin >= 0 && bin < edges - 1) histogram[bin]++;
      }
    }
  });
}

void cub_device_histogram_even(void*, size_t&, void* input, void* output, int edges, int lowest,
                               int highest, size_t count, cudaStream_t stream, int type) {
  run(stream, type, [=](auto zero) {
    typedef decltype(zero) T;
    if constexpr (std::is_integral<T>::value) {
      long long* histogram = (long long*)output;
      std::fill(histogram, histogram + edges - 1, 0);
      for (size_t i = 0; i < count; i++) {
        long value = (long)((const T*)input)[i];
        if (value < lowest || value >= highest) continue;
        histogram[(value - lowest) * (edges - 1) / (highest - lowest)]++;
      }
    }
  });
}

size_t cub_device_reduce_get_workspace_size(void*, void*, int, cudaStream_t, int, int) {
  return WORKSPACE;
}

size_t cub_device_segmented_reduce_get_workspace_size(void*, void*, int, int, cudaStream_t, int,
                                                      int) {
  return WORKSPACE;
}

size_t cub_device_scan_get_workspace_size(void*, void*, int, cudaStream_t, int, int) {
  return WORKSPACE;
}

size_t cub_device_histogram_range_get_workspace_size(void*, void*, int, void*, size_t,
                                                     cudaStream_t, int) {
  return WORKSPACE;
}

size_t cub_device_histogram_even_get_workspace_size(void*, void*, int, int, int, size_t,
                                                    cudaStream_t, int) {
  return WORKSPACE;
}
