// The CUDA kernels of xpnet: each computes what a formula on `xp` does.
//
// The formula and its derivation are in Python; a kernel does the same operations on one element,
// in the same order. With --fmad=false (see cuda_kernels.py) results are therefore those of the
// formula to the bit, except for exp, log, tanh and sums. The number of threads of each launch is
// in cuda_kernels.py. The tests also compile this text with a C++ compiler and run it on the CPU.
// ASCII only.

typedef long long Size;
typedef unsigned int Word;
typedef unsigned long long Long;

// Loop over the elements of `size` that one thread computes (grid-stride loop).
#define EACH(i, size)                                                      \
    for (Size i = (Size)blockIdx.x * blockDim.x + threadIdx.x; i < (size); \
         i += (Size)gridDim.x * blockDim.x)

// A row for each block, a column of it for each thread.
#define EACH_ROW(n, count) for (Size n = blockIdx.x; n < (count); n += gridDim.x)
#define EACH_COLUMN(j, width) for (Size j = threadIdx.x; j < (width); j += blockDim.x)

// The sum over the threads of a block, a power of two up to 512, for all of them. The order of the
// additions depends on nothing but their number, so the bits are the same every time.
template <typename T>
__device__ T sum_of_block(T mine) {
    __shared__ T part[512];
    part[threadIdx.x] = mine;
    for (Word half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    __syncthreads();  // thread 0 has written the sum before the others read it
    T summed = part[0];
    __syncthreads();  // and all have read it before the next call writes
    return summed;
}

__device__ Size smaller(Size one, Size other) {
    return one < other ? one : other;
}

// NaN propagates, as in `max`.
template <typename T>
__device__ T larger(T one, T other) {
    return other > one || other != other ? other : one;
}

template <typename T>
__device__ T largest_of_block(T mine) {
    __shared__ T part[512];
    part[threadIdx.x] = mine;
    for (Word half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) part[threadIdx.x] = larger(part[threadIdx.x], part[threadIdx.x + half]);
    }
    __syncthreads();
    mine = part[0];
    __syncthreads();
    return mine;
}

// ---- activations ----

// What is not a number stays, and -0 becomes 0, as in `maximum`.
template <typename T>
__device__ T rectified(T x) {
    return x > 0 || x != x ? x : 0;
}

template <typename T>
__global__ void relu(const T* x, T* y, Size size) {
    EACH(i, size) y[i] = rectified(x[i]);
}

// The end of a Linear layer and the ReLU after it.
template <typename T>
__global__ void add_relu(T* y, const T* bias, T* r, Size count, Size features) {
    EACH_ROW(n, count) {
        EACH_COLUMN(j, features) {
            T sum = y[n * features + j] + bias[j];
            y[n * features + j] = sum;
            r[n * features + j] = rectified(sum);
        }
    }
}

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

template <typename T>
__global__ void softmax(const T* x, T* y, Size count, Size features) {
    EACH_ROW(n, count) {
        const T* from = x + n * features;
        T* to = y + n * features;
        T largest = from[0], total = 0;
        EACH_COLUMN(j, features) largest = larger(largest, from[j]);
        largest = largest_of_block(largest);
        EACH_COLUMN(j, features) total += to[j] = exp(from[j] - largest);
        total = sum_of_block(total);
        EACH_COLUMN(j, features) to[j] /= total;
    }
}

template <typename T>
__global__ void softmax_backward(const T* dy, const T* y, T* dx, Size count, Size features) {
    EACH_ROW(n, count) {
        Size row = n * features;
        T total = 0;
        EACH_COLUMN(j, features) total += dy[row + j] * y[row + j];
        total = sum_of_block(total);
        EACH_COLUMN(j, features) dx[row + j] = (dy[row + j] - total) * y[row + j];
    }
}

// ---- normalisation: one block per column (BatchNorm) or per row (LayerNorm) ----

