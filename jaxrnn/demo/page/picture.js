// Draws lines on a canvas: one square, or a grid of them, each looking at a part of the plane.

const LIGHT = { sheet: "#ffffff", ink: "#1b1b1b", person: "#d6336c", line: "#d5d1c8" };
const MARGIN = 0.06; // around what is fitted, in parts of its side
const EASE_MS = 140; // in which a view comes closer to where it goes by a factor of e

// The smallest square that holds lines, and a square if one is given, with a margin around.
export function viewOf(lines, square) {
  const points = lines.flat();
  const corners = square
    ? [[square.x, square.y], [square.x + square.side, square.y + square.side]]
    : [];
  const all = [...points, ...corners];
  if (!all.length) return { x: 0, y: 0, side: 1 };
  const [xs, ys] = [0, 1].map((i) => all.map((point) => point[i]));
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  const [width, height] = [Math.max(...xs) - left, Math.max(...ys) - top];
  let side = Math.max(width, height, 1);
  if (!square || side > square.side) side *= 1 + 2 * MARGIN;
  return { x: left - (side - width) / 2, y: top - (side - height) / 2, side };
}

// A view on its way to another.
export function eased(view, goal, elapsedMs) {
  const share = 1 - Math.exp(-elapsedMs / EASE_MS);
  const next = {};
  for (const key of ["x", "y", "side"]) {
    const left = goal[key] - view[key];
    next[key] = Math.abs(left) < 0.2 ? goal[key] : view[key] + share * left;
  }
  return next;
}

export class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.numColumns = 1;
  }

  // Makes the canvas as sharp as the screen.
  resize() {
    const pixels = Math.round(this.canvas.clientWidth * (window.devicePixelRatio || 1));
    if (this.canvas.width !== pixels) this.canvas.width = this.canvas.height = pixels;
  }

  // Column and row of the cell that an event is in.
  cellAt(event) {
    return this.inCells(event).map((v) => Math.min(this.numColumns - 1, Math.max(0, Math.floor(v))));
  }

  // Where on the plane an event is, as a cell shows it: [x, y].
  placeAt(event, cell, view) {
    const [x, y] = this.inCells(event).map((v, i) => (v - cell[i]) * view.side);
    return [view.x + x, view.y + y].map((v) => Math.round(100 * v) / 100);
  }

  inCells(event) {
    const box = this.canvas.getBoundingClientRect();
    const side = this.canvas.clientWidth / this.numColumns;
    return [event.clientX - box.left, event.clientY - box.top].map((v) => v / side);
  }

  // The colours of the page.
  palette() {
    const style = getComputedStyle(this.canvas);
    const names = ["sheet", "ink", "person", "line"];
    return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`)]));
  }

  // Cells are {person, model, faint, view, label}, the first two lines.
  draw(cells, cursor, palette = this.palette()) {
    const context = this.canvas.getContext("2d");
    const side = this.canvas.width;
    const cell = side / this.numColumns;
    context.fillStyle = palette.sheet;
    context.fillRect(0, 0, side, side);
    for (const [k, content] of cells.entries()) {
      const [column, row] = [k % this.numColumns, Math.floor(k / this.numColumns)];
      context.save();
      context.beginPath();
      context.rect(column * cell, row * cell, cell, cell);
      context.clip();
      context.translate(column * cell, row * cell);
      drawCell(context, cell, content, palette);
      if (cursor) drawCursor(context, cell, content.view, cursor, palette);
      context.restore();
    }
    drawRules(context, side, this.numColumns, palette);
  }

  // A picture of the cells as a file, on white.
  async toBlob(cells, side) {
    const picture = new Picture(document.createElement("canvas"));
    picture.numColumns = this.numColumns;
    picture.canvas.width = picture.canvas.height = side;
    picture.draw(cells, null, LIGHT);
    return new Promise((resolve) => picture.canvas.toBlob(resolve, "image/png"));
  }
}

function drawCell(context, cell, { person, model, faint, view, label }, palette) {
  const scale = cell / view.side;
  const place = ([x, y]) => [(x - view.x) * scale, (y - view.y) * scale];
  context.lineWidth = Math.max(1.5, cell / 150);
  context.lineCap = context.lineJoin = "round";
  for (const [lines, color, alpha] of [
    [person, palette.person, faint ? 0.3 : 1],
    [model, palette.ink, 1],
  ]) {
    context.strokeStyle = color;
    context.globalAlpha = alpha;
    for (const line of lines) {
      context.beginPath();
      context.moveTo(...place(line[0]));
      for (const point of line.length > 1 ? line.slice(1) : line) context.lineTo(...place(point));
      context.stroke();
    }
  }
  context.globalAlpha = 1;
  if (label) {
    context.fillStyle = palette.person;
    context.font = `600 ${cell / 11}px system-ui, sans-serif`;
    context.fillText(label, cell / 18, cell / 8);
  }
}

function drawCursor(context, cell, view, { place, isDown }, palette) {
  const scale = cell / view.side;
  const [x, y] = [(place[0] - view.x) * scale, (place[1] - view.y) * scale];
  context.strokeStyle = context.fillStyle = palette.person;
  context.lineWidth = 2;
  context.beginPath();
  context.arc(x, y, cell / 60, 0, 2 * Math.PI);
  if (isDown) context.fill();
  else context.stroke();
}

function drawRules(context, side, numColumns, palette) {
  context.strokeStyle = palette.line;
  context.lineWidth = 1;
  for (let k = 1; k < numColumns; k++) {
    const at = Math.round((k * side) / numColumns) + 0.5;
    context.beginPath();
    context.moveTo(at, 0);
    context.lineTo(at, side);
    context.moveTo(0, at);
    context.lineTo(side, at);
    context.stroke();
  }
}
