// The page: a drawing becomes an image, the image is the input of the network, and the outputs
// of the layers are shown.
//
// For the browser's console and for the tests of the page:
//   xpnet.ink()                 the pad, `xpnet.size` x `xpnet.size` levels 0..255, row by row
//   xpnet.prepare(ink, size)    the image made from the ink, `xpnet.side` x `xpnet.side`; null if
//                               it is empty
//   xpnet.predict(image)        {probabilities, outputs}: one for each class, one for each layer

const model = JSON.parse(byId("model").textContent);
const layers = model.layers.map(decodeLayer);

// A part of the network is a Linear, a Conv2d or a pooling layer with the layers after it, up to
// the next of these; its output is that of its last layer. The last Linear gives the classes.
const COMBINING = ["Linear", "Conv2d", "MaxPool2d", "AveragePool2d", "GlobalAveragePool2d"];
const starts = [...layers.keys()].filter((place) => COMBINING.includes(layers[place].type));
const parts = starts.map((start, number) => {
  const { type, out_shape } = layers[start];
  return { start, end: (starts[number + 1] ?? layers.length) - 1, type, out_shape };
});
const weighted = parts.filter(({ type }) => type === "Linear" || type === "Conv2d");
const hidden = weighted.filter((part) => part.type === "Conv2d" || part !== weighted.at(-1));
// Only of a layer that is given the image itself can the weights be shown as images.
const first = parts[0]?.type === "Linear" ? parts[0] : null;

const pad = makePad(byId("pad"), byId("cursor"), byId("pen"), changed);
const showHidden = hidden.map(({ type, out_shape }, number) => {
  const name = `Hidden layer ${number + 1}`;
  if (type === "Conv2d") return makeMaps(byId("units"), name, out_shape);
  return makeUnits(byId("units"), name, out_shape[0]);
});
const showWeights = first ? makeFirstWeights() : () => {};

byId("hidden").hidden = hidden.length === 0;
byId("about-units").hidden = !hidden.some(({ type }) => type === "Linear");
byId("about-maps").hidden = !hidden.some(({ type }) => type === "Conv2d");
byId("first").hidden = !first;
byId("clear").addEventListener("click", pad.clear);
show();

window.xpnet = Object.freeze({
  size: pad.size,
  side: model.side,
  ink: () => Array.from(pad.ink),
  prepare: (ink, size) => listed(prepare(ink, size, model.side)),
  predict: (image) => {
    const { probabilities, outputs } = predict(image);
    return { probabilities: listed(probabilities), outputs: outputs.map(listed) };
  },
});

/** A number for all pixels, or that of pixel `i`. */
function of(value, i) {
  return Array.isArray(value) ? value[i] : value;
}

/** Stored levels 0..255 to probabilities; `outputs` are those of each layer. */
function predict(image) {
  const x = Float64Array.from(image, (level, i) => level * of(model.scale, i) + of(model.shift, i));
  const outputs = forward(layers, x);
  const makers = { softmax, sigmoid: FORWARD.Sigmoid, identity: (y) => y };
  return { probabilities: makers[model.probabilities](outputs.at(-1)), outputs };
}

/** Shows the drawing, once for each frame of the screen, however often it changed. */
function changed() {
  if (changed.waiting) return;
  changed.waiting = true;
  requestAnimationFrame(() => {
    changed.waiting = false;
    show();
    say();
  });
}

function show() {
  const image = prepare(pad.ink, pad.size, model.side);
  const { probabilities, outputs } = image ? predict(image) : {};
  byId("answer").textContent = image ? answerOf(probabilities, model.classes) : "–";
  showImage(byId("image"), image);
  showClasses(byId("classes"), probabilities, model.classes);
  hidden.forEach(({ end }, number) => showHidden[number](outputs?.[end]));
  showWeights(outputs?.[first?.end]);
}

/** Announces the prediction to a screen reader, after a pause in drawing. */
function say() {
  clearTimeout(say.timer);
  say.timer = setTimeout(() => {
    const answer = byId("answer").textContent;
    byId("said").textContent = answer === "–" ? "The pad is empty" : `The network sees ${answer}`;
  }, 700);
}

function makeFirstWeights() {
  const { weight, out_features } = layers[first.start];
  const isLast = weighted.length === 1;
  const names = Array.from({ length: out_features }, (_, unit) =>
    isLast ? model.classes[unit] : `unit ${unit}`,
  );
  return makeWeights(byId("weights"), weight, model.side, names);
}

/**
 * A layer with its settings, its arrays and the shapes of its input and output as properties;
 * `layers` are those of a Residual.
 */
function decodeLayer({ settings, arrays, layers = [], ...about }) {
  const decoded = Object.entries(arrays).map(([name, text]) => [name, decodeNumbers(text)]);
  // The setting `bias` of a Conv2d says whether there is an array of that name.
  return { ...about, ...settings, ...Object.fromEntries(decoded), layers: layers.map(decodeLayer) };
}

/** Base64 of float32 in little-endian order, which is that of all browsers. */
function decodeNumbers(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

function listed(values) {
  return values && Array.from(values);
}

function byId(id) {
  return document.getElementById(id);
}
