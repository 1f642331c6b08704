// What CuPy's generated reductions use of CUB: each thread reads a stretch of items.
#pragma once
namespace cub {
enum BlockLoadAlgorithm { BLOCK_LOAD_DIRECT };

template <class T, int THREADS, int ITEMS, BlockLoadAlgorithm ALGORITHM> struct BlockLoad {
  struct TempStorage {
    char none;
  };

  BlockLoad(TempStorage&) {}

  template <class Iterator> void Load(Iterator from, T (&items)[ITEMS], int valid, T otherwise) {
    for (int i = 0; i < ITEMS; i++) {
      int index = threadIdx.x * ITEMS + i;
      items[i] = index < valid ? T(from[index]) : otherwise;
    }
  }
};
}
