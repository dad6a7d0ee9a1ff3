// The drawing page: what the person draws, when the model is asked, what is shown.

import { Drawing, ask, post } from "./answers.js";
import { Picture, eased, viewOf } from "./picture.js";

const PAUSE_MS = 1600; // before the next ending
const NEAREST = 1.5; // units between two points of a stroke
const STEP = 16; // units that an arrow key moves the pen by
const FINE_STEP = 4; // the same with Shift
const PNG_SIDE = 1200;

const find = (id) => document.getElementById(id);
const canvas = find("canvas");
const picture = new Picture(canvas);
const keptPicture = new Picture(find("kept"));
const still = window.matchMedia("(prefers-reduced-motion: reduce)");

let about = { classes: [""], conditional: false, side: 400, max_points: 1000, max_count: 9 };
let lines = []; // of the person
let stroke = null; // the one being drawn, {points, cell, pointer}
let cursor = null; // the pen as keys move it, {place, isDown}
let kept = null; // drawing A
let drawings = []; // of the model
let isBetween = false; // whether they go from A to B, instead of belonging to the lines
let isGrid = false;
let asking = null; // AbortController of the answer that is coming
let again = 0; // timer of the next ending
let view = square(); // what a cell shows
let frame = 0;
let lastFrame = 0;

function square() {
  return { x: 0, y: 0, side: about.side };
}

function mode() {
  return document.querySelector("input[name=mode]:checked").value;
}

function hasPoints(drawing) {
  return drawing.points.length > 0;
}

function say(text, isBad = false) {
  if (find("status").textContent !== text) find("status").textContent = text;
  find("status").classList.toggle("bad", isBad);
}

// --- what is shown

function allLines() {
  return stroke ? [...lines, stroke.points] : lines;
}

function cellsAt(now) {
  if (isBetween) {
    return drawings.map((drawing, k) => {
      const model = drawing.linesAt(now);
      const label = k === 0 ? "A" : k === drawings.length - 1 ? "B" : "";
      return { person: [], model, view: viewOf([drawing.points]), label };
    });
  }
  const faint = mode() === "mimic" && drawings.length > 0;
  const person = allLines();
  const shown = isGrid ? about.max_count : 1;
  return Array.from({ length: shown }, (_, k) => {
    return { person, model: drawings[k]?.linesAt(now) ?? [], faint, view };
  });
}

// A view that all drawings fit into, unless a stroke is being drawn on this one.
function goal() {
  if (stroke || isBetween) return view;
  const points = drawings.map((drawing) => drawing.points).filter((list) => list.length);
  return viewOf([...lines.filter(() => points.length > 0), ...points], square());
}

function draw(now) {
  frame = 0;
  picture.resize();
  picture.numColumns = isGrid || isBetween ? 3 : 1;
  const aim = goal();
  const next = still.matches ? aim : eased(view, aim, now - lastFrame);
  const isMoving = ["x", "y", "side"].some((key) => next[key] !== view[key]);
  view = next;
  lastFrame = now;
  picture.draw(cellsAt(now), cursor);
  measureFirstStroke();
  if (isMoving || asking || !drawings.every((drawing) => drawing.isShown(now))) wake();
  else if (drawings.length && !again) waitForAgain();
}

function wake() {
  if (!frame) {
    lastFrame = Math.max(lastFrame, performance.now() - 50);
    frame = requestAnimationFrame(draw);
  }
}

function measureFirstStroke() {
  if (drawings.some(hasPoints) && performance.getEntriesByName("lifted").length) {
    performance.measure("first stroke", "lifted");
    performance.clearMarks("lifted");
  }
}

function refresh() {
  const num = lines.length;
  find("invitation").hidden = num > 0 || stroke !== null || drawings.length > 0 || cursor !== null;
  find("undo").disabled = num === 0;
  find("clear").disabled = num === 0 && drawings.length === 0;
  find("pair").hidden = mode() !== "between";
  find("keep").disabled = num === 0;
  find("show").disabled = num === 0 || !kept;
  find("grid").setAttribute("aria-pressed", String(isGrid));
  for (const form of ["svg", "png", "json"]) {
    find(`save-${form}`).disabled = num === 0 && drawings.length === 0;
  }
  const name = num ? `of ${num} ${num === 1 ? "stroke" : "strokes"}` : "empty";
  canvas.setAttribute("aria-label", `Drawing surface, ${name}`);
  wake();
}

// --- what the model is asked

function forget() {
  asking?.abort();
  asking = null;
  clearTimeout(again);
  again = 0;
  drawings = [];
  isBetween = false;
}

function wish(count) {
  const request = {
    count,
    temperature: Number(find("temperature").value),
    seed: crypto.getRandomValues(new Uint32Array(1))[0],
  };
  return about.classes.length > 1 ? { ...request, class: find("class").value } : request;
}

