// Time: branches one under the other, each its moments as small pictures; a click goes there.

const MOST = 120; // moments of a branch that are shown; of more, so many spread evenly

export class Timeline {
  constructor(place, where, connection) {
    this.place = place;
    this.where = where;
    this.connection = connection;
    this.branches = [];
    this.cursor = this.branch = -1;
  }

  set({ branches, branch, cursor }) {
    Object.assign(this, { branches, branch, cursor });
    this.render();
  }

  add({ moment, parent, branch }, place) {
    const found = this.branches.find((one) => one.branch === branch);
    if (!found || !found.moments.some(([number]) => number === parent)) return;
    found.moments.push([moment, ...place]);
    this.branch = branch;
    this.cursor = moment;
    this.render();
  }

  get path() {
    const found = this.branches.find((one) => one.branch === this.branch);
    if (!found) return [];
    const end = found.moments.findIndex(([number]) => number === this.cursor);
    return found.moments.slice(0, end + 1).map((moment) => moment.slice(1));
  }

  render() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => { this.pending = false; this.paint(); });
  }

  paint() {
    const rows = this.branches.map((branch) => this.row(branch));
    this.place.replaceChildren(...rows);
    for (const here of this.place.querySelectorAll('.branch.here .moments button.here')) {
      const row = here.parentElement;
      row.scrollLeft = here.offsetLeft - row.offsetLeft - row.clientWidth / 2;
      this.place.scrollTop = row.offsetTop - this.place.offsetTop - this.place.clientHeight / 2;
    }
    const mine = this.branches.find((one) => one.branch === this.branch);
    const at = mine ? mine.moments.findIndex(([number]) => number === this.cursor) : -1;
    this.where.textContent = mine ? `${mine.name}, ${at + 1} of ${mine.moments.length}` : '';
    document.body.dataset.cursor = this.cursor;
    document.body.dataset.branches = this.branches.length;
  }

  row(branch) {
    const row = document.createElement('div'), name = document.createElement('button'), moments = document.createElement('div');
    const here = branch.branch === this.branch;
    row.className = here ? 'branch here' : 'branch';
    name.textContent = branch.name;
    name.title = 'to the end of this branch';
    name.onclick = () => this.connection.send('switch', { branch: branch.branch });
    moments.className = 'moments';
    for (const [number] of this.chosen(branch.moments)) {
      const button = document.createElement('button'), image = document.createElement('img');
      image.src = `thumbnail/${number}?session=${this.connection.session}`;
      image.alt = `moment ${number}`;
      button.title = `moment ${number}`;
      button.dataset.moment = number;
      if (here && number === this.cursor) button.className = 'here';
      button.tabIndex = button.className ? 0 : -1; // one stop a row at most: undo and redo walk through it
      button.onclick = () => this.connection.send('jump', { moment: number });
      button.append(image);
      moments.append(button);
    }
    row.append(name, moments);
    return row;
  }

  chosen(moments) {
    if (moments.length <= MOST) return moments;
    const last = moments.length - 1, wanted = new Set(Array.from({ length: MOST }, (_, i) => Math.round(i * last / (MOST - 1))));
    wanted.add(moments.findIndex(([number]) => number === this.cursor));
    return moments.filter((_, index) => wanted.has(index));
  }
}
