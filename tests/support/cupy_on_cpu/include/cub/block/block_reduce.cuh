// What CuPy's generated reductions use of CUB: a tree over the threads of a block.
#pragma once
namespace cub {
template <class T, int THREADS> struct BlockReduce {
  struct TempStorage {
    alignas(16) char bytes[THREADS * sizeof(T)];
  };
  TempStorage& storage;

  BlockReduce(TempStorage& given) : storage(given) {}

  // The result is that of thread 0, as in CUB; to the others it is not defined.
  template <class Operation> T Reduce(T mine, Operation operation) {
    T* parts = (T*)storage.bytes;
    unsigned thread = threadIdx.x;
    memcpy(&parts[thread], &mine, sizeof(T));
    for (unsigned half = THREADS / 2; half; half /= 2) {
      __syncthreads();
      if (thread >= half) continue;
      T both = operation(parts[thread], parts[thread + half]);
      memcpy(&parts[thread], &both, sizeof(T));
    }
    return parts[0];
  }

  template <int ITEMS, class Operation> T Reduce(T (&items)[ITEMS], Operation operation) {
    T mine = items[0];
    for (int i = 1; i < ITEMS; i++) mine = operation(mine, items[i]);
    return Reduce(mine, operation);
  }
};
}
