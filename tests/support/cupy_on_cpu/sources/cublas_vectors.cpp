// cuBLAS: products of vectors, of a matrix and a vector, and sums of matrices.
#include "cublas_handle.h"

template <class T>
static int dot(void* handle, const char* name, long length, const T* x, int step_x, const T* y,
               int step_y, T* result) {
  if (int status = check_handle(handle, name)) return status;
  if (int status = check_workspace(handle, name)) return status;
  bool on_device = pretended_device_owns(result, sizeof(T));
  if (on_device != (((Handle*)handle)->scalars_on_device == 1)) {
    pretended_device_say("%s refused: the result is on the %s, the pointer mode says otherwise",
                         name, on_device ? "device" : "host");
    return INTERNAL_ERROR;
  }
  pretended_device_counters[PRODUCTS]++;
  auto operation = [=] {
    T sum = 0;
    for (long i = 0; i < length; i++) sum += x[i * step_x] * y[i * step_y];
    *result = sum;
  };
  int status = run(handle, operation, name);
  if (!status && !on_device && pretended_device_synchronize()) return EXECUTION_FAILED;
  return status;
}

EXPORTED int cublasSdot_v2(void* handle, int n, const float* x, int step_x, const float* y,
                           int step_y, float* result) {
  return dot(handle, __func__, n, x, step_x, y, step_y, result);
}

EXPORTED int cublasDdot_v2(void* handle, int n, const double* x, int step_x, const double* y,
                           int step_y, double* result) {
  return dot(handle, __func__, n, x, step_x, y, step_y, result);
}

EXPORTED int cublasDotEx(void* handle, int n, const void* x, int x_type, int step_x, const void* y,
                         int y_type, int step_y, void* result, int result_type, int compute) {
  bool same = x_type == y_type && x_type == result_type && x_type == compute;
  if (same && x_type == FLOAT32)
    return dot(handle, __func__, n, (const float*)x, step_x, (const float*)y, step_y,
               (float*)result);
  if (same && x_type == FLOAT64)
    return dot(handle, __func__, n, (const double*)x, step_x, (const double*)y, step_y,
               (double*)result);
  return pretended_device_refuse("cublasDotEx of these types", NOT_SUPPORTED);
}

// y = alpha op(A) x + beta y
template <class T>
static int gemv(void* handle, const char* name, int transposed, long rows, long columns, T alpha,
                const T* a, long lda, const T* x, int step_x, T beta, T* y, int step_y) {
  if (lda < (rows > 1 ? rows : 1)) return INVALID_VALUE;
  if (int status = check_workspace(handle, name)) return status;
  if (rows && columns && !pretended_device_owns(a, ((columns - 1) * lda + rows) * sizeof(T))) {
    pretended_device_say("%s refused: the matrix lies outside of device memory", name);
    return EXECUTION_FAILED;
  }
  pretended_device_counters[PRODUCTS]++;
  auto operation = [=] {
    long results = transposed ? columns : rows, length = transposed ? rows : columns;
    for (long i = 0; i < results; i++) {
      double sum = 0;
      for (long l = 0; l < length; l++)
        sum += (double)(transposed ? a[l + i * lda] : a[i + l * lda]) * x[l * step_x];
      T old = beta != 0 ? beta * y[i * step_y] : T(0);
      y[i * step_y] = (T)(alpha * sum + old);
    }
  };
  return run(handle, operation, name);
}

EXPORTED int cublasSgemv_v2(void* handle, int transposed, int m, int n, const float* alpha,
                            const float* a, int lda, const float* x, int step_x, const float* beta,
                            float* y, int step_y) {
  REQUIRE_HOST_SCALARS;
  return gemv(handle, __func__, transposed, m, n, *alpha, a, lda, x, step_x, *beta, y, step_y);
}

EXPORTED int cublasDgemv_v2(void* handle, int transposed, int m, int n, const double* alpha,
                            const double* a, int lda, const double* x, int step_x,
                            const double* beta, double* y, int step_y) {
  REQUIRE_HOST_SCALARS;
  return gemv(handle, __func__, transposed, m, n, *alpha, a, lda, x, step_x, *beta, y, step_y);
}

// C = alpha op(A) + beta op(B)
template <class T>
static int geam(void* handle, const char* name, int ta, int tb, long m, long n, T alpha,
                const T* a, long lda, T beta, const T* b, long ldb, T* c, long ldc) {
  if (ldc < m || lda < (ta ? n : m)) return INVALID_VALUE;
  pretended_device_counters[PRODUCTS]++;
  auto operation = [=] {
    for (long j = 0; j < n; j++)
      for (long i = 0; i < m; i++) {
        T left = alpha != 0 ? alpha * a[ta ? j + i * lda : i + j * lda] : T(0);
        T right = beta != 0 ? beta * b[tb ? j + i * ldb : i + j * ldb] : T(0);
        c[i + j * ldc] = left + right;
      }
  };
  return run(handle, operation, name);
}

EXPORTED int cublasSgeam(void* handle, int ta, int tb, int m, int n, const float* alpha,
                         const float* a, int lda, const float* beta, const float* b, int ldb,
                         float* c, int ldc) {
  REQUIRE_HOST_SCALARS;
  return geam(handle, __func__, ta, tb, m, n, *alpha, a, lda, *beta, b, ldb, c, ldc);
}

EXPORTED int cublasDgeam(void* handle, int ta, int tb, int m, int n, const double* alpha,
                         const double* a, int lda, const double* beta, const double* b, int ldb,
                         double* c, int ldc) {
  REQUIRE_HOST_SCALARS;
  return geam(handle, __func__, ta, tb, m, n, *alpha, a, lda, *beta, b, ldb, c, ldc);
}