async function answer(path, request, done) {
  forget();
  const controller = (asking = new AbortController());
  isBetween = path === "between";
  drawings = Array.from({ length: request.count }, () => new Drawing(still.matches));
  refresh();
  try {
    await ask(path, request, controller.signal, (points) => {
      if (asking !== controller) return;
      const now = performance.now();
      for (const [k, drawing] of drawings.entries()) drawing.add(points[k], now);
      wake();
    });
    if (asking === controller) say(drawings.some(hasPoints) ? done : "The model adds nothing.");
  } catch (error) {
    if (error.name !== "AbortError" && asking === controller) {
      say(error instanceof TypeError ? "The server doesn't answer." : error.message, true);
    }
  }
  if (asking === controller) {
    asking = null;
    if (!drawings.some(hasPoints)) performance.clearMarks("lifted");
  }
  wake();
}

function newEnding(isQuiet = false) {
  if (stroke) return;
  if (mode() === "between" && lines.length && kept) return void showBetween();
  const isMimic = mode() === "mimic" && lines.length > 0;
  const count = isGrid ? about.max_count : 1;
  const what = isMimic ? "The model's own version." : lines.length ? "The model went on." : "A drawing by the model.";
  const several = isMimic ? "Nine versions." : lines.length ? "Nine endings." : "Nine drawings by the model.";
  if (!isQuiet) say("Drawing …");
  answer(isMimic ? "mimic" : "complete", { ...wish(count), lines }, isGrid ? several : what);
}

function showBetween() {
  if (!kept || !lines.length) return;
  say("Drawing …");
  const count = Number(find("steps").value);
  answer("between", { ...wish(count), first: kept, second: lines }, `${count} drawings from A to B.`);
}

function waitForAgain() {
  if (isGrid || isBetween || !find("again").checked || stroke || cursor?.isDown) return;
  again = setTimeout(() => {
    again = 0;
    if (!document.hidden) newEnding(true);
  }, PAUSE_MS);
}

// --- what the person draws

function begin(place, cell, pointer) {
  forget();
  stroke = { points: [place], cell, pointer };
  refresh();
}

function extend(place) {
  const last = stroke.points.at(-1);
  const total = allLines().reduce((sum, line) => sum + line.length, 0);
  if (total >= about.max_points) {
    say(`That is ${about.max_points.toLocaleString()} points, all that fit: undo or clear.`, true);
  } else if (Math.hypot(place[0] - last[0], place[1] - last[1]) >= NEAREST) {
    stroke.points.push(place);
    wake();
  }
}

function lift() {
  performance.mark("lifted");
  lines.push(stroke.points);
  stroke = null;
  if (mode() === "between") {
    say(kept ? "Go from A to this, or keep this as A." : "Keep this as A, then draw B.");
    refresh();
  } else {
    newEnding();
  }
}

function canBegin() {
  const total = lines.reduce((sum, line) => sum + line.length, 0);
  if (total < about.max_points) return true;
  say(`That is ${about.max_points.toLocaleString()} points, all that fit: undo or clear.`, true);
  return false;
}

canvas.addEventListener("pointerdown", (event) => {
  if (stroke || event.button !== 0 || !event.isPrimary || !canBegin()) return;
  canvas.setPointerCapture(event.pointerId);
  cursor = null;
  if (isBetween) {
    isBetween = false;
    view = square();
    picture.numColumns = isGrid ? 3 : 1;
  }
  const cell = picture.cellAt(event);
  begin(picture.placeAt(event, cell, view), cell, event.pointerId);
});

canvas.addEventListener("pointermove", (event) => {
  if (stroke?.pointer !== event.pointerId) return;
  const events = event.getCoalescedEvents?.() ?? [];
  for (const moved of events.length ? events : [event]) {
    extend(picture.placeAt(moved, stroke.cell, view));
  }
});

canvas.addEventListener("pointerup", (event) => {
  if (stroke?.pointer === event.pointerId) lift();
});

canvas.addEventListener("pointercancel", (event) => {
  if (stroke?.pointer !== event.pointerId) return;
  stroke = null;
  refresh();
});

// --- the pen by keys

function movePen(x, y) {
  cursor ??= { place: [about.side / 2, about.side / 2], isDown: false };
  const inside = (v) => Math.min(about.side, Math.max(0, v));
  cursor.place = [inside(cursor.place[0] + x), inside(cursor.place[1] + y)];
  if (cursor.isDown) extend(cursor.place);
  refresh();
}

