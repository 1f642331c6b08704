// The CUDA twins of xpnet: each kernel is the loop that an `xp` formula stands for.
//
// The formula, its derivation and its source stand where it is written, in Python; here is only
// what it comes to for one element, in the order of the formula. With --fmad=false (see
// kernels.py) results are therefore those of the formula to the bit, but for exp, log, tanh and
// sums. What is launched, over how many threads, is in kernels.py; this text is also compiled by
// a C++ compiler, and run on the CPU by the tests. ASCII only.

typedef long long Size;
typedef unsigned int Word;
typedef unsigned long long Long;

// The elements of `size` that one thread sees to; any number of threads does them all.
#define EACH(i, size)                                                      \
    for (Size i = (Size)blockIdx.x * blockDim.x + threadIdx.x; i < (size); \
         i += (Size)gridDim.x * blockDim.x)

// A row for each block, a column of it for each thread.
#define EACH_ROW(n, count) for (Size n = blockIdx.x; n < (count); n += gridDim.x)
#define EACH_COLUMN(j, width) for (Size j = threadIdx.x; j < (width); j += blockDim.x)

// The sum over the threads of a block, a power of two up to 512. The order of the additions
// depends on nothing but their number, so the bits are the same every time.
template <typename T>
__device__ T sum_of_block(T mine) {
    __shared__ T part[512];
    part[threadIdx.x] = mine;
    for (Word half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    return part[0];  // whole in thread 0, where it was added up
}

// ---- activations ----

template <typename T>
__global__ void relu_backward(const T* dy, const T* x, T* dx, Size size) {
    EACH(i, size) dx[i] = x[i] > 0 ? dy[i] : dy[i] * 0;
}

template <typename T>
__global__ void leaky_relu_backward(const T* dy, const T* x, T slope, T* dx, Size size) {
    EACH(i, size) dx[i] = dy[i] * (x[i] > 0 ? (T)1 : slope);
}

template <typename T>
__global__ void tanh_backward(const T* dy, const T* y, T* dx, Size size) {
    EACH(i, size) dx[i] = (1 - y[i] * y[i]) * dy[i];
}

template <typename T>
__global__ void sigmoid(const T* x, T* y, Size size) {
    EACH(i, size) {
        T low = x[i] < 0 ? x[i] : -x[i];
        y[i] = (x[i] < 0 ? exp(low) : (T)1) / (exp(low) + 1);
    }
}

template <typename T>
__global__ void sigmoid_backward(const T* dy, const T* y, T* dx, Size size) {
    EACH(i, size) dx[i] = (1 - y[i]) * y[i] * dy[i];
}

template <typename T>
__global__ void gelu(const T* x, T cubic, T scale, T* t, T* y, Size size) {
    EACH(i, size) {
        t[i] = tanh((x[i] * x[i] * cubic + 1) * x[i] * scale);
        y[i] = (t[i] + 1) * x[i] * (T)0.5;
    }
}

template <typename T>
__global__ void gelu_backward(
    const T* dy, const T* x, const T* t, T cubic, T scale, T* dx, Size size
) {
    EACH(i, size) {
        T slope = (x[i] * x[i] * cubic + 1) * scale;
        dx[i] = ((1 - t[i] * t[i]) * slope * x[i] + t[i] + 1) * (T)0.5 * dy[i];
    }
}

// ---- the loss and what is counted ----

// One block: the mean is a sum over all rows.
template <typename T, typename Label>
__global__ void __launch_bounds__(512, 1) cross_entropy(
    const T* logits, const Label* labels, T smoothing, T* p, T* value, Size count, Size classes
) {
    double mine = 0;
    EACH(n, count) {
        const T* row = logits + n * classes;
        T largest = row[0];
        for (Size k = 1; k < classes; k++) {
            // What is not a number spreads, as in `max`.
            if (row[k] > largest || row[k] != row[k]) largest = row[k];
        }
        T total = 0, expected = 0;
        for (Size k = 0; k < classes; k++) {
            T shifted = row[k] - largest;
            T power = exp(shifted);
            p[k * count + n] = power;
            total += power;
            if (smoothing > 0) expected += smoothing / classes * shifted;
        }
        for (Size k = 0; k < classes; k++) p[k * count + n] /= total;
        expected += (1 - smoothing) * (row[labels[n]] - largest);
        mine += log(total) - expected;
    }
    double summed = sum_of_block(mine);
    if (threadIdx.x == 0) value[0] = (T)(summed / count);
}

template <typename T, typename Label>
__global__ void softmax_cross_entropy_backward(
    const T* p, const Label* labels, T smoothing, T scale, T* dlogits, Size count, Size classes
) {
    T uniform = smoothing / classes;
    EACH(i, count * classes) {
        Size n = i / classes, k = i % classes;
        T q = k == (Size)labels[n] ? uniform + (1 - smoothing) : uniform;
        dlogits[i] = (p[k * count + n] - q) * scale;
    }
}

template <typename T>
__global__ void add_loss(const T* loss, Size samples, double* total) {
    EACH(i, 1) total[0] += (double)loss[0] * samples;
}

// Blocks add to `hits` in any order: of whole numbers the sum is the same.
template <typename T, typename Label>
__global__ void count_hits(
    const T* logits, const Label* labels, Size* hits, Size count, Size classes
) {
    Size mine = 0;
    EACH(n, count) {
        const T* row = logits + n * classes;
        Size best = 0;
        for (Size k = 1; k < classes; k++) {
            // As argmax has it, the first that is not a number counts as the largest.
            if (row[k] > row[best] || (row[k] != row[k] && row[best] == row[best])) best = k;
        }
        mine += best == (Size)labels[n];
    }
    Size found = sum_of_block(mine);
    if (threadIdx.x == 0) atomicAdd((Long*)hits, (Long)found);
}

// ---- the update: one pass over the whole store ----

template <typename T>
__global__ void descend(T* values, const T* gradients, const T* scalars, Size size) {
    T rate = scalars[0];
    EACH(i, size) values[i] -= gradients[i] * rate;
}

template <typename T>
__global__ void descend_with_momentum(
    T* values, const T* gradients, T* velocity, const T* scalars, T momentum, bool nesterov, Size size
) {
    T rate = scalars[0];
    EACH(i, size) {
        T moving = velocity[i] * momentum + gradients[i];
        velocity[i] = moving;
        values[i] -= (nesterov ? moving * momentum + gradients[i] : moving) * rate;
    }
}

template <typename T>
__global__ void rmsprop(
    T* values, const T* gradients, T* square, const T* scalars, T decay_rate, T rest, T epsilon,
    Size size
) {
    T rate = scalars[0];
    EACH(i, size) {
        T g = gradients[i];
        T s = square[i] * decay_rate + g * g * rest;
        square[i] = s;
        values[i] -= g / (sqrt(s) + epsilon) * rate;
    }
}

template <typename T>
__global__ void rmsprop_with_momentum(
    T* values, const T* gradients, T* square, T* velocity, const T* scalars, T decay_rate, T rest,
    T epsilon, T momentum, Size size
) {
    T rate = scalars[0];
    EACH(i, size) {
        T g = gradients[i];
        T s = square[i] * decay_rate + g * g * rest;
        T moving = velocity[i] * momentum + g / (sqrt(s) + epsilon);
        square[i] = s;
        velocity[i] = moving;
        values[i] -= moving * rate;
    }
}

template <typename T>
__global__ void adam(
    T* values, const T* gradients, T* first, T* second, const T* scalars, T beta1, T beta2, Size size
) {
    T rate = scalars[0], epsilon = scalars[2];
    EACH(i, size) {
        T g = gradients[i];
        T m = first[i] * beta1 + g;
        T v = second[i] * beta2 + g * g;
        first[i] = m;
        second[i] = v;
        values[i] -= m / (sqrt(v) + epsilon) * rate;
    }
}

// ---- batches and their masks ----

template <typename T>
__global__ void dropout(
    const T* x, const Long* counter, const Word* units, Size threshold, T scale, T* mask, T* y,
    Size count, Size features
) {
    EACH_ROW(n, count) {
        Long word = counter[0] + (Long)n;
        word *= 0x9E3779B97F4A7C15ull;
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9ull;
        word = (word ^ (word >> 27)) * 0x94D049BB133111EBull;
        word ^= word >> 31;
        Word row = (Word)(word >> 32);
        EACH_COLUMN(j, features) {
            Word bits = row ^ units[j];
            bits = (bits ^ (bits >> 16)) * 0x7FEB352Du;
            bits = (bits ^ (bits >> 15)) * 0x846CA68Bu;
            bits ^= bits >> 16;
            T kept = bits >= threshold ? scale : scale * 0;
            mask[n * features + j] = kept;
            y[n * features + j] = x[n * features + j] * kept;
        }
    }
}

// After `dropout`, in a launch of its own: there every block reads the counter, in any order.
__global__ void move_on(Long* counter, Size count) {
    EACH(i, 1) counter[0] += (Long)count;
}

template <typename Pixel, typename Index, typename T>
__global__ void gather_scaled(
    const Pixel* source, const Index* indices, T scale, T shift, T* x, Size count, Size features
) {
    EACH_ROW(n, count) {
        const Pixel* row = source + (Size)indices[n] * features;
        EACH_COLUMN(j, features) x[n * features + j] = (T)row[j] * scale + shift;
    }
}
