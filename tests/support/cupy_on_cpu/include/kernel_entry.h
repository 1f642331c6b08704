// How cuLaunchKernel calls a kernel: an address for each argument, the types from the kernel.
#pragma once

#include "kernel_entry_type.h"

// CuPy passes an array as a pointer, or as a CArray, which begins with one.
template <class T> struct pretended_pointer : std::is_pointer<T> {};
template <template <class, int, bool, bool> class Array, class T, int N, bool C, bool I>
struct pretended_pointer<Array<T, N, C, I>> : std::true_type {};

template <class... A> struct pretended_types {
  static constexpr size_t sizes[] = {sizeof(A)..., 0};
  static constexpr bool holds_pointer[] = {
      pretended_pointer<typename std::remove_cv<A>::type>::value..., false};
};
template <class... A> constexpr size_t pretended_types<A...>::sizes[];
template <class... A> constexpr bool pretended_types<A...>::holds_pointer[];

template <class... A, size_t... I>
void pretended_call(void (*kernel)(A...), void** values, std::index_sequence<I...>) {
  kernel(*(typename std::remove_cv<A>::type*)values[I]...);
}

template <class... A> void pretended_call(void (*kernel)(A...), void** values) {
  pretended_call(kernel, values, std::index_sequence_for<A...>());
}

template <class... A>
KernelEntry pretended_entry(void (*)(A...), void (*call)(void**), const char* name) {
  typedef pretended_types<A...> types;
  return {call, name, (int)sizeof...(A), types::sizes, types::holds_pointer};
}

#define PRETENDED_KERNEL(tag, ...)                                             \
  static void pretended_call_##tag(void** values) {                            \
    pretended_call(&__VA_ARGS__, values);                                      \
  }                                                                            \
  extern "C" KernelEntry pretended_kernel_##tag;                               \
  KernelEntry pretended_kernel_##tag =                                         \
      pretended_entry(&__VA_ARGS__, pretended_call_##tag, #__VA_ARGS__);
