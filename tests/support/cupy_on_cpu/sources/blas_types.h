// Numbers as cuBLAS names them, and how products round what goes in.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

enum Status {
  SUCCESS = 0,
  NOT_INITIALIZED = 1,
  INVALID_VALUE = 7,
  EXECUTION_FAILED = 13,
  INTERNAL_ERROR = 14,
  NOT_SUPPORTED = 15
};

// cudaDataType
enum Type { FLOAT32 = 0, FLOAT64 = 1, FLOAT16 = 2, BFLOAT16 = 14 };

// cublasComputeType_t
enum Compute {
  COMPUTE_16F = 64,
  COMPUTE_16F_PEDANTIC = 65,
  COMPUTE_32F = 68,
  COMPUTE_64F = 70,
  COMPUTE_64F_PEDANTIC = 71,
  COMPUTE_32F_FAST_16BF = 75,
  COMPUTE_32F_FAST_TF32 = 77
};

inline bool is_known(int type) {
  return type == FLOAT32 || type == FLOAT64 || type == FLOAT16 || type == BFLOAT16;
}

inline size_t size_of(int type) { return type == FLOAT64 ? 8 : type == FLOAT32 ? 4 : 2; }

inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// To so many bits after the point, to nearest even.
inline float rounded(float value, int bits_kept) {
  uint32_t bits = bits_of(value);
  bool is_finite = (bits & 0x7f800000u) != 0x7f800000u;
  if (!is_finite) return value;
  int dropped = 23 - bits_kept;
  bits += (1u << (dropped - 1)) - 1 + ((bits >> dropped) & 1);
  return float_of(bits & ~((1u << dropped) - 1));
}

template <class T> T rounded_for(T value, int compute) {
  if constexpr (std::is_same_v<T, float>) {
    if (compute == COMPUTE_32F_FAST_TF32) return rounded(value, 10);
    if (compute == COMPUTE_32F_FAST_16BF) return rounded(value, 7);
  }
  return value;
}

inline double load(const void* array, int type, long index) {
  switch (type) {
    case FLOAT32: return ((const float*)array)[index];
    case FLOAT64: return ((const double*)array)[index];
    case FLOAT16: return (float)((const _Float16*)array)[index];
    default: return float_of((uint32_t)((const uint16_t*)array)[index] << 16);
  }
}

inline void store(void* array, int type, long index, double value) {
  switch (type) {
    case FLOAT32: ((float*)array)[index] = (float)value; break;
    case FLOAT64: ((double*)array)[index] = value; break;
    case FLOAT16: ((_Float16*)array)[index] = (_Float16)(float)value; break;
    default: ((uint16_t*)array)[index] = bits_of(rounded((float)value, 7)) >> 16;
  }
}
