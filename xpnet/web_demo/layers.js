// The forward pass in prediction, layer by layer: the formulas of xpnet/layers/ for one
// sample. Arguments and results are arrays of numbers, images in the order of rows: channels,
// height, width. Sums are in double precision, so results differ from those of xpnet by its
// rounding to float32.

const FORWARD = {
  Linear: linear,
  ReLU: (x) => x.map((v) => Math.max(v, 0)),
  LeakyReLU: (x, { slope }) => x.map((v) => Math.max(v, slope * v)),
  Sigmoid: (x) => x.map((v) => 1 / (1 + Math.exp(-v))),
  Tanh: (x) => x.map(Math.tanh),
  GELU: (x) => x.map(gelu),
  Softmax: softmax,
  BatchNorm: batchNorm,
  BatchNorm2d: batchNorm,
  LayerNorm: layerNorm,
  Residual: residual,
  Conv2d: conv2d,
  MaxPool2d: maxPool2d,
  AveragePool2d: averagePool2d,
  GlobalAveragePool2d: globalAveragePool2d,
  // Images are in the order of rows already.
  Unflatten: (x) => x,
  Flatten: (x) => x,
  // These change nothing in prediction.
  Dropout: (x) => x,
  Dropout2d: (x) => x,
  GaussianNoise: (x) => x,
};

/** The outputs of all layers, in order, for the input `x` of the network. */
function forward(layers, x) {
  return layers.map((layer) => (x = FORWARD[layer.type](x, layer)));
}

/** `y_j = Σ_i x_i w_ji + b_j`, with `weight` row by row: a row for each output. */
function linear(x, { weight, bias }) {
  return Float64Array.from(bias, (b, j) => {
    const row = j * x.length;
    let sum = 0;
    for (let i = 0; i < x.length; i++) sum += x[i] * weight[row + i];
    return sum + b;
  });
}

/** `½ x (1 + tanh u)`, `u = √(2/π) (x + 0.044715 x³)`. */
function gelu(x) {
  const u = Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3);
  return 0.5 * x * (1 + Math.tanh(u));
}

/** `exp(x_j) / Σ_k exp(x_k)`; the largest `x` is subtracted, so that nothing overflows. */
function softmax(x) {
  const largest = x.reduce((a, b) => Math.max(a, b));
  const powers = x.map((v) => Math.exp(v - largest));
  const total = sumOf(powers);
  return powers.map((v) => v / total);
}

/**
 * `γ (x − μ) / √(σ² + ε) + β` by the running statistics, feature by feature; in an image, channel
 * by channel.
 */
function batchNorm(x, { weight, bias, running_mean, running_var, epsilon }) {
  const pixels = x.length / weight.length;
  return x.map((v, place) => {
    const j = Math.floor(place / pixels);
    const normal = (v - running_mean[j]) / Math.sqrt(running_var[j] + epsilon);
    return weight[j] * normal + bias[j];
  });
}

/** The same with the mean and the variance of the features of the sample. */
function layerNorm(x, { weight, bias, epsilon }) {
  const mean = sumOf(x) / x.length;
  const variance = sumOf(x.map((v) => (v - mean) ** 2)) / x.length;
  const deviation = Math.sqrt(variance + epsilon);
  return x.map((v, j) => (weight[j] * (v - mean)) / deviation + bias[j]);
}

/** `x + f(x)`, where `f` is `layers` one after the other. */
function residual(x, { layers }) {
  const y = forward(layers, x).at(-1);
  return x.map((v, j) => v + y[j]);
}

/** `y_opq = Σ_cij x_c,(p·s+i·d−pad),(q·s+j·d−pad) w_ocij + b_o`, `c` of the group of `o`. */
function conv2d(x, layer) {
  const { weight, bias, out_channels, groups } = layer;
  const channels = windowEntries(x, layer, 0);
  const [inputs, outputs] = [channels.length / groups, out_channels / groups];
  const maps = Array.from({ length: out_channels }, (_, o) =>
    new Float64Array(channels[0][0].length).fill(bias ? bias[o] : 0),
  );
  // In this order an entry stays in the cache for all maps: about half the time.
  channels.forEach((entries, c) => {
    const first = Math.floor(c / inputs) * outputs;
    entries.forEach((pixels, k) => {
      for (let o = first; o < first + outputs; o++) {
        const place = (o * inputs + (c % inputs)) * entries.length + k;
        addScaled(maps[o], weight[place], pixels);
      }
    });
  });
  return joined(maps);
}

/** Adds `factor * values` to `sum`. */
function addScaled(sum, factor, values) {
  for (let n = 0; n < sum.length; n++) sum[n] += factor * values[n];
}

/** The largest value of each window; pixels of the padding are never the largest. */
function maxPool2d(x, layer) {
  const largest = (a, b) => a.map((v, n) => Math.max(v, b[n]));
  return joined(windowEntries(x, layer, -Infinity).map((entries) => entries.reduce(largest)));
}

/** The mean of each window; pixels of the padding count as 0. */
function averagePool2d(x, layer) {
  const sum = (a, b) => a.map((v, n) => v + b[n]);
  const sums = windowEntries(x, layer, 0).map((entries) => entries.reduce(sum));
  const [height, width] = pair(layer.kernel_size);
  return joined(sums).map((v) => v / (height * width));
}

/** The mean of each channel. */
function globalAveragePool2d(x, { in_shape: [height, width, channels] }) {
  const pixels = height * width;
  return Float64Array.from({ length: channels }, (_, c) => {
    return sumOf(x.subarray(c * pixels, (c + 1) * pixels)) / pixels;
  });
}

/**
 * The pixels in the windows of a layer: for each channel, for each entry `(i, j)` of a window, row
 * by row, an array with one pixel for each window. Pixels of the padding are `border`.
 */
function windowEntries(x, layer, border) {
  const [height, width, channels] = layer.in_shape;
  const [down, across] = layer.out_shape;
  const { kernel_size, stride, padding, dilation = 1 } = layer;
  const [rows, columns] = pair(kernel_size);
  const [stepDown, stepAcross] = pair(stride);
  const [above, left] = pair(padding);
  const [apartDown, apartAcross] = pair(dilation);

  function entry(c, i, j) {
    const pixels = new Float64Array(down * across).fill(border);
    for (let p = 0; p < down; p++) {
      const row = p * stepDown + i * apartDown - above;
      if (row < 0 || row >= height) continue;
      const start = (c * height + row) * width;
      for (let q = 0; q < across; q++) {
        const column = q * stepAcross + j * apartAcross - left;
        if (column >= 0 && column < width) pixels[p * across + q] = x[start + column];
      }
    }
    return pixels;
  }

  return Array.from({ length: channels }, (_, c) =>
    Array.from({ length: rows * columns }, (_, k) =>
      entry(c, Math.floor(k / columns), k % columns),
    ),
  );
}

/** A setting for height and width: one number for both, or two. */
function pair(value) {
  return Array.isArray(value) ? value : [value, value];
}

/** Arrays of equal length, one after the other in a single one. */
function joined(arrays) {
  const whole = new Float64Array(arrays.length * arrays[0].length);
  arrays.forEach((array, n) => whole.set(array, n * array.length));
  return whole;
}

function sumOf(values) {
  return values.reduce((sum, value) => sum + value, 0);
}
