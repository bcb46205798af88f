// The view: pictures in their order at the model's pace, and what is laid over them.

const TINTS = [[255, 157, 66], [93, 178, 255], [255, 95, 168]]; // new, remembered, a thing that moves

export class View {
  constructor(picture, overlay, shown) {
    this.picture = picture.getContext('2d');
    this.overlay = overlay.getContext('2d');
    this.shown = shown;
    this.queue = [];
    this.decoding = Promise.resolve();
    this.epoch = 0;
    this.fps = 15;
    this.due = 0;
    this.mode = 'off';
    this.showThings = true;
    this.things = [];
    this.last = null;
    this.drawn = [];
    requestAnimationFrame((now) => this.tick(now));
  }

  size(width, height, fps) {
    this.picture.canvas.width = width;
    this.picture.canvas.height = height;
    this.fps = fps;
  }

  clear() {
    this.epoch += 1;
    this.queue = [];
    this.due = 0;
  }

  add(frame) {
    const epoch = this.epoch;
    this.decoding = this.decoding.then(async () => {
      frame.bitmap = await createImageBitmap(frame.jpeg);
      if (epoch === this.epoch) this.queue.push(frame);
    }).catch(() => {});
  }

  tick(now) {
    requestAnimationFrame((later) => this.tick(later));
    if (!this.queue.length || now < this.due) return;
    const frame = this.queue.shift();
    const hurry = this.queue.length > frame.count ? 0.5 : 1;
    this.due = Math.max(this.due, now - 1000 / this.fps) + hurry * 1000 / this.fps;
    this.draw(frame);
    this.drawn.push(now);
    while (this.drawn.length && this.drawn[0] < now - 1000) this.drawn.shift();
    this.shown(frame, now);
  }

  get rate() {
    const since = performance.now() - 1000;
    return this.drawn.filter((time) => time > since).length;
  }

  draw(frame) {
    this.last = frame;
    this.picture.drawImage(frame.bitmap, 0, 0, this.picture.canvas.width, this.picture.canvas.height);
    this.lay();
  }

  lay() {
    const { canvas } = this.overlay;
    const width = Math.max(canvas.clientWidth, 1) * devicePixelRatio, height = Math.max(canvas.clientHeight, 1) * devicePixelRatio;
    if (canvas.width !== Math.round(width) || canvas.height !== Math.round(height)) {
      canvas.width = width;
      canvas.height = height;
    }
    this.overlay.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.last) return;
    if (this.mode !== 'off' && this.last.rows > 1) this.tint(this.last);
    if (this.showThings) this.paths(this.last);
  }

  tint(frame) {
    const cellWidth = this.overlay.canvas.width / frame.columns, cellHeight = this.overlay.canvas.height / frame.rows;
    for (let row = 0; row < frame.rows; row++) {
      for (let column = 0; column < frame.columns; column++) {
        const cell = row * frame.columns + column, kind = frame.kind[cell];
        const age = Math.min(frame.age[cell] / 200, 1);
        if (this.mode === 'age' && kind === 0) continue;
        this.overlay.fillStyle = this.mode === 'age'
          ? `hsl(${190 - 190 * age} 90% 55% / ${kind === 2 ? 0.65 : 0.45})`
          : `rgb(${TINTS[kind].join(' ')} / 0.38)`;
        const [left, top] = [Math.round(column * cellWidth), Math.round(row * cellHeight)]; // whole, so that no seam shows
        this.overlay.fillRect(left, top, Math.round((column + 1) * cellWidth) - left, Math.round((row + 1) * cellHeight) - top);
      }
    }
  }

  paths(frame) {
    const { width, height } = this.overlay.canvas;
    for (const thing of this.things) {
      const at = thing.path.map((place) => project(place, frame, width, height)).filter(Boolean);
      if (!at.length) continue;
      this.overlay.strokeStyle = this.overlay.fillStyle = `rgb(${TINTS[2].join(' ')})`;
      this.overlay.lineWidth = 2 * devicePixelRatio;
      this.overlay.beginPath();
      at.forEach(([x, y], index) => (index ? this.overlay.lineTo(x, y) : this.overlay.moveTo(x, y)));
      this.overlay.stroke();
      this.overlay.beginPath();
      this.overlay.arc(at[0][0], at[0][1], 4 * devicePixelRatio, 0, 7);
      this.overlay.fill();
      const words = thing.age ? `${thing.age.toFixed(1)} s ago` : '';
      this.overlay.font = `${11 * devicePixelRatio}px sans-serif`;
      this.overlay.fillText(words, at[0][0] + 7 * devicePixelRatio, at[0][1]);
    }
  }
}

function project([x, y, z], { pose, lens }, width, height) {
  const d = [x - pose[3], y - pose[7], z - pose[11]];
  const local = [0, 1, 2].map((i) => d[0] * pose[i] + d[1] * pose[4 + i] + d[2] * pose[8 + i]);
  if (local[2] < 0.05) return null;
  return [(lens[0] * local[0] / local[2] + lens[2]) * width, (lens[1] * local[1] / local[2] + lens[3]) * height];
}
