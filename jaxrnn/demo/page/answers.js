// What the server answers: pieces of points, and when each point is reached by the pen.

const SPEED = 0.7; // units of the page in a millisecond
const LEAST_MS = 12; // from one point to the next

// POSTs a request and hands on the points of each line of the answer as it comes.
export async function ask(path, request, signal, onPoints) {
  const response = await post(path, request, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let isDone = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.map((text) => JSON.parse(text))) {
      if (line.points) onPoints(line.points);
      isDone ||= line.done === true;
    }
  }
  if (!isDone) throw new Error("the answer broke off; the server's terminal says why");
}

// POSTs a request; gives the response, or throws what the server says is wrong with it.
export async function post(path, request, signal) {
  const response = await fetch(path, { method: "POST", body: JSON.stringify(request), signal });
  if (!response.ok) {
    const reason = await response.json().catch(() => ({ error: `status ${response.status}` }));
    throw new Error(reason.error);
  }
  return response;
}

// A drawing of the model that is drawn at a pen's pace while its points still come.
export class Drawing {
  constructor(isAtOnce) {
    this.points = []; // [x, y, lifted]
    this.times = []; // at which each is reached
    this.pace = isAtOnce ? 0 : 1;
  }

  add(points, now) {
    for (const point of points) {
      const last = this.points.at(-1);
      const moved = last ? Math.hypot(point[0] - last[0], point[1] - last[1]) : 0;
      const before = Math.max(now, this.times.at(-1) ?? now);
      const delay = last ? Math.max(LEAST_MS, moved / SPEED) : 0;
      this.times.push(before + this.pace * delay);
      this.points.push(point);
    }
  }

  isShown(now) {
    return !(this.times.at(-1) > now);
  }

  // Its lines as far as they are drawn at a time.
  linesAt(now) {
    const lines = [[]];
    let last = null;
    for (const [k, point] of this.points.entries()) {
      if (this.times[k] > now) {
        const start = this.times[k - 1];
        if (last && !last[2] && start < now) {
          const share = (now - start) / (this.times[k] - start);
          const along = [0, 1].map((i) => last[i] + share * (point[i] - last[i]));
          lines.at(-1).push(along);
        }
        break;
      }
      lines.at(-1).push(point.slice(0, 2));
      if (point[2]) lines.push([]);
      last = point;
    }
    return lines.filter((line) => line.length);
  }
}
