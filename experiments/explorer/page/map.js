// The memory from above and in space: points, the path, the camera and what moves, in WebGL.

const VERTEX = `
attribute vec3 place; attribute vec3 colour; uniform mat4 matrix; uniform float size, cut; varying vec3 tone; varying float high;
void main() { gl_Position = matrix * vec4(place, 1.0); gl_PointSize = clamp(size / gl_Position.w, 2.0, 14.0); tone = colour; high = cut - place.y; }`;
const FRAGMENT = `
precision mediump float; varying vec3 tone; varying float high;
void main() { if (high > 0.0) discard; gl_FragColor = vec4(tone, 1.0); }`;

export class Chart {
  constructor(canvas) {
    this.canvas = canvas;
    this.gl = canvas.getContext('webgl', { antialias: true, preserveDrawingBuffer: true });
    this.above = true;
    this.turn = 0.6;
    this.tilt = 0.7;
    this.zoom = 1;
    this.count = 0;
    this.room = 0;
    this.places = new Float32Array(0);
    this.colours = new Uint8Array(0);
    this.path = [];
    this.things = [];
    this.pose = null;
    this.asked = false;
    if (!this.gl) return;
    const gl = this.gl, program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.bindAttribLocation(program, 0, 'place');
    gl.bindAttribLocation(program, 1, 'colour');
    gl.linkProgram(program);
    gl.useProgram(program);
    gl.enable(gl.DEPTH_TEST);
    gl.enableVertexAttribArray(0);
    gl.enableVertexAttribArray(1);
    this.where = Object.fromEntries(['matrix', 'size', 'cut'].map((name) => [name, gl.getUniformLocation(program, name)]));
    this.buffers = [0, 1, 2, 3].map(() => gl.createBuffer());
    this.mouse();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  points({ first, places, colours }) {
    const count = first + places.length / 3;
    if (count > this.room) {
      this.room = Math.max(4096, 1 << Math.ceil(Math.log2(count)));
      const grown = [new Float32Array(3 * this.room), new Uint8Array(3 * this.room)];
      grown[0].set(this.places.subarray(0, 3 * this.count));
      grown[1].set(this.colours.subarray(0, 3 * this.count));
      [this.places, this.colours] = grown;
    }
    this.places.set(places, 3 * first);
    this.colours.set(colours, 3 * first);
    this.count = count;
    this.stale = true;
    this.draw();
  }

  draw() {
    if (this.asked || !this.gl) return;
    this.asked = true;
    requestAnimationFrame(() => { this.asked = false; this.paint(); });
  }

  paint() {
    const { gl, canvas } = this;
    const width = Math.round(canvas.clientWidth * devicePixelRatio), height = Math.round(canvas.clientHeight * devicePixelRatio);
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    gl.viewport(0, 0, width, height);
    gl.clearColor(0.05, 0.063, 0.075, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const bounds = this.bounds();
    gl.uniformMatrix4fv(this.where.matrix, false, this.matrix(bounds, width / height));
    gl.uniform1f(this.where.size, this.above ? 4 * devicePixelRatio * this.zoom : 11 * devicePixelRatio * bounds.radius * this.zoom);
    // From above the ceiling would hide the room: what is well over the camera is left out.
    gl.uniform1f(this.where.cut, this.above && this.pose ? this.pose[7] - 0.15 * bounds.tall : -1e9);
    this.attribute(0, this.buffers[0], this.stale ? this.places.subarray(0, 3 * this.count) : null, gl.FLOAT, false);
    this.attribute(1, this.buffers[1], this.stale ? this.colours.subarray(0, 3 * this.count) : null, gl.UNSIGNED_BYTE, true);
    this.stale = false;
    gl.drawArrays(gl.POINTS, 0, this.count);
    gl.uniform1f(this.where.cut, -1e9);
    gl.disable(gl.DEPTH_TEST);
    this.line(this.path, [255, 157, 66], gl.LINE_STRIP);
    for (const thing of this.things) this.line(thing.path, [255, 95, 168], gl.LINE_STRIP);
    if (this.pose) this.line(frustum(this.pose, 0.09 * bounds.radius), [255, 255, 255], gl.LINES);
    gl.enable(gl.DEPTH_TEST);
  }

  line(places, colour, kind) {
    if (places.length < 2) return;
    const { gl } = this;
    this.attribute(0, this.buffers[2], new Float32Array(places.flat()), gl.FLOAT, false);
    this.attribute(1, this.buffers[3], new Uint8Array(places.flatMap(() => colour)), gl.UNSIGNED_BYTE, true);
    gl.drawArrays(kind, 0, places.length);
  }

  attribute(place, buffer, values, kind, normalised) {
    const { gl } = this;
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    if (values) gl.bufferData(gl.ARRAY_BUFFER, values, gl.DYNAMIC_DRAW);
    gl.vertexAttribPointer(place, 3, kind, normalised, 0, 0);
  }

  bounds() {
    // Of most points: a few far ones would make everything else small.
    const axes = [[], [], []], step = Math.max(1, Math.floor(this.count / 2000));
    for (let i = 0; i < this.count; i += step) for (let a = 0; a < 3; a++) axes[a].push(this.places[3 * i + a]);
    const ends = axes.map((values, a) => {
      values.sort((x, y) => x - y);
      const cut = Math.floor(values.length * 0.02), here = this.pose ? [this.pose[4 * a + 3]] : [];
      const most = values.length ? [values[cut], values[values.length - 1 - cut], ...here] : here;
      return most.length ? [Math.min(...most), Math.max(...most)] : [-1, 1];
    });
    const centre = ends.map(([low, high]) => (low + high) / 2);
    const radius = Math.max(1, Math.hypot(ends[0][1] - ends[0][0], ends[2][1] - ends[2][0]) / 2);
    return { centre, radius, tall: Math.max(0.5, ends[1][1] - ends[1][0]) };
  }

  matrix({ centre, radius }, aspect) {
    const sx = 0.9 * this.zoom / Math.max(1, aspect) / radius, sy = sx * aspect;
    if (this.above) { // x to the right, z up, high points (small y) near
      return new Float32Array([sx, 0, 0, 0, 0, 0, 1e-3, 0, 0, sy, 0, 0, -centre[0] * sx, -centre[2] * sy, -centre[1] * 1e-3, 1]);
    }
    const [ct, st, cp, sp] = [Math.cos(this.turn), Math.sin(this.turn), Math.cos(this.tilt), Math.sin(this.tilt)];
    const right = [ct, 0, st], back = [st * cp, -sp, -ct * cp], up = [-st * sp, -cp, ct * sp];
    const far = 2.6 * radius / this.zoom, focal = 1.6;
    const dot = (u, v) => u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
    const near = 0.02 * far, end = far + 8 * radius, a = -(end + near) / (end - near), b = -2 * end * near / (end - near);
    const rows = [right, up, back], shift = [-dot(right, centre), -dot(up, centre), -dot(back, centre) - far];
    const columns = [0, 1, 2].map((i) => [focal / Math.max(aspect, 0.01) * rows[0][i], focal * rows[1][i], a * rows[2][i], -rows[2][i]]);
    return new Float32Array([...columns.flat(), focal / Math.max(aspect, 0.01) * shift[0], focal * shift[1], a * shift[2] + b, -shift[2]]);
  }

  mouse() {
    let from = null;
    this.canvas.addEventListener('pointerdown', (event) => { from = [event.clientX, event.clientY]; this.canvas.setPointerCapture(event.pointerId); });
    this.canvas.addEventListener('pointerup', () => { from = null; });
    this.canvas.addEventListener('pointermove', (event) => {
      if (!from) return;
      this.turn += (event.clientX - from[0]) * 0.01;
      this.tilt = Math.max(-0.2, Math.min(1.5, this.tilt + (event.clientY - from[1]) * 0.01));
      from = [event.clientX, event.clientY];
      this.draw();
    });
    this.canvas.addEventListener('wheel', (event) => {
      event.preventDefault();
      this.zoom = Math.max(0.3, Math.min(8, this.zoom * Math.exp(-event.deltaY * 0.001)));
      this.draw();
    }, { passive: false });
  }
}

function frustum(pose, size) {
  const at = (x, y, z) => [0, 4, 8].map((row) => pose[row] * x + pose[row + 1] * y + pose[row + 2] * z + pose[row + 3]);
  const eye = at(0, 0, 0), corners = [[-1, -1], [1, -1], [1, 1], [-1, 1]].map(([x, y]) => at(0.62 * x * size, 0.62 * y * size, size));
  return corners.flatMap((corner, i) => [eye, corner, corner, corners[(i + 1) % 4]]);
}
