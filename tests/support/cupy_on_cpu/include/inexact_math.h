// PRETENDED_DEVICE_ULP: functions are off by some units in the last place, as on a GPU they may be,
// the same for the same number. Exact are 0, 1 and -1, and what is not finite.
#pragma once

template <class T> inline T pretended_offset(T exact, T x, unsigned salt) {
  bool is_kept = exact != exact || std::isinf(exact) || exact == 0 || x == 0;
  if (is_kept || exact == 1 || exact == -1) return exact;
  unsigned long long hash = 0;
  memcpy(&hash, &x, sizeof(T));
  hash = (hash + salt) * 0x9E3779B97F4A7C15ull;
  hash ^= hash >> 29;
  hash *= 0xBF58476D1CE4E5B9ull;
  hash ^= hash >> 32;
  int units = (int)(hash % (2 * PRETENDED_DEVICE_ULP + 1)) - PRETENDED_DEVICE_ULP;
  T towards = units > 0 ? (T)INFINITY : (T)-INFINITY;
  for (int i = 0; i < std::abs(units); i++) exact = std::nextafter(exact, towards);
  return exact;
}

#define PRETENDED_REAL(f, salt)                                                              \
  inline float pretended_##f(float x) { return pretended_offset(std::f(x), x, salt); }       \
  inline double pretended_##f(double x) { return pretended_offset(std::f(x), x, salt); }     \
  template <class T, class = typename std::enable_if<std::is_integral<T>::value>::type>      \
  inline double pretended_##f(T x) {                                                         \
    return pretended_##f((double)x);                                                         \
  }
#define PRETENDED_COMPLEX(f, salt)                                                           \
  PRETENDED_REAL(f, salt)                                                                    \
  template <class T> inline complex<T> pretended_##f(const complex<T>& x) { return std::f(x); }

PRETENDED_COMPLEX(exp, 1)
PRETENDED_COMPLEX(log, 2)
PRETENDED_COMPLEX(tanh, 3)
PRETENDED_COMPLEX(sin, 4)
PRETENDED_COMPLEX(cos, 5)
PRETENDED_COMPLEX(tan, 6)
PRETENDED_REAL(log1p, 7)
PRETENDED_REAL(expm1, 8)
PRETENDED_REAL(erf, 9)

inline float pretended_expf(float x) { return pretended_exp(x); }
inline float pretended_logf(float x) { return pretended_log(x); }
inline float pretended_tanhf(float x) { return pretended_tanh(x); }

#define exp pretended_exp
#define log pretended_log
#define tanh pretended_tanh
#define sin pretended_sin
#define cos pretended_cos
#define tan pretended_tan
#define log1p pretended_log1p
#define expm1 pretended_expm1
#define erf pretended_erf
#define expf pretended_expf
#define logf pretended_logf
#define tanhf pretended_tanhf
