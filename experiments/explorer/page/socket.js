// The connection: messages by type, pictures and points as objects, and another try where it breaks.

const NAME = 'explorer-session';

export class Connection extends EventTarget {
  constructor() {
    super();
    this.session = sessionStorage.getItem(NAME) || '';
    this.wait = 500;
    this.open();
  }

  open() {
    const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
    this.socket = new WebSocket(`${scheme}://${location.host}/socket?session=${encodeURIComponent(this.session)}`);
    this.socket.binaryType = 'arraybuffer';
    this.socket.onopen = () => { this.wait = 500; this.tell('status', { text: 'connected', good: true }); };
    this.socket.onmessage = (event) => {
      if (typeof event.data === 'string') this.text(JSON.parse(event.data));
      else this.binary(event.data);
    };
    this.socket.onclose = (event) => this.closed(event);
  }

  text(message) {
    if (message.type === 'welcome') {
      if (this.session && this.session !== message.session) {
        this.tell('said', { kind: 'warning', sentence: 'The explorer knows nothing of the worlds of this tab any more: this is a new one.' });
      }
      this.session = message.session;
      sessionStorage.setItem(NAME, this.session);
    }
    this.tell(message.type, message);
  }

  binary(buffer) {
    const data = new DataView(buffer);
    if (data.getUint8(0) === 1) this.tell('picture', readPicture(data, buffer));
    else this.tell('cloud', readPoints(data, buffer));
  }

  closed(event) {
    this.tell('gone', {});
    if (event.code === 4001) return this.tell('status', { text: 'this session is open in another tab', good: false });
    if (event.code === 1013) return this.tell('status', { text: 'no seat; reload to try again', good: false });
    if (event.code === 1009) this.tell('said', { kind: 'error', sentence: 'A message was too large; the explorer hung up.' });
    this.tell('status', { text: 'the explorer does not answer; trying again', good: false });
    setTimeout(() => this.open(), this.wait);
    this.wait = Math.min(this.wait * 1.6, 5000);
  }

  send(type, fields = {}) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type, ...fields }));
  }

  tell(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }
  on(type, act) { this.addEventListener(type, (event) => act(event.detail)); }
}

function readPicture(data, buffer) {
  const rows = data.getUint8(12), columns = data.getUint8(13), cells = rows * columns, head = 94;
  const floats = (at, count) => Array.from({ length: count }, (_, i) => data.getFloat32(at + 4 * i, true));
  return {
    index: data.getUint16(2, true), moment: data.getUint32(4, true), count: data.getUint16(8, true),
    rows, columns, pose: floats(14, 16), lens: floats(78, 4),
    kind: new Uint8Array(buffer, head, cells), age: new Uint8Array(buffer, head + cells, cells),
    jpeg: new Blob([new Uint8Array(buffer, head + 2 * cells)], { type: 'image/jpeg' }),
  };
}

function readPoints(data, buffer) {
  const first = data.getUint32(4, true), count = data.getUint32(8, true);
  return { first, places: new Float32Array(buffer, 12, 3 * count), colours: new Uint8Array(buffer, 12 + 12 * count, 3 * count) };
}
