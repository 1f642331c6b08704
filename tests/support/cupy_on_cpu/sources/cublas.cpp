// cuBLAS: handles and matrix products. Other functions are in cublas_vectors.cpp.
#include "cublas_handle.h"
#include <algorithm>
#include <vector>

EXPORTED long long pretended_device_products[128] = {0};

// In which order a product adds up: 0 as stored, 1 from the last to the first, 2 in stretches of
// 32, 3 even ones before odd ones.
static const int SUM = (int)pretended_device_setting("SUM", 0);
static const long STRETCH = 32;

static std::vector<long> order_of(long length) {
  std::vector<long> order;
  if (SUM == 3) {
    for (long l = 0; l < length; l += 2) order.push_back(l);
    for (long l = 1; l < length; l += 2) order.push_back(l);
  } else {
    for (long l = 0; l < length; l++) order.push_back(SUM == 1 ? length - 1 - l : l);
  }
  return order;
}

// C (m, n) = alpha op(A) (m, k) op(B) (k, n) + beta C, by columns; batches are `stride` apart.
struct Gemm {
  bool transpose_a, transpose_b;
  long m, n, k;
  double alpha;
  const void* a;
  int a_type;
  long lda, stride_a;
  const void* b;
  int b_type;
  long ldb, stride_b;
  double beta;
  void* c;
  int c_type;
  long ldc, stride_c, batches;
  int compute;
};

// All three matrices and the sums have the same type.
template <class T> static void multiply(const Gemm& g, const T* a, const T* b, T* c) {
  std::vector<T> columns(g.m * g.k), sums(g.m), part(g.m);
  std::vector<long> order = order_of(g.k);
  for (long l = 0; l < g.k; l++)
    for (long i = 0; i < g.m; i++) {
      T value = g.transpose_a ? a[l + i * g.lda] : a[i + l * g.lda];
      columns[l * g.m + i] = rounded_for(value, g.compute);
    }
  T* sum = SUM == 2 ? part.data() : sums.data();
  for (long j = 0; j < g.n; j++) {
    std::fill(sums.begin(), sums.end(), T(0));
    std::fill(part.begin(), part.end(), T(0));
    for (long p = 0; p < g.k; p++) {
      long l = order[p];
      T factor = rounded_for(g.transpose_b ? b[j + l * g.ldb] : b[l + j * g.ldb], g.compute);
      const T* column = &columns[l * g.m];
      for (long i = 0; i < g.m; i++) sum[i] += column[i] * factor;
      bool stretch_ends = p % STRETCH == STRETCH - 1 || p == g.k - 1;
      if (SUM != 2 || !stretch_ends) continue;
      for (long i = 0; i < g.m; i++) {
        sums[i] += part[i];
        part[i] = 0;
      }
    }
    T* into = c + j * g.ldc;
    for (long i = 0; i < g.m; i++)
      into[i] = (T)g.alpha * sums[i] + (g.beta != 0 ? (T)g.beta * into[i] : T(0));
  }
}

static void multiply_mixed(const Gemm& g, const void* a, const void* b, void* c) {
  for (long j = 0; j < g.n; j++)
    for (long i = 0; i < g.m; i++) {
      double sum = 0;
      for (long l = 0; l < g.k; l++) {
        double left = load(a, g.a_type, g.transpose_a ? l + i * g.lda : i + l * g.lda);
        sum += left * load(b, g.b_type, g.transpose_b ? j + l * g.ldb : l + j * g.ldb);
      }
      long at = i + j * g.ldc;
      double old = g.beta != 0 ? g.beta * load(c, g.c_type, at) : 0;
      store(c, g.c_type, at, g.alpha * sum + old);
    }
}