template <typename T>
__global__ void batch_norm(
    const T* x, const T* weight, const T* bias, T epsilon, T momentum, T* running_mean,
    T* running_var, T* normal, T* scale, T* y, Size count, Size features
) {
    EACH_ROW(j, features) {
        T mean = 0, variance = 0;
        EACH_COLUMN(n, count) mean += x[n * features + j];
        mean = sum_of_block(mean) / count;
        EACH_COLUMN(n, count) {
            T centred = x[n * features + j] - mean;
            variance += centred * centred;
        }
        variance = sum_of_block(variance) / count;
        T s = 1 / sqrt(variance + epsilon);
        EACH_COLUMN(n, count) {
            T centred = (x[n * features + j] - mean) * s;
            normal[n * features + j] = centred;
            y[n * features + j] = centred * weight[j] + bias[j];
        }
        if (threadIdx.x == 0) {
            T unbiased = (T)((double)count / (count - 1));
            scale[j] = s;
            running_mean[j] = running_mean[j] * (1 - momentum) + mean * momentum;
            running_var[j] = running_var[j] * (1 - momentum) + variance * (momentum * unbiased);
        }
    }
}

template <typename T>
__global__ void batch_norm_backward(
    const T* dy, const T* normal, const T* scale, const T* weight, T* dweight, T* dbias, T* dx,
    Size count, Size features
) {
    EACH_ROW(j, features) {
        T along = 0, summed = 0;
        EACH_COLUMN(n, count) {
            along += dy[n * features + j] * normal[n * features + j];
            summed += dy[n * features + j];
        }
        along = sum_of_block(along);
        summed = sum_of_block(summed);
        if (threadIdx.x == 0) {
            dweight[j] = along;
            dbias[j] = summed;
        }
        T factor = weight[j] * scale[j];
        EACH_COLUMN(n, count) {
            Size i = n * features + j;
            dx[i] = (dy[i] - normal[i] * (along / count) - summed / count) * factor;
        }
    }
}

template <typename T>
__global__ void layer_norm(
    const T* x, const T* weight, const T* bias, T epsilon, T* normal, T* scale, T* y, Size count,
    Size features
) {
    EACH_ROW(n, count) {
        Size row = n * features;
        T mean = 0, variance = 0;
        EACH_COLUMN(j, features) mean += x[row + j];
        mean = sum_of_block(mean) / features;
        EACH_COLUMN(j, features) variance += (x[row + j] - mean) * (x[row + j] - mean);
        variance = sum_of_block(variance) / features;
        T s = 1 / sqrt(variance + epsilon);
        EACH_COLUMN(j, features) {
            T centred = (x[row + j] - mean) * s;
            normal[row + j] = centred;
            y[row + j] = centred * weight[j] + bias[j];
        }
        if (threadIdx.x == 0) scale[n] = s;
    }
}

// The gradients of weight and bias are sums over rows, and left to products.
template <typename T>
__global__ void layer_norm_backward(
    const T* dy, const T* normal, const T* scale, const T* weight, T* dx, Size count, Size features
) {
    EACH_ROW(n, count) {
        Size row = n * features;
        T along = 0, summed = 0;
        EACH_COLUMN(j, features) {
            T g = dy[row + j] * weight[j];
            along += g * normal[row + j];
            summed += g;
        }
        along = sum_of_block(along) / features;
        summed = sum_of_block(summed) / features;
        EACH_COLUMN(j, features) {
            T g = dy[row + j] * weight[j];
            dx[row + j] = (g - summed - normal[row + j] * along) * scale[n];
        }
    }
}

// ---- windows that move over images (N, H, W, C): convolution and pooling, no padded copy ----

// Of the element number `rest`, its place along the innermost axis; the number left is that of the
// other axes.
__device__ Size innermost(Size& rest, Size length) {
    Size place = rest % length;
    rest /= length;
    return place;
}

// The one of `count` windows in a row or column whose entry number `entry` is the pixel, or -1.
__device__ Size window_of(
    Size pixel, Size entry, Size stride, Size padding, Size dilation, Size count
) {
    Size from = pixel + padding - entry * dilation;
    return from < 0 || from % stride != 0 || from / stride >= count ? -1 : from / stride;
}

