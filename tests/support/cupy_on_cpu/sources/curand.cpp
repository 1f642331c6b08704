// cuRAND: pseudo-random numbers of the right distributions, not those of a GPU.
#include "pretended_device.h"
#include <random>

struct Generator {
  std::mt19937_64 engine;
  void* stream = nullptr;
};

static const int SUCCESS = 0, LAUNCH_FAILURE = 201;

template <class T, class Distribution>
static int generate(void* handle, T* output, size_t count, Distribution distribution) {
  Generator* generator = (Generator*)handle;
  auto operation = [=]() mutable {
    for (size_t i = 0; i < count; i++) output[i] = distribution(generator->engine);
  };
  int error = pretended_device_run(generator->stream, operation, "random numbers");
  return error ? LAUNCH_FAILURE : SUCCESS;
}

EXPORTED int curandCreateGenerator(void** handle, int) {
  *handle = new Generator;
  return SUCCESS;
}

// It stays, since an operation that waits may need it.
EXPORTED int curandDestroyGenerator(void*) { return SUCCESS; }

EXPORTED int curandGetVersion(int* version) {
  *version = 10400;
  return SUCCESS;
}

EXPORTED int curandSetStream(void* handle, void* stream) {
  ((Generator*)handle)->stream = stream;
  return SUCCESS;
}

EXPORTED int curandSetPseudoRandomGeneratorSeed(void* handle, unsigned long long seed) {
  ((Generator*)handle)->engine.seed(seed);
  return SUCCESS;
}

EXPORTED int curandSetGeneratorOffset(void*, unsigned long long) { return SUCCESS; }

EXPORTED int curandSetGeneratorOrdering(void*, int) { return SUCCESS; }

EXPORTED int curandGenerate(void* handle, unsigned* output, size_t count) {
  return generate(handle, output, count, std::uniform_int_distribution<unsigned>());
}

EXPORTED int curandGenerateUniform(void* handle, float* output, size_t count) {
  return generate(handle, output, count, std::uniform_real_distribution<float>());
}

EXPORTED int curandGenerateUniformDouble(void* handle, double* output, size_t count) {
  return generate(handle, output, count, std::uniform_real_distribution<double>());
}

EXPORTED int curandGenerateNormal(void* handle, float* output, size_t count, float mean,
                                  float deviation) {
  return generate(handle, output, count, std::normal_distribution<float>(mean, deviation));
}

EXPORTED int curandGenerateNormalDouble(void* handle, double* output, size_t count, double mean,
                                        double deviation) {
  return generate(handle, output, count, std::normal_distribution<double>(mean, deviation));
}
