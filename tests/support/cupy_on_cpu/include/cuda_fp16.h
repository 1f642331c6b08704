// float16 as CuPy's kernels use it.
#pragma once

struct __half_raw {
  unsigned short x;
};

struct __half {
  _Float16 value;

  __half() = default;
  __half(float x) : value((_Float16)x) {}
  explicit __half(double x) : value((_Float16)x) {}
  explicit __half(int x) : value((_Float16)x) {}
  explicit __half(unsigned x) : value((_Float16)x) {}
  explicit __half(long x) : value((_Float16)x) {}
  explicit __half(unsigned long x) : value((_Float16)x) {}
  explicit __half(long long x) : value((_Float16)x) {}
  explicit __half(unsigned long long x) : value((_Float16)x) {}
  __half(const __half_raw& raw) { memcpy(&value, &raw.x, sizeof value); }
  operator float() const { return (float)value; }
  operator __half_raw() const {
    __half_raw raw;
    memcpy(&raw.x, &value, sizeof value);
    return raw;
  }
};
typedef __half half;

inline unsigned short __half_as_ushort(half x) { return ((__half_raw)x).x; }
inline half __ushort_as_half(unsigned short bits) { return half(__half_raw{bits}); }
inline float __half2float(half x) { return (float)x; }
inline half __float2half(float x) { return half(x); }
inline half __float2half_rn(float x) { return half(x); }