template <typename T>
__global__ void gather_windows(
    const T* x, Size kernel_rows, Size kernel_columns, Size stride_rows, Size stride_columns,
    Size padding_rows, Size padding_columns, Size dilation_rows, Size dilation_columns, bool by_entry, T* columns,
    Size size, Size count, Size height, Size width, Size channels, Size down, Size across, Size own
) {
    EACH(e, size) {
        Size rest = e, c = innermost(rest, own), p = 0, q = 0, n = 0, i = 0, j = 0, g = 0;
        if (by_entry) {
            q = innermost(rest, across);
            p = innermost(rest, down);
            n = innermost(rest, count);
            j = innermost(rest, kernel_columns);
            i = rest;
        } else {
            j = innermost(rest, kernel_columns);
            i = innermost(rest, kernel_rows);
            q = innermost(rest, across);
            p = innermost(rest, down);
            n = innermost(rest, count);
            g = rest;
        }
        Size h = p * stride_rows + i * dilation_rows - padding_rows;
        Size w = q * stride_columns + j * dilation_columns - padding_columns;
        bool is_inside = h >= 0 && h < height && w >= 0 && w < width;
        columns[e] = is_inside ? x[((n * height + h) * width + w) * channels + g * own + c] : (T)0;
    }
}

template <typename T>
__global__ void add_entries(
    const T* entries, Size kernel_rows, Size kernel_columns, Size stride_rows, Size stride_columns,
    Size padding_rows, Size padding_columns, Size dilation_rows, Size dilation_columns, T* dx, Size size,
    Size height, Size width, Size groups, Size count, Size down, Size across, Size own
) {
    EACH(e, size) {
        Size rest = e, c = innermost(rest, own), g = innermost(rest, groups);
        Size w = innermost(rest, width), h = innermost(rest, height), n = rest;
        T sum = 0;
        for (Size i = 0; i < kernel_rows; i++) {
            Size p = window_of(h, i, stride_rows, padding_rows, dilation_rows, down);
            if (p < 0) continue;
            for (Size j = 0; j < kernel_columns; j++) {
                Size q = window_of(w, j, stride_columns, padding_columns, dilation_columns, across);
                if (q < 0) continue;
                Size of_group = (i * kernel_columns + j) * groups + g;
                sum += entries[(((of_group * count + n) * down + p) * across + q) * own + c];
            }
        }
        dx[e] = sum;
    }
}

// `border` is minus infinity. What is not less or equal is larger, and so is NaN, which stays.
template <typename T>
__global__ void max_pool(
    const T* x, Size kernel_rows, Size kernel_columns, Size stride_rows, Size stride_columns,
    Size padding_rows, Size padding_columns, Size dilation_rows, Size dilation_columns, T border, int* chosen, T* y,
    Size size, Size height, Size width, Size channels, Size down, Size across
) {
    EACH(e, size) {
        Size rest = e, c = innermost(rest, channels), q = innermost(rest, across);
        Size p = innermost(rest, down), n = rest, place = 0;
        T largest = border;
        for (Size i = 0; i < kernel_rows; i++) {
            Size h = p * stride_rows + i * dilation_rows - padding_rows;
            for (Size j = 0; j < kernel_columns; j++) {
                Size w = q * stride_columns + j * dilation_columns - padding_columns;
                bool is_inside = h >= 0 && h < height && w >= 0 && w < width;
                T value = is_inside ? x[((n * height + h) * width + w) * channels + c] : border;
                if (value <= largest) continue;
                place = i * kernel_columns + j;
                if (largest == largest) largest = value;
            }
        }
        chosen[e] = (int)place;
        y[e] = largest;
    }
}

template <typename T>
__global__ void max_pool_backward(
    const T* dy, const int* chosen, Size kernel_rows, Size kernel_columns, Size stride_rows, Size stride_columns,
    Size padding_rows, Size padding_columns, Size dilation_rows, Size dilation_columns, T* dx, Size size,
    Size height, Size width, Size channels, Size down, Size across
) {
    EACH(e, size) {
        Size rest = e, c = innermost(rest, channels), w = innermost(rest, width);
        Size h = innermost(rest, height), n = rest;
        T sum = 0;
        for (Size i = 0; i < kernel_rows; i++) {
            Size p = window_of(h, i, stride_rows, padding_rows, dilation_rows, down);
            if (p < 0) continue;
            for (Size j = 0; j < kernel_columns; j++) {
                Size q = window_of(w, j, stride_columns, padding_columns, dilation_columns, across);
                if (q < 0) continue;
                Size from = ((n * down + p) * across + q) * channels + c;
                sum += dy[from] * (T)(chosen[from] == i * kernel_columns + j);
            }
        }
        dx[e] = sum;
    }
}

