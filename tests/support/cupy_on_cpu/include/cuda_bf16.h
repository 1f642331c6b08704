// bfloat16 as CuPy's kernels use it.
#pragma once

struct __nv_bfloat16_raw {
  unsigned short x;
};

struct __nv_bfloat16 {
  unsigned short bits;

  __nv_bfloat16() = default;
  // To nearest even.
  __nv_bfloat16(float x) {
    unsigned wide;
    memcpy(&wide, &x, sizeof wide);
    wide += 0x7fff + ((wide >> 16) & 1);
    bits = wide >> 16;
  }
  explicit __nv_bfloat16(double x) : __nv_bfloat16((float)x) {}
  explicit __nv_bfloat16(int x) : __nv_bfloat16((float)x) {}
  explicit __nv_bfloat16(unsigned x) : __nv_bfloat16((float)x) {}
  explicit __nv_bfloat16(long long x) : __nv_bfloat16((float)x) {}
  explicit __nv_bfloat16(unsigned long long x) : __nv_bfloat16((float)x) {}
  __nv_bfloat16(const __nv_bfloat16_raw& raw) : bits(raw.x) {}
  operator float() const {
    unsigned wide = (unsigned)bits << 16;
    float x;
    memcpy(&x, &wide, sizeof x);
    return x;
  }
  operator __nv_bfloat16_raw() const { return {bits}; }
};
typedef __nv_bfloat16 nv_bfloat16;

inline unsigned short __bfloat16_as_ushort(nv_bfloat16 x) { return x.bits; }
inline nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  return nv_bfloat16(__nv_bfloat16_raw{bits});
}
inline float __bfloat162float(nv_bfloat16 x) { return (float)x; }
inline nv_bfloat16 __float2bfloat16(float x) { return nv_bfloat16(x); }
inline nv_bfloat16 __float2bfloat16_rn(float x) { return nv_bfloat16(x); }
inline bool __hisnan(nv_bfloat16 x) { return std::isnan((float)x); }
inline bool __hisinf(nv_bfloat16 x) { return std::isinf((float)x); }