static void multiply_batches(const Gemm& g) {
  for (long batch = 0; batch < g.batches; batch++) {
    const char* a = (const char*)g.a + batch * g.stride_a * size_of(g.a_type);
    const char* b = (const char*)g.b + batch * g.stride_b * size_of(g.b_type);
    char* c = (char*)g.c + batch * g.stride_c * size_of(g.c_type);
    bool same = g.a_type == g.b_type && g.b_type == g.c_type;
    if (same && g.a_type == FLOAT32) {
      multiply(g, (const float*)a, (const float*)b, (float*)c);
    } else if (same && g.a_type == FLOAT64) {
      multiply(g, (const double*)a, (const double*)b, (double*)c);
    } else {
      multiply_mixed(g, a, b, c);
    }
  }
}

static bool owns_matrix(const void* start, int type, long rows, long columns, long leading) {
  if (!rows || !columns) return true;
  return pretended_device_owns(start, ((columns - 1) * leading + rows) * size_of(type));
}

static int gemm(void* handle, const char* name, const Gemm& g) {
  if (int status = check_handle(handle, name)) return status;
  if (!is_known(g.a_type) || !is_known(g.b_type) || !is_known(g.c_type)) return NOT_SUPPORTED;
  long a_rows = g.transpose_a ? g.k : g.m, a_columns = g.transpose_a ? g.m : g.k;
  long b_rows = g.transpose_b ? g.n : g.k, b_columns = g.transpose_b ? g.k : g.n;
  bool is_negative = g.m < 0 || g.n < 0 || g.k < 0 || g.batches < 0;
  bool is_too_short = g.lda < std::max(1l, a_rows) || g.ldb < std::max(1l, b_rows) ||
                      g.ldc < std::max(1l, g.m);
  if (is_negative || is_too_short) {
    pretended_device_say("%s refused: m %ld, n %ld, k %ld, lda %ld, ldb %ld, ldc %ld", name, g.m,
                         g.n, g.k, g.lda, g.ldb, g.ldc);
    return INVALID_VALUE;
  }
  if (!g.m || !g.n || !g.batches) return SUCCESS;
  for (long batch = 0; batch < g.batches; batch += std::max(1l, g.batches - 1)) {
    const char* a = (const char*)g.a + batch * g.stride_a * size_of(g.a_type);
    const char* b = (const char*)g.b + batch * g.stride_b * size_of(g.b_type);
    const char* c = (const char*)g.c + batch * g.stride_c * size_of(g.c_type);
    if (owns_matrix(a, g.a_type, a_rows, a_columns, g.lda) &&
        owns_matrix(b, g.b_type, b_rows, b_columns, g.ldb) &&
        owns_matrix(c, g.c_type, g.m, g.n, g.ldc))
      continue;
    pretended_device_say("%s refused: a matrix lies outside of device memory", name);
    return EXECUTION_FAILED;
  }
  if (int status = check_workspace(handle, name)) return status;
  pretended_device_counters[PRODUCTS]++;
  pretended_device_products[g.compute & 127]++;
  TRACE("%s, m %ld, n %ld, k %ld, compute type %d", name, g.m, g.n, g.k, g.compute);
  return run(handle, [=] { multiply_batches(g); }, name);
}

// ---- handles

EXPORTED int cublasCreate_v2(void** handle) {
  *handle = new Handle{};
  return SUCCESS;
}

// It waits for the whole device, so it is not allowed while a stream captures.
EXPORTED int cublasDestroy_v2(void* handle) {
  if (int status = check_handle(handle, "cublasDestroy")) return status;
  int error = pretended_device_synchronize();
  ((Handle*)handle)->destroyed = true;
  return error ? INTERNAL_ERROR : SUCCESS;
}

// The workspace is then cuBLAS' own again.
EXPORTED int cublasSetStream_v2(void* handle, void* stream) {
  if (int status = check_handle(handle, "cublasSetStream")) return status;
  ((Handle*)handle)->stream = stream;
  ((Handle*)handle)->workspace = nullptr;
  return SUCCESS;
}

