// The pad: strokes of mouse, finger or keyboard become ink. The ink is computed here and not drawn
// by the canvas: browsers smooth lines differently, and some do not allow reading pixels back.

/** Thickness of the pen, as a share of the pad: about that of MNIST's digits. */
const PEN = 1 / 14;
/** How far an arrow key moves the cursor, without and with Shift, as shares of the pad. */
const STEP = 1 / 40;
const FINE_STEP = 1 / 140;

const ARROWS = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

/**
 * Makes `canvas` a pad to draw on and calls `changed()` after every part of a stroke. `cursor` is
 * the mark that shows where the keyboard draws, `pen` the element that shows whether it draws.
 * Returns `{ink, size, clear()}`: `ink` is `size` x `size` levels 0..255, row by row.
 */
function makePad(canvas, cursor, pen, changed) {
  const size = canvas.width;
  const ink = new Uint8ClampedArray(size * size);

  function draw(from, to) {
    layInk(ink, size, from, to);
    paintInk(canvas, ink);
    changed();
  }

  function clear() {
    ink.fill(0);
    paintInk(canvas, ink);
    changed();
  }

  drawByPointer(canvas, size, draw);
  drawByKeys(canvas, size, cursor, pen, draw, clear);
  return { ink, size, clear };
}

/** Mouse, finger and stylus: a stroke lasts from pressing to releasing. */
function drawByPointer(canvas, size, draw) {
  let last = null;

  function placeOf(event) {
    const box = canvas.getBoundingClientRect();
    const { clientX, clientY } = event;
    return [(size * (clientX - box.left)) / box.width, (size * (clientY - box.top)) / box.height];
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button !== 0) return;
    // The stroke continues when the pointer leaves the pad and comes back.
    canvas.setPointerCapture(event.pointerId);
    last = placeOf(event);
    draw(last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (last === null || !event.isPrimary) return;
    // There may be several moves between two frames of the screen.
    const moves = event.getCoalescedEvents?.() ?? [];
    for (const move of moves.length ? moves : [event]) {
      const place = placeOf(move);
      draw(last, place);
      last = place;
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => {
      if (event.isPrimary) last = null;
    });
  }
  // Chromium treats a fast stroke as a fling too, and the next tap, on Clear, as its end.
  canvas.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
}

/** Arrow keys move a cursor, Space puts the pen down and lifts it, Delete clears. */
function drawByKeys(canvas, size, cursor, pen, draw, clear) {
  const held = new Set();
  let place = [size / 2, size / 2];
  let down = false;

  function move(fine) {
    const from = place;
    const step = (fine ? FINE_STEP : STEP) * size;
    // All pressed arrow keys count, so that two of them draw a diagonal line.
    place = place.map((value, axis) => {
      const way = [...held].reduce((sum, key) => sum + ARROWS[key][axis], 0);
      return Math.min(Math.max(value + way * step, 0), size);
    });
    if (down) draw(from, place);
  }

  function setPen(isDown) {
    if (isDown && !down) draw(place, place);
    if (isDown !== down) pen.textContent = isDown ? "Pen down" : "Pen up";
    down = isDown;
  }

  function showCursor(visible) {
    cursor.hidden = !visible;
    cursor.classList.toggle("down", down);
    cursor.style.left = `${(100 * place[0]) / size}%`;
    cursor.style.top = `${(100 * place[1]) / size}%`;
  }

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in ARROWS) {
      held.add(event.key);
      move(event.shiftKey);
    } else if (event.key === " ") {
      if (!event.repeat) setPen(!down);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      clear();
    } else {
      return;
    }
    // These keys would scroll the page.
    event.preventDefault();
    showCursor(true);
  });
  canvas.addEventListener("keyup", (event) => held.delete(event.key));
  canvas.addEventListener("focus", () => showCursor(canvas.matches(":focus-visible")));
  // Using the mouse or leaving the pad lifts the pen.
  for (const end of ["blur", "pointerdown"]) {
    canvas.addEventListener(end, () => {
      held.clear();
      setPen(false);
      showCursor(false);
    });
  }
}

/** A line with round ends from one place to another, its edge smoothed over one pixel. */
function layInk(ink, size, [x0, y0], [x1, y1]) {
  const radius = (PEN * size) / 2;
  const reach = radius + 1;
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length2 = dx * dx + dy * dy;
  const [top, bottom] = [Math.min(y0, y1) - reach, Math.max(y0, y1) + reach];
  const [left, right] = [Math.min(x0, x1) - reach, Math.max(x0, x1) + reach];
  for (let row = Math.max(0, Math.floor(top)); row < Math.min(size, bottom); row++) {
    for (let column = Math.max(0, Math.floor(left)); column < Math.min(size, right); column++) {
      // From the pixel's middle to the nearest point of the line.
      const [x, y] = [column + 0.5 - x0, row + 0.5 - y0];
      const along = length2 ? Math.min(Math.max((x * dx + y * dy) / length2, 0), 1) : 0;
      const distance = Math.hypot(x - along * dx, y - along * dy);
      const level = 255 * Math.min(Math.max(radius + 0.5 - distance, 0), 1);
      const pixel = row * size + column;
      ink[pixel] = Math.max(ink[pixel], level);
    }
  }
}

function paintInk(canvas, ink) {
  paint(canvas, (pixel) => [255, 255, 255, ink[pixel]]);
}
