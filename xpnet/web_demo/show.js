// Drawing the results of a forward pass. A canvas has one pixel for each number, and CSS enlarges
// it. Colours are transparent near 0, so they suit a light and a dark background.

const ABOVE_ZERO = [216, 90, 0];
const BELOW_ZERO = [36, 128, 214];
/** The number of classes with a bar: the likeliest ones if there are more. */
const MOST_CLASSES = 10;
/** The number of units of the first layer whose weights are shown. */
const MOST_UNITS = 12;

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
function showPicture(canvas, picture) {
  paint(canvas, (i) => [255, 255, 255, picture ? picture[i] : 0]);
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

/** A figure for each hidden layer; returns the function that shows the outputs (or null) of one. */
function makeUnits(container, sizes) {
  const figures = sizes.map((size) => {
    const columns = Math.ceil(Math.sqrt(2 * size));
    const [width, height] = [columns, Math.ceil(size / columns)];
    const canvas = element("canvas", { width, height, className: "numbers", ariaHidden: "true" });
    const figure = element("figure", {});
    figure.append(canvas, element("figcaption", {}));
    return figure;
  });
  container.replaceChildren(...figures);
  return (number, outputs) => {
    const [canvas, caption] = figures[number].children;
    const size = sizes[number];
    const above = (outputs ?? []).filter((output) => output > 0).length;
    paintNumbers(canvas, outputs ?? [], Math.max(...(outputs ?? [0]).map(Math.abs)));
    const count = outputs ? `${above} of ${size} units above 0` : `${size} units`;
    caption.textContent = `Hidden layer ${number + 1}: ${count}`;
  };
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
