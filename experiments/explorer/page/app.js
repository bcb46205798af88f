// The page: what comes from the explorer goes to view, map and timeline, and what a person does goes to it.

import { Input } from './input.js';
import { Chart } from './map.js';
import { Connection } from './socket.js';
import { Timeline } from './timeline.js';
import { View } from './view.js';
import { World } from './world.js';

const byId = (id) => document.getElementById(id);
const connection = new Connection();
const chart = new Chart(byId('map'));
const timeline = new Timeline(byId('branches'), byId('where'), connection);
const view = new View(byId('picture'), byId('overlay'), shown);
const world = new World(connection, say);
const arriving = new Map(), unseen = new Map(); // moments of which pictures are to come; those not on the screen yet
let pressed = 0, latency = null, last = null;

const input = new Input(byId('view'), byId('stick'), {
  moved: (move) => { if (move.tap) pressed ||= performance.now(); connection.send('move', move); },
  looked: (look) => { pressed ||= performance.now(); connection.send('look', look); },
  degrees: () => (view.last ? 2 * Math.atan(0.5 / view.last.lens[0]) * 180 / Math.PI : 64),
});

connection.on('status', ({ text, good }) => { byId('status').textContent = text; byId('status').className = good ? '' : 'bad'; });
connection.on('said', ({ kind, sentence }) => say(kind, sentence));
connection.on('gone', () => { input.release(); busy('', 1); delete document.body.dataset.ready; });
connection.on('busy', ({ what, done }) => busy(what, done));
connection.on('welcome', (facts) => {
  byId('model').textContent = `${facts.name}, ${facts.width}x${facts.height}, ${facts.segment_frames} frames a step`;
  byId('model').title = facts.note;
  byId('prompt').hidden = !facts.text;
  view.size(facts.width, facts.height, facts.fps);
  world.welcome(facts);
});
connection.on('timeline', (message) => {
  if (message.shown >= 0) {
    view.clear();
    delete document.body.dataset.moment; // what is on the screen is of no moment until its pictures come
    arriving.clear();
    unseen.clear();
    chart.things = view.things = [];
    last = null;
  }
  timeline.set(message);
  document.body.dataset.ready = 'yes';
});
connection.on('moment', (message) => {
  arriving.set(message.moment, message);
  unseen.set(message.moment, message);
  last = message;
});
connection.on('picture', (frame) => {
  if (frame.index === frame.count - 1 && arriving.has(frame.moment)) {
    timeline.add(arriving.get(frame.moment), [frame.pose[3], frame.pose[7], frame.pose[11]]);
    arriving.delete(frame.moment);
  }
  view.add(frame);
});
connection.on('cloud', (points) => { chart.points(points); byId('points').textContent = `${chart.count.toLocaleString('en')} points`; });

function shown(frame, now) {
  if (frame.index === 0) {
    const message = unseen.get(frame.moment);
    if (message) {
      chart.things = view.things = message.things;
      unseen.delete(frame.moment);
      if (pressed) { latency = now - pressed; pressed = 0; }
      connection.send('shown', { moment: frame.moment });
    }
  }
  chart.pose = frame.pose;
  chart.path = timeline.path;
  chart.draw();
  document.body.dataset.moment = frame.moment;
  document.body.dataset.last = frame.index === frame.count - 1 ? 'yes' : 'no';
}

setInterval(() => {
  const parts = [`${view.rate} fps`];
  if (latency !== null) parts.push(`key to picture ${Math.round(latency)} ms`);
  if (last) parts.push(`model ${Math.round(1000 * last.seconds.model)} ms`, `remembered ${Math.round(100 * last.remembered)} %`);
  byId('hud').textContent = parts.join('\n');
  if (latency !== null) document.body.dataset.latency = Math.round(latency);
}, 300);

function busy(what, done) {
  byId('busy').hidden = !what;
  byId('busy').firstElementChild.textContent = what;
  byId('busy').lastElementChild.value = done;
}

function say(kind, sentence) {
  const line = document.createElement('p');
  line.className = kind;
  line.textContent = sentence;
  for (const before of [...byId('said').children]) if (before.textContent === sentence) before.remove();
  byId('said').append(line);
  while (byId('said').children.length > 4) byId('said').firstElementChild.remove();
  setTimeout(() => line.remove(), kind === 'note' ? 6000 : 12000);
}

function setMode(mode) {
  byId('mode').value = view.mode = mode;
  byId('legend').innerHTML = {
    off: '',
    memory: '<b class="remembered"></b>remembered<b class="new"></b>new<b class="thing"></b>moves',
    age: '<b class="young"></b>just seen<b class="old"></b>20 s ago',
  }[mode];
  view.lay();
}

byId('mode').onchange = (event) => { setMode(event.target.value); event.target.blur(); };
byId('things').onchange = (event) => { view.showThings = event.target.checked; view.lay(); };
byId('pace').oninput = (event) => { input.pace = Number(event.target.value); };
byId('pace').onchange = (event) => event.target.blur();
byId('undo').onclick = () => connection.send('undo');
byId('redo').onclick = () => connection.send('redo');
byId('fork').onclick = () => connection.send('fork', { moment: timeline.cursor });
byId('prompt').onsubmit = (event) => {
  event.preventDefault();
  connection.send('prompt', { text: byId('text').value });
  say('note', byId('text').value ? 'said; it counts from the next step on' : 'no prompt from here on');
  byId('text').blur();
};
for (const radio of document.querySelectorAll('[name=look]')) {
  radio.onchange = () => { chart.above = radio.value === 'above'; chart.zoom = 1; chart.draw(); radio.blur(); };
}
addEventListener('resize', () => view.lay());
addEventListener('keydown', (event) => {
  if (['INPUT', 'SELECT'].includes(event.target.tagName)) return;
  const command = event.ctrlKey || event.metaKey;
  if (command && event.code === 'KeyZ') connection.send(event.shiftKey ? 'redo' : 'undo');
  else if (command && event.code === 'KeyY') connection.send('redo');
  else if (!command && event.code === 'KeyO') setMode({ off: 'memory', memory: 'age', age: 'off' }[view.mode]);
  else if (!command && event.code === 'KeyM') document.querySelector(`[name=look][value=${chart.above ? 'space' : 'above'}]`).click();
  else return;
  event.preventDefault();
});
