// Keys, mouse, finger and stick: what is held, and how far the view was dragged.

const KEYS = {
  KeyW: ['forward', 1], KeyS: ['forward', -1], ArrowUp: ['forward', 1], ArrowDown: ['forward', -1],
  KeyD: ['right', 1], KeyA: ['right', -1], ArrowRight: ['yaw', 1], ArrowLeft: ['yaw', -1],
  KeyR: ['pitch', 1], KeyF: ['pitch', -1], KeyQ: ['up', 1], KeyE: ['up', -1],
};

export class Input {
  constructor(view, stick, { moved, looked, degrees }) {
    this.held = new Set();
    this.stick = [0, 0];
    this.pace = 1;
    this.moved = moved;
    addEventListener('keydown', (event) => this.key(event, true));
    addEventListener('keyup', (event) => this.key(event, false));
    addEventListener('blur', () => this.release());
    document.addEventListener('visibilitychange', () => document.hidden && this.release());
    this.drag(view, looked, degrees);
    this.joystick(stick);
  }

  key(event, down) {
    const writes = ['INPUT', 'SELECT', 'TEXTAREA'].includes(event.target.tagName) && event.target.type !== 'checkbox';
    if (!(event.code in KEYS) || event.ctrlKey || event.metaKey || event.altKey || (writes && down)) return;
    if (down) event.preventDefault();
    if (down === this.held.has(event.code)) return;
    if (down) this.held.add(event.code);
    else this.held.delete(event.code);
    this.send(down);
  }

  release() {
    if (!this.held.size && !this.stick[0] && !this.stick[1]) return;
    this.held.clear();
    this.stick = [0, 0];
    this.send(false);
  }

  send(tap) {
    const move = { forward: this.stick[1], right: this.stick[0], up: 0, yaw: 0, pitch: 0 };
    for (const code of this.held) move[KEYS[code][0]] += KEYS[code][1];
    for (const name of Object.keys(move)) move[name] = Math.max(-1, Math.min(1, move[name]));
    this.moved({ ...move, pace: this.pace, tap });
  }

  drag(view, looked, degrees) {
    let from = null, waiting = [0, 0], timer = null;
    const flush = () => {
      timer = null;
      if (waiting[0] || waiting[1]) looked({ yaw: waiting[0], pitch: waiting[1] });
      waiting = [0, 0];
    };
    view.addEventListener('pointerdown', (event) => {
      if (event.target.closest('#stick')) return;
      from = [event.clientX, event.clientY];
      view.setPointerCapture(event.pointerId);
      view.focus({ preventScroll: true });
    });
    view.addEventListener('pointermove', (event) => {
      if (!from) return;
      const scale = degrees() / view.clientWidth;
      const clip = (value) => Math.max(-180, Math.min(180, value));
      waiting = [clip(waiting[0] - (event.clientX - from[0]) * scale), clip(waiting[1] + (event.clientY - from[1]) * scale)];
      from = [event.clientX, event.clientY];
      timer ??= setTimeout(flush, 60);
    });
    for (const end of ['pointerup', 'pointercancel']) view.addEventListener(end, () => { from = null; });
  }

  joystick(stick) {
    const knob = stick.firstElementChild;
    let active = false;
    const set = (x, y, tap) => {
      this.stick = [x, y];
      knob.style.transform = `translate(${x * 30}px, ${-y * 30}px)`;
      this.send(tap);
    };
    const place = (event, tap) => {
      const box = stick.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * 2 - 1, y = 1 - (event.clientY - box.top) / box.height * 2;
      const length = Math.max(1, Math.hypot(x, y));
      set(Math.round(x / length * 10) / 10, Math.round(y / length * 10) / 10, tap);
    };
    stick.addEventListener('pointerdown', (event) => {
      active = true;
      stick.setPointerCapture(event.pointerId);
      place(event, true);
      event.stopPropagation();
    });
    stick.addEventListener('pointermove', (event) => active && place(event, false));
    for (const end of ['pointerup', 'pointercancel']) stick.addEventListener(end, () => { active = false; set(0, 0, false); });
  }
}
