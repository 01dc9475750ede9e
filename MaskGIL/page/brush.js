// A picture to edit: opened from a file, painted on where it is to be drawn anew, or pulled larger.

const GREY = "#808080"; // as all that is hidden
const KEPT = 30; // strokes that can be taken back
const GRIP = 0.3; // share of a side from which it is pulled
const KEYS = "The picture: arrows move the brush, space paints, shift paints on the way";
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Easel {
  // stride: pixels of a token; bounds: the most to go on by on each side; pulled(sides) is called
  constructor(width, height, stride, bounds, pulled) {
    Object.assign(this, { size: [width, height], stride, bounds, pulled });
    Object.assign(this, { radius: 4, erases: false, url: "", before: [], kind: "", sides: {} });
    this.tile = element("div", "tile");
    this.original = element("canvas");
    this.picture = this.tile.appendChild(element("canvas"));
    this.paint = this.tile.appendChild(element("canvas", "paint coarse"));
    this.ring = this.tile.appendChild(element("div", "ring"));
    this.at = [width / 2, height / 2]; // where the keys paint
    for (const canvas of [this.original, this.paint]) [canvas.width, canvas.height] = this.size;
    this.picture.classList.toggle("coarse", width < 200);
    this.context = this.paint.getContext("2d", { willReadFrequently: true });
    for (const name of ["pointerdown", "pointermove"]) {
      this.tile.addEventListener(name, (event) => (this.kind === "outpaint" ? this.pull(event) : this.stroke(event)));
    }
    this.tile.addEventListener("keydown", (event) => this.key(event));
  }

  // The middle of a picture, as large as the generator's own
  async open(url) {
    const picture = new Image();
    picture.src = url;
    await picture.decode();
    const [width, height] = this.size;
    const factor = Math.max(width / picture.width, height / picture.height);
    const [wide, high] = [picture.width * factor, picture.height * factor];
    const context = this.original.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingEnabled = factor !== 1;
    context.drawImage(picture, (width - wide) / 2, (height - high) / 2, wide, high);
    this.url = this.original.toDataURL("image/png");
    this.clear();
  }

  look(kind, sides) {
    Object.assign(this, { kind, sides });
    const { left, right, top, bottom } = kind === "outpaint" ? sides : { left: 0, right: 0, top: 0, bottom: 0 };
    const [width, height] = this.size;
    this.paint.hidden = this.ring.hidden = kind !== "inpaint";
    this.tile.tabIndex = kind === "inpaint" ? 0 : -1; // sides have numbers, which keys reach
    this.tile.role = kind === "inpaint" ? "application" : null;
    this.tile.ariaLabel = kind === "inpaint" ? KEYS : null;
    this.aim(this.at);
    this.tile.classList.toggle("pulled", kind === "outpaint");
    [this.picture.width, this.picture.height] = [width + left + right, height + top + bottom];
    const context = this.picture.getContext("2d");
    context.fillStyle = GREY;
    context.fillRect(0, 0, this.picture.width, this.picture.height);
    context.drawImage(this.original, left, top);
  }

  // From where the pointer was to where it is
  stroke(event) {
    if (!(event.buttons & 1)) return;
    event.preventDefault();
    const box = this.paint.getBoundingClientRect();
    const [width, height] = this.size;
    const point = [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
    if (event.type === "pointerdown") {
      this.tile.setPointerCapture(event.pointerId);
      this.begin();
      this.last = point;
    }
    this.draw(this.last ?? point, point);
    this.last = point;
  }

  // Arrows move a ring from token to token; space paints within it, and shift on its way
  key(event) {
    if (this.kind !== "inpaint" || event.ctrlKey || event.metaKey || event.altKey) return;
    const from = this.at;
    const move = MOVES[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    if (!move && event.repeat) return; // else undo would take back nothing many times
    if (move) this.aim(from.map((place, axis) => clamp(place + move[axis] * this.stride, this.size[axis])));
    if (move && !event.shiftKey) return;
    this.begin();
    this.draw(from, this.at);
  }

  aim(at) {
    this.at = at;
    const [width, height] = this.size;
    const [left, top, wide] = [at[0] / width, at[1] / height, (2 * this.radius) / width];
    Object.assign(this.ring.style, { left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * wide}%` });
  }

  // A brush of another radius
  take(radius) {
    this.radius = radius;
    this.aim(this.at);
  }

  begin() {
    this.before = [...this.before, this.context.getImageData(0, 0, ...this.size)].slice(-KEPT);
  }

  draw(from, to) {
    const context = this.context;
    context.globalCompositeOperation = this.erases ? "destination-out" : "source-over";
    Object.assign(context, { fillStyle: GREY, strokeStyle: GREY, lineCap: "round", lineWidth: 2 * this.radius });
    context.beginPath();
    context.arc(...to, this.radius, 0, 2 * Math.PI);
    context.fill();
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
  }

  // A side that is taken near it follows the pointer, token by token
  pull(event) {
    if (!(event.buttons & 1)) return;
    event.preventDefault();
    const box = this.tile.getBoundingClientRect();
    if (event.type === "pointerdown") {
      this.tile.setPointerCapture(event.pointerId);
      const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      const taken = { left: x < GRIP, right: x > 1 - GRIP, top: y < GRIP, bottom: y > 1 - GRIP };
      this.grip = { x: event.clientX, y: event.clientY, pixel: box.width / this.picture.width, taken, sides: this.sides };
    }
    if (!this.grip) return;
    const { x, y, pixel, taken, sides } = this.grip;
    const [right, down] = [(event.clientX - x) / pixel, (event.clientY - y) / pixel];
    const moved = { left: -right, right, top: -down, bottom: down };
    const found = { ...sides };
    for (const side in moved) {
      const wanted = Math.round((sides[side] + moved[side]) / this.stride) * this.stride;
      if (taken[side]) found[side] = clamp(wanted, this.bounds[side][1]);
    }
    this.pulled(found);
  }

  undo() {
    const before = this.before.pop();
    if (before) this.context.putImageData(before, 0, 0);
  }

  clear() {
    this.before = [];
    this.context.clearRect(0, 0, ...this.size);
  }

  // White where anything is painted, black elsewhere
  mask() {
    const canvas = element("canvas");
    [canvas.width, canvas.height] = this.size;
    const painted = this.context.getImageData(0, 0, ...this.size);
    for (let i = 0; i < painted.data.length; i += 4) {
      painted.data.fill(painted.data[i + 3] > 64 ? 255 : 0, i, i + 3);
      painted.data[i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(painted, 0, 0);
    return canvas.toDataURL("image/png");
  }
}

function clamp(value, high) {
  return Math.min(Math.max(value, 0), high);
}

export function element(name, classes = "", text = "") {
  const made = document.createElement(name);
  made.className = classes;
  made.textContent = text;
  return made;
}
