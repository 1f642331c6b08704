// A drawing in the format of MNIST: `prepare` of xpnet/data/images.py, step by step, with the
// same names and precision (Math.fround and Float32Array are NumPy's and Pillow's float32). Python
// makes the same image from the same drawing, as long as most of the border is empty: Python
// estimates the background level from the border, here it is 0.

/** The share of the height and width of the field that the drawing takes. */
const BOX = 20 / 28;
/** Pixels above this share of the strongest ink belong to the drawing. */
const INK = 0.3;
/** The strongest ink, of 255, of a pad that is not blank. */
const FAINTEST = 16;

/**
 * The drawing in `ink` (`width` x `width` levels 0..255, row by row, background 0) as an image
 * of `side` x `side` levels; null if nothing is drawn.
 */
function prepare(ink, width, side) {
  const strongest = ink.reduce((a, b) => Math.max(a, b), 0);
  if (strongest < FAINTEST) return null;
  return centred(scaled(cutOut(ink, width, strongest), side), side);
}

/** The drawing's bounding box, its strongest ink 1: `{width, height, values}`. */
function cutOut(ink, size, strongest) {
  let [left, right, top, bottom] = [size, -1, size, -1];
  ink.forEach((level, place) => {
    if (level <= INK * strongest) return;
    const [row, column] = [Math.floor(place / size), place % size];
    [left, right] = [Math.min(left, column), Math.max(right, column)];
    [top, bottom] = [Math.min(top, row), Math.max(bottom, row)];
  });
  const [width, height] = [right - left + 1, bottom - top + 1];
  const values = new Float32Array(width * height);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      values[row * width + column] = ink[(top + row) * size + left + column] / strongest;
    }
  }
  return { width, height, values };
}

/** The drawing in its final size, antialiased, strongest ink 1. */
function scaled(drawing, side) {
  const scale = Math.min((BOX * side) / drawing.height, (BOX * side) / drawing.width);
  const width = Math.max(1, roundHalfToEven(drawing.width * scale));
  const height = Math.max(1, roundHalfToEven(drawing.height * scale));
  const result = resampledAndTurned(resampledAndTurned(drawing, width), height);
  const values = result.values.map((v) => Math.min(Math.max(v, 0), 1));
  // Scaling down makes thin lines fainter.
  const strongest = values.reduce((a, b) => Math.max(a, b));
  return { width, height, values: values.map((v) => v / strongest) };
}

/** `image` with its rows resampled to `length` values, and rows and columns exchanged. */
function resampledAndTurned(image, length) {
  const values = new Float32Array(length * image.height);
  resamplingWeights(image.width, length).forEach(({ first, weights }, column) => {
    for (let row = 0; row < image.height; row++) {
      const start = row * image.width + first;
      let sum = 0;
      for (let i = 0; i < weights.length; i++) sum += image.values[start + i] * weights[i];
      values[column * image.height + row] = sum;
    }
  });
  return { width: image.height, height: length, values };
}

/** For each of `to` values, the first of the `from` values that it sums, and their weights. */
function resamplingWeights(from, to) {
  const scale = from / to;
  // When scaling down, the filter is stretched over all values of a sum: antialiasing.
  const stretch = Math.max(scale, 1);
  const reach = 2 * stretch;
  return Array.from({ length: to }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const end = Math.min(Math.trunc(centre + reach + 0.5), from);
    const weights = [];
    for (let i = first; i < end; i++) weights.push(cubic((i - centre + 0.5) * (1 / stretch)));
    const total = sumOf(weights);
    return { first, weights: weights.map((weight) => weight / total) };
  });
}

/** Keys' cubic filter with a = −½: 1 at 0, and 0 at the other whole numbers. */
function cubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

/** The drawing in an empty field, its centre of mass on the field's middle pixel. */
function centred({ width, height, values }, side) {
  const ofRows = new Float64Array(height);
  const ofColumns = new Float64Array(width);
  values.forEach((value, place) => {
    ofRows[Math.floor(place / width)] += value;
    ofColumns[place % width] += value;
  });
  const [top, left] = [startOf(ofRows, side), startOf(ofColumns, side)];
  const field = new Uint8Array(side * side);
  values.forEach((value, place) => {
    const row = top + Math.floor(place / width);
    field[row * side + left + (place % width)] = roundHalfToEven(Math.fround(value * 255));
  });
  return field;
}

/** The first of `side` pixels of the drawing, given the ink of each of its rows or columns. */
function startOf(weights, side) {
  const centre = sumOf(weights.map((weight, place) => weight * place)) / sumOf(weights);
  const start = Math.floor(Math.floor(side / 2) - centre + 0.5);
  return Math.min(Math.max(start, 0), side - weights.length);
}

/** As Python and NumPy round: 0.5 to 0, 1.5 to 2, 2.5 to 2. */
function roundHalfToEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return rest < 0.5 ? below : below + 1;
  return below + (below % 2);
}
