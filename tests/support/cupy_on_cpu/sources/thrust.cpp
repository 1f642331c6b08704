// What the module cupy.cuda.thrust calls: sort, argsort, lexsort.
#include "cub_types.h"
#include "cupy_thrust.h"
#include <algorithm>
#include <numeric>
#include <vector>

typedef std::vector<ptrdiff_t> Shape;

static long rows_of(const Shape& shape) {
  long rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); i++) rows *= shape[i];
  return rows;
}

template <class Function> static void run(intptr_t stream, int type, Function function) {
  by_type(type, [&](auto zero) {
    pretended_device_run((void*)stream, [=] { function(zero); }, "thrust");
  });
}

template <class T> static void sort_indices(size_t* from, size_t count, const T* values) {
  std::stable_sort(from, from + count,
                   [=](size_t a, size_t b) { return is_less(values[a], values[b]); });
}

void thrust_sort(int type, void* data, size_t*, const Shape& shape, intptr_t stream, void*) {
  long rows = rows_of(shape), width = shape.back();
  run(stream, type, [=](auto zero) {
    typedef decltype(zero) T;
    for (long row = 0; row < rows; row++) {
      T* values = (T*)data + row * width;
      std::stable_sort(values, values + width, is_less<T>);
    }
  });
}

void thrust_argsort(int type, size_t* output, void* data, void*, const Shape& shape,
                    intptr_t stream, void*) {
  long rows = rows_of(shape), width = shape.back();
  run(stream, type, [=](auto zero) {
    typedef decltype(zero) T;
    for (long row = 0; row < rows; row++) {
      size_t* indices = output + row * width;
      T* values = (T*)data + row * width;
      std::iota(indices, indices + width, 0);
      sort_indices(indices, width, values);
      std::stable_sort(values, values + width, is_less<T>);
    }
  });
}

void thrust_lexsort(int type, size_t* output, void* data, size_t keys, size_t count,
                    intptr_t stream, void*) {
  run(stream, type, [=](auto zero) {
    typedef decltype(zero) T;
    std::iota(output, output + count, 0);
    for (size_t key = 0; key < keys; key++)
      sort_indices(output, count, (const T*)data + key * count);
  });
}