EXPORTED int cublasGetStream_v2(void* handle, void** stream) {
  *stream = ((Handle*)handle)->stream;
  return SUCCESS;
}

EXPORTED int cublasSetWorkspace_v2(void* handle, void* workspace, size_t bytes) {
  if (int status = check_handle(handle, "cublasSetWorkspace")) return status;
  if ((size_t)workspace % 256 || !pretended_device_owns(workspace, bytes)) {
    pretended_device_say("cublasSetWorkspace refused: not %zu aligned bytes on the device", bytes);
    return INVALID_VALUE;
  }
  ((Handle*)handle)->workspace = workspace;
  ((Handle*)handle)->workspace_bytes = bytes;
  return SUCCESS;
}

EXPORTED int cublasSetPointerMode_v2(void* handle, int mode) {
  ((Handle*)handle)->scalars_on_device = mode;
  return SUCCESS;
}

EXPORTED int cublasGetPointerMode_v2(void* handle, int* mode) {
  *mode = ((Handle*)handle)->scalars_on_device;
  return SUCCESS;
}

EXPORTED int cublasSetMathMode(void* handle, int mode) {
  ((Handle*)handle)->math_mode = mode;
  return SUCCESS;
}

EXPORTED int cublasGetMathMode(void* handle, int* mode) {
  *mode = ((Handle*)handle)->math_mode;
  return SUCCESS;
}

EXPORTED int cublasGetVersion_v2(void*, int* version) {
  *version = 130000;
  return SUCCESS;
}

// ---- products

static double scalar(const void* address, int compute) {
  if (compute == COMPUTE_64F || compute == COMPUTE_64F_PEDANTIC) return *(const double*)address;
  if (compute == COMPUTE_16F || compute == COMPUTE_16F_PEDANTIC) return load(address, FLOAT16, 0);
  return *(const float*)address;
}

EXPORTED int cublasSgemm_v2(void* handle, int ta, int tb, int m, int n, int k, const float* alpha,
                            const float* a, int lda, const float* b, int ldb, const float* beta,
                            float* c, int ldc) {
  REQUIRE_HOST_SCALARS;
  Gemm g{ta != 0, tb != 0, m, n, k, *alpha, a, FLOAT32, lda, 0,          b,
         FLOAT32, ldb,     0, *beta, c, FLOAT32, ldc, 0, 1, COMPUTE_32F};
  return gemm(handle, __func__, g);
}

EXPORTED int cublasDgemm_v2(void* handle, int ta, int tb, int m, int n, int k, const double* alpha,
                            const double* a, int lda, const double* b, int ldb, const double* beta,
                            double* c, int ldc) {
  REQUIRE_HOST_SCALARS;
  Gemm g{ta != 0, tb != 0, m, n, k, *alpha, a, FLOAT64, lda, 0,          b,
         FLOAT64, ldb,     0, *beta, c, FLOAT64, ldc, 0, 1, COMPUTE_64F};
  return gemm(handle, __func__, g);
}

EXPORTED int cublasSgemmEx(void* handle, int ta, int tb, int m, int n, int k, const float* alpha,
                           const void* a, int a_type, int lda, const void* b, int b_type, int ldb,
                           const float* beta, void* c, int c_type, int ldc) {
  REQUIRE_HOST_SCALARS;
  Gemm g{ta != 0, tb != 0, m, n, k, *alpha, a, a_type, lda, 0,          b,
         b_type,  ldb,     0, *beta, c, c_type, ldc, 0, 1, COMPUTE_32F};
  return gemm(handle, __func__, g);
}

EXPORTED int cublasGemmEx(void* handle, int ta, int tb, int m, int n, int k, const void* alpha,
                          const void* a, int a_type, int lda, const void* b, int b_type, int ldb,
                          const void* beta, void* c, int c_type, int ldc, int compute, int) {
  REQUIRE_HOST_SCALARS;
  double factor = scalar(alpha, compute), old = scalar(beta, compute);
  Gemm g{ta != 0, tb != 0, m, n, k, factor, a, a_type, lda, 0,      b,
         b_type,  ldb,     0, old, c, c_type, ldc, 0, 1, compute};
  return gemm(handle, __func__, g);
}

