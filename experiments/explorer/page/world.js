// Worlds: start one from a picture, a scene or a file, and take home what was made.

const DOWNLOADS = {
  video: 'video', picture: 'picture', cameras: 'path (JSON)', path: 'path (TUM, KITTI, ..)', ply: 'memory (PLY)',
  colmap: 'COLMAP', nerfstudio: 'nerfstudio', world: 'world file',
};
const byId = (id) => document.getElementById(id);

export class World {
  constructor(connection, say) {
    this.connection = connection;
    this.say = say;
    for (const id of ['file', 'camera', 'folder']) {
      byId(id).addEventListener('change', (event) => {
        this.upload([...event.target.files].map((file) => [file.webkitRelativePath || file.name, file]));
        event.target.value = '';
      });
    }
    byId('again').onclick = () => this.start('');
    addEventListener('dragover', (event) => { event.preventDefault(); document.body.classList.add('dropping'); });
    addEventListener('dragleave', (event) => event.relatedTarget || document.body.classList.remove('dropping'));
    addEventListener('drop', async (event) => {
      event.preventDefault();
      document.body.classList.remove('dropping');
      const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
      const files = [...event.dataTransfer.files].map((file) => [file.name, file]);
      this.upload(entries.some((entry) => entry.isDirectory) ? await inside(entries) : files);
    });
  }

  welcome({ memories, steps }) {
    byId('memory').replaceChildren(...memories.map((name) => new Option(name, name)));
    byId('steps').value = steps;
    byId('downloads').replaceChildren(...Object.entries(DOWNLOADS).map(([kind, words]) => {
      const link = document.createElement('a');
      link.href = `download/${kind}?session=${this.connection.session}`;
      link.textContent = words;
      link.setAttribute('download', '');
      return link;
    }));
  }

  async upload(files) {
    if (!files.length) return;
    const form = new FormData();
    for (const [name, file] of files) form.append('file', file, name);
    this.say('note', 'uploading');
    try {
      const answer = await fetch(`upload?session=${this.connection.session}`, { method: 'POST', body: form });
      const { upload, error } = await answer.json();
      if (error) this.say('error', error);
      else this.start(upload);
    } catch {
      this.say('error', 'The upload did not arrive.');
    }
  }

  start(upload) {
    byId('view').focus({ preventScroll: true }); // where keys walk
    const number = (id) => Number(byId(id).value) || 0;
    this.connection.send('start', {
      upload, memory: byId('memory').value, seed: Math.round(number('seed')), steps: Math.round(number('steps')), fov: number('fov'),
    });
  }
}

async function inside(entries, folder = '') {
  const found = [];
  for (const entry of entries) {
    const name = folder + entry.name;
    if (entry.isFile) found.push([name, await new Promise((good, bad) => entry.file(good, bad))]);
    else {
      const reader = entry.createReader();
      let some;
      do {
        some = await new Promise((good, bad) => reader.readEntries(good, bad));
        found.push(...await inside(some, `${name}/`));
      } while (some.length);
    }
  }
  return found;
}