template <typename T>
__global__ void average_pool(
    const T* x, Size kernel_rows, Size kernel_columns, Size stride_rows, Size stride_columns,
    Size padding_rows, Size padding_columns, Size dilation_rows, Size dilation_columns, T share, T* y, Size size,
    Size height, Size width, Size channels, Size down, Size across
) {
    EACH(e, size) {
        Size rest = e, c = innermost(rest, channels), q = innermost(rest, across);
        Size p = innermost(rest, down), n = rest;
        T sum = 0;
        for (Size i = 0; i < kernel_rows; i++) {
            Size h = p * stride_rows + i * dilation_rows - padding_rows;
            if (h < 0 || h >= height) continue;
            for (Size j = 0; j < kernel_columns; j++) {
                Size w = q * stride_columns + j * dilation_columns - padding_columns;
                if (w < 0 || w >= width) continue;
                sum += x[((n * height + h) * width + w) * channels + c];
            }
        }
        y[e] = sum * share;
    }
}

template <typename T>
__global__ void average_pool_backward(
    const T* dy, Size kernel_rows, Size kernel_columns, Size stride_rows, Size stride_columns,
    Size padding_rows, Size padding_columns, Size dilation_rows, Size dilation_columns, T share, T* dx, Size size,
    Size height, Size width, Size channels, Size down, Size across
) {
    EACH(e, size) {
        Size rest = e, c = innermost(rest, channels), w = innermost(rest, width);
        Size h = innermost(rest, height), n = rest;
        T sum = 0;
        for (Size i = 0; i < kernel_rows; i++) {
            Size p = window_of(h, i, stride_rows, padding_rows, dilation_rows, down);
            if (p < 0) continue;
            for (Size j = 0; j < kernel_columns; j++) {
                Size q = window_of(w, j, stride_columns, padding_columns, dilation_columns, across);
                if (q < 0) continue;
                sum += dy[((n * down + p) * across + q) * channels + c] * share;
            }
        }
        dx[e] = sum;
    }
}

// ---- the loss and what is counted ----

// A thread for each row. Logits lie row by row, so a block reads those of a few classes at a time
// into shared memory, neighbouring threads neighbouring numbers; p lies class by class.
const int TILE_ROWS = 256;
const int TILE_CLASSES = 16;

// Classes [first, first + width) of `rows` rows, which begin at `logits`. One more number for each
// row of a tile, so that a column of it lies in all banks of shared memory.
template <typename T>
__device__ void load_tile(
    const T* logits, Size classes, Size first, Size width, Size rows, T (*tile)[TILE_CLASSES + 1]
) {
    __syncthreads();  // all have read the tile before
    for (int i = threadIdx.x; i < int(rows * width); i += blockDim.x) {
        int row = i / int(width), column = i % int(width);
        tile[row][column] = logits[row * classes + first + column];
    }
    __syncthreads();
}

// The same, from the tile into memory.
template <typename T>
__device__ void store_tile(
    T* logits, Size classes, Size first, Size width, Size rows, T (*tile)[TILE_CLASSES + 1]
) {
    __syncthreads();  // all have filled their row of the tile
    for (int i = threadIdx.x; i < int(rows * width); i += blockDim.x) {
        int row = i / int(width), column = i % int(width);
        logits[row * classes + first + column] = tile[row][column];
    }
    __syncthreads();
}

// What the gradient of a logit is.
template <typename T>
__device__ T softmax_slope(T p, bool is_label, T smoothing, T scale, Size classes) {
    T uniform = smoothing / classes;
    T q = is_label ? uniform + (1 - smoothing) : uniform;
    return (p - q) * scale;
}

