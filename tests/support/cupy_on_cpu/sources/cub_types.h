// CuPy's numbers of types, and the order of values with NaN.
#pragma once
#include "pretended_device.h"
#include <cmath>
#include <complex>
#include <cstdlib>
#include <type_traits>

template <class T> struct is_complex : std::false_type {};
template <class T> struct is_complex<std::complex<T>> : std::true_type {};

template <class T> bool is_nan(const T& value) {
  if constexpr (is_complex<T>::value)
    return std::isnan(value.real()) || std::isnan(value.imag());
  else
    return value != value;
}

// NaN is the largest.
template <class T> bool is_less(const T& a, const T& b) {
  if (is_nan(a)) return false;
  if (is_nan(b)) return true;
  if constexpr (is_complex<T>::value)
    return a.real() < b.real() || (a.real() == b.real() && a.imag() < b.imag());
  else
    return a < b;
}

// Calls `function` with a value of the type.
template <class Function> void by_type(int type, Function function) {
  switch (type) {
    case 0: return function((signed char)0);
    case 1: return function((unsigned char)0);
    case 2: return function((short)0);
    case 3: return function((unsigned short)0);
    case 4: return function((int)0);
    case 5: return function((unsigned)0);
    case 6: return function((long long)0);
    case 7: return function((unsigned long long)0);
    case 8: return function((_Float16)0);
    case 9: return function((float)0);
    case 10: return function((double)0);
    case 11: return function(std::complex<float>());
    case 12: return function(std::complex<double>());
    case 13: return function((bool)0);
    default:
      pretended_device_say("CUB was asked for the unknown type %d", type);
      abort();
  }
}
