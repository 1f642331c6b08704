// Drawing the results of a forward pass. A canvas has one pixel for each number, and CSS enlarges
// it. Colours are transparent near 0, so they suit a light and a dark background.

const ABOVE_ZERO = [216, 90, 0];
const BELOW_ZERO = [36, 128, 214];
/** The number of classes with a bar: the likeliest ones if there are more. */
const MOST_CLASSES = 10;
/** The number of units of the first layer whose weights are shown. */
const MOST_UNITS = 12;
/** The number of maps of a convolution that are shown. */
const MOST_MAPS = 16;

/** Sets each pixel of `canvas`, counted row by row, to `[red, green, blue, alpha]`. */
function paint(canvas, colourOf) {
  const { width, height } = canvas;
  const pixels = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) pixels.data.set(colourOf(i), 4 * i);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/** Numbers as colours: strongest at `limit` from 0, transparent at 0. */
function paintNumbers(canvas, numbers, limit) {
  paint(canvas, (i) => {
    const value = numbers[i] ?? 0;
    const share = limit > 0 ? Math.min(Math.abs(value) / limit, 1) : 0;
    return [...(value > 0 ? ABOVE_ZERO : BELOW_ZERO), 255 * share];
  });
}

/** The input of the network: grey levels 0..255, or null. */
function showImage(canvas, image) {
  paint(canvas, (i) => [255, 255, 255, image ? image[i] : 0]);
}

/** `3 · 97.1 %` */
function answerOf(probabilities, classes) {
  const best = likeliest(probabilities, 1)[0];
  return `${classes[best]} · ${percent(probabilities[best])}`;
}

/** A bar for each class, in the order of the classes. */
function showClasses(list, probabilities, classes) {
  const shown = likeliest(probabilities ?? classes.map(() => 0), MOST_CLASSES);
  const best = probabilities && shown[0];
  const rows = shown.sort((a, b) => a - b).map((index) => {
    const p = probabilities ? probabilities[index] : 0;
    const row = element("li", { className: index === best ? "best" : "" });
    const bar = element("span", { className: "bar" });
    bar.append(element("span", { className: "filled" }));
    bar.firstChild.style.width = `${100 * p}%`;
    row.append(
      element("span", { className: "name", textContent: classes[index] }),
      bar,
      element("span", { className: "share", textContent: probabilities ? percent(p) : "" }),
    );
    return row;
  });
  list.replaceChildren(...rows);
}

/** Adds a figure for the units of a layer; returns the function that shows its outputs or null. */
function makeUnits(container, name, size) {
  const columns = Math.ceil(Math.sqrt(2 * size));
  const [width, height] = [columns, Math.ceil(size / columns)];
  const canvas = element("canvas", { width, height, className: "numbers", ariaHidden: "true" });
  const caption = addFigure(container, canvas);
  return (outputs) => {
    const above = (outputs ?? []).filter((output) => output > 0).length;
    paintNumbers(canvas, outputs ?? [], Math.max(...(outputs ?? [0]).map(Math.abs)));
    const count = outputs ? `${above} of ${size} units above 0` : `${size} units`;
    caption.textContent = `${name}: ${count}`;
  };
}

/** The same for the maps of a layer whose outputs are images: each map in grey. */
function makeMaps(container, name, [height, width, channels]) {
  const shown = Math.min(MOST_MAPS, channels);
  const row = element("div", { className: "maps", ariaHidden: "true" });
  row.append(...Array.from({ length: shown }, () => element("canvas", { width, height })));
  const count = shown < channels ? `${shown} of ${channels}` : channels;
  const maps = channels === 1 ? "map" : "maps";
  addFigure(container, row).textContent = `${name}: ${count} ${maps} of ${height} × ${width}`;
  const pixels = height * width;
  return (outputs) => {
    const values = outputs ?? new Float64Array(shown * pixels);
    const [least, largest] = [Math.min, Math.max].map((f) => values.reduce((a, b) => f(a, b)));
    const factor = largest > least ? 255 / (largest - least) : 0;
    Array.from(row.children, (canvas, map) =>
      paint(canvas, (i) => {
        const level = factor * (values[map * pixels + i] - least);
        return [level, level, level, 255];
      }),
    );
  };
}

/** Adds a figure with `content`; returns its caption. */
function addFigure(container, content) {
  const caption = element("figcaption", {});
  const figure = element("figure", {});
  figure.append(content, caption);
  container.append(figure);
  return caption;
}

/**
 * Figures for the weights of the most active units; returns the function that shows them for the
 * outputs (or null) of the first layer. `weight` holds `side` x `side` numbers for each unit.
 */
function makeWeights(container, weight, side, names) {
  const limit = weight.map(Math.abs).sort()[Math.floor(0.998 * (weight.length - 1))];
  const figures = Array.from({ length: Math.min(MOST_UNITS, names.length) }, () => {
    const canvas = element("canvas", { width: side, height: side, className: "numbers" });
    canvas.ariaHidden = "true";
    const figure = element("figure", { className: "empty" });
    figure.append(canvas, element("figcaption", { textContent: "–" }));
    return figure;
  });
  container.replaceChildren(...figures);
  return (outputs) => {
    const fired = outputs ? likeliest(outputs, MOST_UNITS).filter((unit) => outputs[unit] > 0) : [];
    figures.forEach((figure, place) => {
      const unit = fired[place];
      const [canvas, caption] = figure.children;
      figure.classList.toggle("empty", unit === undefined);
      const start = unit * side * side;
      const numbers = unit === undefined ? [] : weight.subarray(start, start + side * side);
      paintNumbers(canvas, numbers, limit);
      caption.textContent = unit === undefined ? "–" : `${names[unit]}: ${outputs[unit].toFixed(2)}`;
    });
  };
}

/** The indices of the `count` largest values, the largest first. */
function likeliest(values, count) {
  return Array.from(values.keys()).sort((a, b) => values[b] - values[a]).slice(0, count);
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function element(name, properties) {
  return Object.assign(document.createElement(name), properties);
}