// A block adds up the losses of its rows. Only one block has the sum of all; of several each leaves
// its own in `sums`, from where `mean_of_sums` takes them. No gradient where `dlogits` is null.
template <typename T, typename Label>
__device__ void cross_entropy_of_block(
    const T* logits, const Label* labels, T smoothing, T scale, double* sums, T* p, T* value,
    T* dlogits, Size count, Size classes
) {
    __shared__ T tile[TILE_ROWS][TILE_CLASSES + 1];
    T* own = tile[threadIdx.x];
    double mine = 0;
    Size stride = (Size)gridDim.x * blockDim.x;
    for (Size begin = (Size)blockIdx.x * blockDim.x; begin < count; begin += stride) {
        Size n = begin + threadIdx.x;
        Size rows = smaller(blockDim.x, count - begin);
        T largest = 0, total = 0, expected = 0, of_label = 0;
        for (Size first = 0; first < classes; first += TILE_CLASSES) {
            Size width = smaller(TILE_CLASSES, classes - first);
            load_tile(logits + begin * classes, classes, first, width, rows, tile);
            if (n >= count) continue;
            if (first == 0) largest = own[0];
            for (Size j = 0; j < width; j++) largest = larger(largest, own[j]);
        }
        for (Size first = 0; first < classes; first += TILE_CLASSES) {
            Size width = smaller(TILE_CLASSES, classes - first);
            if (classes > TILE_CLASSES) {
                load_tile(logits + begin * classes, classes, first, width, rows, tile);
            }
            if (n >= count) continue;
            for (Size j = 0; j < width; j++) {
                T shifted = own[j] - largest;
                T power = exp(shifted);
                p[(first + j) * count + n] = power;
                total += power;
                if (smoothing > 0) expected += smoothing / classes * shifted;
                if (first + j == (Size)labels[n]) of_label = shifted;
            }
        }
        if (n < count) {
            for (Size k = 0; k < classes; k++) p[k * count + n] /= total;
            expected += (1 - smoothing) * of_label;
            mine += log(total) - expected;
        }
        if (!dlogits) continue;
        for (Size first = 0; first < classes; first += TILE_CLASSES) {
            Size width = smaller(TILE_CLASSES, classes - first);
            for (Size j = 0; j < width && n < count; j++) {
                bool is_label = first + j == (Size)labels[n];
                T of_class = p[(first + j) * count + n];
                own[j] = softmax_slope(of_class, is_label, smoothing, scale, classes);
            }
            store_tile(dlogits + begin * classes, classes, first, width, rows, tile);
        }
    }
    double summed = sum_of_block(mine);
    if (threadIdx.x != 0) return;
    if (gridDim.x == 1) {
        value[0] = (T)(summed / count);
    } else {
        sums[blockIdx.x] = summed;
    }
}

template <typename T, typename Label>
__global__ void cross_entropy(
    const T* logits, const Label* labels, T smoothing, double* sums, T* p, T* value, Size count,
    Size classes
) {
    T* none = nullptr;
    cross_entropy_of_block(
        logits, labels, smoothing, (T)0, sums, p, value, none, count, classes
    );
}

template <typename T, typename Label>
__global__ void cross_entropy_and_gradient(
    const T* logits, const Label* labels, T smoothing, T scale, double* sums, T* p, T* value,
    T* dlogits, Size count, Size classes
) {
    cross_entropy_of_block(
        logits, labels, smoothing, scale, sums, p, value, dlogits, count, classes
    );
}

template <typename T>
__global__ void mean_of_sums(const double* sums, T* value, Size blocks, Size count) {
    double mine = 0;
    EACH_COLUMN(i, blocks) mine += sums[i];
    double summed = sum_of_block(mine);
    if (threadIdx.x == 0) value[0] = (T)(summed / count);
}

template <typename T, typename Label>
__global__ void softmax_cross_entropy_backward(
    const T* p, const Label* labels, T smoothing, T scale, T* dlogits, Size count, Size classes
) {
    EACH(i, count * classes) {
        Size n = i / classes, k = i % classes;
        bool is_label = k == (Size)labels[n];
        dlogits[i] = softmax_slope(p[k * count + n], is_label, smoothing, scale, classes);
    }
}

template <typename T>
__global__ void add_loss(const T* loss, Size samples, double* total) {
    EACH(i, 1) total[0] += (double)loss[0] * samples;
}

// Blocks add to `hits` in any order: of whole numbers the sum is the same.
template <typename T, typename Label>
__device__ void add_hits(
    const T* logits, const Label* labels, Size* hits, Size count, Size classes
) {
    Size mine = 0;
    EACH(n, count) {
        const T* row = logits + n * classes;
        Size best = 0;
        for (Size k = 1; k < classes; k++) {
            // As argmax has it, the first NaN counts as the largest.
            if (row[k] > row[best] || (row[k] != row[k] && row[best] == row[best])) best = k;
        }
        mine += best == (Size)labels[n];
    }
    Size found = sum_of_block(mine);
    if (threadIdx.x == 0) atomicAdd((Long*)hits, (Long)found);
}