function pressPen() {
  if (!cursor) return movePen(0, 0);
  if (cursor.isDown) {
    cursor.isDown = false;
    lift();
  } else if (canBegin()) {
    begin(cursor.place, [0, 0], "keys");
    cursor.isDown = true;
  }
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

canvas.addEventListener("keydown", (event) => {
  const arrow = ARROWS[event.key];
  if (arrow) movePen(...arrow.map((v) => v * (event.shiftKey ? FINE_STEP : STEP)));
  else if (event.key === " ") pressPen();
  else return;
  event.preventDefault();
});

canvas.addEventListener("blur", () => {
  if (cursor?.isDown) pressPen();
  cursor = null;
  refresh();
});

// --- the controls

function endStroke() {
  if (cursor) cursor.isDown = false;
  stroke = null;
}

function undo() {
  if (!lines.length) return;
  endStroke();
  forget();
  lines.pop();
  if (lines.length && mode() !== "between") return newEnding();
  say(lines.length ? "Undone." : "Empty. Begin a drawing.");
  refresh();
}

function clear() {
  endStroke();
  forget();
  lines = [];
  say("Empty. Begin a drawing.");
  refresh();
}

function toggleGrid() {
  const had = drawings.length > 0 || lines.length > 0;
  isGrid = !isGrid;
  endStroke();
  forget();
  if (had && mode() !== "between") newEnding();
  else say(isGrid ? "Nine at once." : "One at a time.");
  refresh();
}

function keep() {
  if (!lines.length) return;
  kept = lines;
  clear();
  drawKept();
  say("A is kept. Now draw B.");
}

function drawKept() {
  keptPicture.resize();
  keptPicture.draw([{ person: kept ?? [], model: [], view: viewOf(kept ?? []) }], null);
  if (kept) find("kept").setAttribute("aria-label", `Drawing A, of ${kept.length} strokes`);
}

function changeMode() {
  forget();
  if (lines.length && mode() !== "between") newEnding();
  else say(mode() === "between" ? "Draw A, and keep it; then draw B." : "Begin a drawing.");
  refresh();
  if (mode() === "between") drawKept();
}

async function save(form) {
  if (!lines.length && !drawings.length) return;
  const own = isBetween || mode() === "mimic";
  const begun = own && drawings.length ? [] : lines;
  const endings = drawings.map((drawing) => drawing.linesAt(Infinity));
  try {
    const blob =
      form === "png"
        ? await picture.toBlob(cellsAt(Infinity), PNG_SIDE)
        : await (await post("file", { form, lines: begun, endings })).blob();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `drawing.${form}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    say(`Saved as drawing.${form}.`);
  } catch (error) {
    say(error.message, true);
  }
}

const COMMANDS = {
  n: ["new", () => newEnding()],
  g: ["grid", toggleGrid],
  u: ["undo", undo],
  c: ["clear", clear],
  s: ["save-svg", () => save("svg")],
  a: ["keep", () => mode() === "between" && keep()],
  b: ["show", () => mode() === "between" && showBetween()],
};

for (const [id, command] of Object.values(COMMANDS)) find(id).addEventListener("click", command);
find("save-png").addEventListener("click", () => save("png"));
find("save-json").addEventListener("click", () => save("json"));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  const command = COMMANDS[event.key.toLowerCase()];
  if (!command) return;
  event.preventDefault();
  command[1]();
});

function redo() {
  if (drawings.length && !isBetween) newEnding();
  else if (isBetween) showBetween();
}

find("temperature").addEventListener("input", (event) => {
  find("temperature-shown").textContent = Number(event.target.value).toFixed(2);
});
find("steps").addEventListener("input", (event) => {
  find("steps-shown").textContent = event.target.value;
});
for (const id of ["temperature", "steps", "class"]) find(id).addEventListener("change", redo);
find("modes").addEventListener("change", changeMode);
find("again").addEventListener("change", () => {
  clearTimeout(again);
  again = 0;
  wake();
});
find("controls").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("visibilitychange", wake);
window.addEventListener("resize", () => (drawKept(), wake()));
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (drawKept(), wake()));

async function start() {
  if (still.matches) find("again").checked = false;
  refresh();
  try {
    about = await (await fetch("about")).json();
  } catch {
    return say("The server doesn't answer.", true);
  }
  view = square();
  find("modes").hidden = !about.conditional;
  find("class-choice").hidden = about.classes.length < 2;
  for (const name of about.classes) find("class").append(new Option(name, name));
  refresh();
  const early = "Begin a drawing; until the model is warm, answers take some seconds.";
  if (!about.is_warm) say(early);
  while (!about.is_warm) {
    await new Promise((wake) => setTimeout(wake, 1000));
    try {
      about.is_warm = (await (await fetch("about")).json()).is_warm;
    } catch {
      return say("The server doesn't answer.", true);
    }
    if (find("status").textContent !== early) return;
  }
  say("Ready. Begin a drawing.");
}

start();
