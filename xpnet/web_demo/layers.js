// The forward pass in prediction, layer by layer: the formulas of xpnet/layers/ for one
// sample. Arguments and results are arrays of numbers. Sums are in double precision, so results
// differ from those of xpnet by its rounding to float32.

const FORWARD = {
  Linear: linear,
  ReLU: (x) => x.map((v) => Math.max(v, 0)),
  LeakyReLU: (x, { slope }) => x.map((v) => Math.max(v, slope * v)),
  Sigmoid: (x) => x.map((v) => 1 / (1 + Math.exp(-v))),
  Tanh: (x) => x.map(Math.tanh),
  GELU: (x) => x.map(gelu),
  Softmax: softmax,
  BatchNorm: batchNorm,
  LayerNorm: layerNorm,
  Residual: residual,
  // These two change nothing in prediction.
  Dropout: (x) => x,
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

/** `γ (x − μ) / √(σ² + ε) + β`, feature by feature, by the running statistics. */
function batchNorm(x, { weight, bias, running_mean, running_var, epsilon }) {
  return x.map((v, j) => {
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

function sumOf(values) {
  return values.reduce((sum, value) => sum + value, 0);
}