template <typename T, typename Label>
__global__ void count_hits(
    const T* logits, const Label* labels, Size* hits, Size count, Size classes
) {
    add_hits(logits, labels, hits, count, classes);
}

template <typename T, typename Label>
__global__ void add_loss_and_hits(
    const T* loss, const T* logits, const Label* labels, double* total, Size* hits, Size count,
    Size classes
) {
    EACH(i, 1) total[0] += (double)loss[0] * count;
    add_hits(logits, labels, hits, count, classes);
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

// A well-mixed word for training sample number `counter`, and 32 bits of it for a unit.
__device__ Word word_of_sample(Long counter) {
    Long word = counter * 0x9E3779B97F4A7C15ull;
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9ull;
    word = (word ^ (word >> 27)) * 0x94D049BB133111EBull;
    word ^= word >> 31;
    return (Word)(word >> 32);
}

__device__ Word bits_of_unit(Word row, Word unit) {
    Word bits = row ^ unit;
    bits = (bits ^ (bits >> 16)) * 0x7FEB352Du;
    bits = (bits ^ (bits >> 15)) * 0x846CA68Bu;
    return bits ^ (bits >> 16);
}

template <typename T>
__global__ void dropout(
    const T* x, const Long* counter, const Word* units, Size threshold, T scale, T* mask, T* y,
    Size count, Size features
) {
    EACH_ROW(n, count) {
        Word row = word_of_sample(counter[0] + (Long)n);
        EACH_COLUMN(j, features) {
            T kept = bits_of_unit(row, units[j]) >= threshold ? scale : scale * 0;
            mask[n * features + j] = kept;
            y[n * features + j] = x[n * features + j] * kept;
        }
    }
}

// Two draws from each word; `factor` is -2 times the variance.
template <typename T>
__global__ void gaussian_noise(
    const T* x, const Long* counter, const Word* units, T factor, T* y, Size count, Size features
) {
    Size half = (features + 1) / 2;
    EACH_ROW(n, count) {
        Word row = word_of_sample(counter[0] + (Long)n);
        EACH_COLUMN(j, half) {
            Word bits = bits_of_unit(row, units[j]);
            T angle = (T)(bits & 0xFFFFu) * (T)(6.283185307179586 / 65536);
            T radius = sqrt(log((T)((bits >> 16) + 1) * (T)(1.0 / 65536)) * factor);
            Size i = n * features + j;
            y[i] = cos(angle) * radius + x[i];
            if (half + j < features) y[i + half] = sin(angle) * radius + x[i + half];
        }
    }
}

// After those two, in a launch of its own: there every block reads the counter, in any order.
__global__ void advance(Long* counter, Size count) {
    EACH(i, 1) counter[0] += (Long)count;
}

// The samples of a batch with their targets, `width` numbers each.
template <typename Pixel, typename Index, typename T, typename Target>
__global__ void gather_batch(
    const Pixel* source, const Target* targets, const Index* indices, T scale, T shift,
    Target* target, T* x, Size count, Size features, Size width
) {
    EACH_ROW(n, count) {
        Size index = (Size)indices[n];
        const Pixel* row = source + index * features;
        EACH_COLUMN(j, features) x[n * features + j] = (T)row[j] * scale + shift;
        EACH_COLUMN(j, width) target[n * width + j] = targets[index * width + j];
    }
}

// ---- sparse rows ----

// A block for each row, the longest first; a thread for each column of the product.
template <typename T>
__global__ void weighted_sums(
    const Size* targets, const Size* offsets, const Size* indices, const T* values, const T* source,
    T* out, Size rows, Size diagonals, Size width
) {
    EACH_ROW(s, rows) {
        EACH_COLUMN(j, width) {
            T sum = values[s] * source[indices[s] * width + j];
            for (Size k = 1; k < diagonals && offsets[k] + s < offsets[k + 1]; k++) {
                Size e = offsets[k] + s;
                sum += values[e] * source[indices[e] * width + j];
            }
            out[targets[s] * width + j] = sum;
        }
    }
}
