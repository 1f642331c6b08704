// CUDA's functions of numbers.
#pragma once

#define __popc __builtin_popcount
#define __popcll __builtin_popcountll
#define __clz __builtin_clz

template <class T> inline T __ldg(const T* address) { return *address; }

using std::abs;
using std::ceil;
using std::cos;
using std::erf;
using std::exp;
using std::expm1;
using std::floor;
using std::isfinite;
using std::isinf;
using std::isnan;
using std::log;
using std::log1p;
using std::pow;
using std::signbit;
using std::sin;
using std::sqrt;
using std::tan;
using std::tanh;

inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float rsqrt(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline float exp10f(float x) { return ::powf(10, x); }
inline float __expf(float x) { return ::expf(x); }
inline float __logf(float x) { return ::logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1 / x; }

#define PRETENDED_EXTREMES(T)                      \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
PRETENDED_EXTREMES(int)
PRETENDED_EXTREMES(unsigned)
PRETENDED_EXTREMES(long)
PRETENDED_EXTREMES(unsigned long)
PRETENDED_EXTREMES(long long)
PRETENDED_EXTREMES(unsigned long long)

// As in PTX: the one that is a number, and -0 < +0.
template <class T> inline T pretended_max(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? b : a;
  return a < b ? b : a;
}

template <class T> inline T pretended_min(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return std::signbit(a) ? a : b;
  return b < a ? b : a;
}

inline float min(float a, float b) { return pretended_min(a, b); }
inline float max(float a, float b) { return pretended_max(a, b); }
inline double min(double a, double b) { return pretended_min(a, b); }
inline double max(double a, double b) { return pretended_max(a, b); }

template <class To, class From> inline To pretended_bits(From value) {
  To bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline long long __double_as_longlong(double x) { return pretended_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return pretended_bits<double>(x); }
inline int __float_as_int(float x) { return pretended_bits<int>(x); }
inline float __int_as_float(int x) { return pretended_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return pretended_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return pretended_bits<float>(x); }

#ifdef PRETENDED_DEVICE_ULP
#include "inexact_math.h"
#endif