EXPORTED int cublasGemmStridedBatchedEx(void* handle, int ta, int tb, int m, int n, int k,
                                        const void* alpha, const void* a, int a_type, int lda,
                                        long long stride_a, const void* b, int b_type, int ldb,
                                        long long stride_b, const void* beta, void* c, int c_type,
                                        int ldc, long long stride_c, int batches, int compute,
                                        int) {
  REQUIRE_HOST_SCALARS;
  double factor = scalar(alpha, compute), old = scalar(beta, compute);
  Gemm g{ta != 0, tb != 0,  m,   n, k,      factor, a,        a_type,  lda,    stride_a, b,
         b_type,  ldb, stride_b, old, c, c_type, ldc, stride_c, batches, compute};
  return gemm(handle, __func__, g);
}

EXPORTED int cublasSgemmStridedBatched(void* handle, int ta, int tb, int m, int n, int k,
                                       const float* alpha, const float* a, int lda,
                                       long long stride_a, const float* b, int ldb,
                                       long long stride_b, const float* beta, float* c, int ldc,
                                       long long stride_c, int batches) {
  return cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, a, FLOAT32, lda, stride_a, b,
                                    FLOAT32, ldb, stride_b, beta, c, FLOAT32, ldc, stride_c,
                                    batches, COMPUTE_32F, 0);
}

EXPORTED int cublasDgemmStridedBatched(void* handle, int ta, int tb, int m, int n, int k,
                                       const double* alpha, const double* a, int lda,
                                       long long stride_a, const double* b, int ldb,
                                       long long stride_b, const double* beta, double* c, int ldc,
                                       long long stride_c, int batches) {
  return cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, a, FLOAT64, lda, stride_a, b,
                                    FLOAT64, ldb, stride_b, beta, c, FLOAT64, ldc, stride_c,
                                    batches, COMPUTE_64F, 0);
}

// The addresses of the matrices lie on the device, and are read when the product runs.
template <class T>
static int gemm_batched(void* handle, const char* name, Gemm g, const T** a, const T** b, T** c) {
  if (int status = check_handle(handle, name)) return status;
  if (int status = check_workspace(handle, name)) return status;
  pretended_device_counters[PRODUCTS]++;
  pretended_device_products[g.compute]++;
  auto operation = [=] {
    for (long i = 0; i < g.batches; i++) multiply(g, a[i], b[i], c[i]);
  };
  return run(handle, operation, name);
}

EXPORTED int cublasSgemmBatched(void* handle, int ta, int tb, int m, int n, int k,
                                const float* alpha, const float** a, int lda, const float** b,
                                int ldb, const float* beta, float** c, int ldc, int batches) {
  REQUIRE_HOST_SCALARS;
  Gemm g{ta != 0, tb != 0, m, n, k, *alpha, a, FLOAT32, lda, 0,          b,
         FLOAT32, ldb,     0, *beta, c, FLOAT32, ldc, 0, batches, COMPUTE_32F};
  return gemm_batched(handle, __func__, g, a, b, c);
}

EXPORTED int cublasDgemmBatched(void* handle, int ta, int tb, int m, int n, int k,
                                const double* alpha, const double** a, int lda, const double** b,
                                int ldb, const double* beta, double** c, int ldc, int batches) {
  REQUIRE_HOST_SCALARS;
  Gemm g{ta != 0, tb != 0, m, n, k, *alpha, a, FLOAT64, lda, 0,          b,
         FLOAT64, ldb,     0, *beta, c, FLOAT64, ldc, 0, batches, COMPUTE_64F};
  return gemm_batched(handle, __func__, g, a, b, c);
}
