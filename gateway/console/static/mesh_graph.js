// The mesh, alive: a picture on canvas, what needs attention beside it, the same as a table below. What it is told:
// see frames.py. Where nodes are drawn is reckoned by `arrange`; figures that moved only draw it again.
const ID = 0, STATE = 1, WORK = 2, LOAD = 3, RUNNING = 4, RTT = 5, LINK = 6, IN = 7, OUT = 8, WORKERS = 9, ROLES = 10,
  LABELS = 11, RESTARTS = 12, SEEN = 13, REASON = 14;
const UP = 0, DOWN = 1, UNSEEN = 2, PENDING = 3;
const RING_MAX = 18, GOLDEN = Math.PI * (3 - Math.sqrt(5)), PITCH = 0.56, ROOM = 2.4, DOTS_MAX = 150, PAGE = 20;

// ── where nodes are ──────────────────────────────────────────────────────────────────────────────────────────────
export function natural(a, b) {
  const x = a.match(/\d+|\D+/g) || [], y = b.match(/\d+|\D+/g) || [];
  for (let i = 0; i < Math.min(x.length, y.length); i++) {
    if (x[i] === y[i]) continue;
    const p = Number(x[i]), q = Number(y[i]);
    if (!Number.isNaN(p) && !Number.isNaN(q) && p !== q) return p - q;
    return x[i] < y[i] ? -1 : 1;
  }
  return x.length - y.length || (a < b ? -1 : a > b ? 1 : 0);
}

/** The steps in which room for a group grows, so that one more seldom moves the others: 8, 12, 16, 24, 32, … */
export function roomFor(count) {
  let room = 8;
  while (room < count) room = (room & (room - 1)) === 0 ? room * 1.5 : (room / 3) * 4;
  return room;
}

/** How nodes are grouped unless the reader says so: by the label with the fewest values that most of them bear. */
export function grouping(nodes) {
  if (nodes.length <= RING_MAX) return "none";
  const values = new Map(), borne = new Map();
  for (const node of nodes)
    for (const [key, value] of Object.entries(node.labels)) {
      if (!values.has(key)) values.set(key, new Set());
      values.get(key).add(value);
      borne.set(key, (borne.get(key) || 0) + 1);
    }
  const fit = [...values].filter(([key, set]) => set.size > 1 && set.size <= 24 && borne.get(key) >= 0.8 * nodes.length);
  fit.sort(([a, x], [b, y]) => x.size - y.size || natural(a, b));
  return fit.length ? "label:" + fit[0][0] : "none";
}

export function groupOf(node, by) {
  if (by.startsWith("label:")) return node.labels[by.slice(6)] ?? `no ${by.slice(6)}`;
  if (by === "roles") return node.roles.filter((each) => each !== "node").join(" ") || "node";
  return "";
}

/**
 * Places around the gateway, which is at (0, 0); a node takes about one unit.
 * nodes: [{id, labels, roles}], without the gateway.  before: what was answered last: who is still there keeps its seat.
 * wide: how much wider than high there is room for, where all are around the gateway itself.
 * Answers {by, places: Map id -> [x, y], groups: [{name, x, y, r, count}], seats: Map group -> Map id -> seat, reach}.
 */
export function arrange(nodes, by, before = null, wide = 1.5) {
  const members = new Map();
  for (const node of [...nodes].sort((a, b) => natural(a.id, b.id))) {
    const name = groupOf(node, by);
    if (!members.has(name)) members.set(name, []);
    members.get(name).push(node.id);
  }
  const places = new Map(), seats = new Map(), groups = [];
  if (members.size <= 1 && nodes.length <= RING_MAX) {
    const ids = members.values().next().value || [], far = Math.max(2.9, ids.length * 0.34);
    ids.forEach((id, i) => {
      const angle = -Math.PI / 2 + (2 * Math.PI * (i + (ids.length === 2 ? 0.5 : 0))) / ids.length;
      places.set(id, [far * wide * Math.cos(angle), far * Math.sin(angle)]);
    });
    return { by, places, groups, seats, reach: [far * wide + 1, far + 1] };
  }
  const alone = members.size === 1, first = alone ? Math.ceil((ROOM / PITCH) ** 2) : 0;
  const discs = [...members].sort(([a], [b]) => natural(a, b)).map(([name, ids]) => {
    const taken = seated(ids, before && before.by === by ? before.seats.get(name) : null);
    seats.set(name, taken);
    let last = 0;
    for (const seat of taken.values()) last = Math.max(last, seat + 1);
    const room = roomFor(last);
    return { name, taken, count: ids.length, r: PITCH * Math.sqrt(room + first) + 0.75 };
  });
  const set = (disc, x, y) => {
    if (!alone) groups.push({ name: disc.name, x, y, r: disc.r, count: disc.count });
    for (const [id, seat] of disc.taken) {
      const r = PITCH * Math.sqrt(seat + first + 0.5), turn = (seat + first) * GOLDEN;
      places.set(id, [x + r * Math.cos(turn) * (alone ? wide : 1), y + r * Math.sin(turn)]);
    }
  };
  const most = Math.max(...discs.map((each) => each.r)), width = (disc, far) => 2 * Math.asin(Math.min(1, (disc.r + 0.4) / far));
  if (alone) {
    set(discs[0], 0, 0);
    return { by, places, groups, seats, reach: [(most + 0.5) * wide, most + 0.5] };
  }
  // A few groups: one ring, as near as they have room side by side. Many: ring around ring.
  let far = ROOM + most, begin = discs.length <= 3 ? Math.PI : -Math.PI / 2;
  if (discs.length <= 10) {
    while (discs.reduce((sum, each) => sum + width(each, far), 0) > 2 * Math.PI) far *= 1.03;
    const spare = (2 * Math.PI - discs.reduce((sum, each) => sum + width(each, far), 0)) / discs.length;
    let angle = begin - width(discs[0], far) / 2;
    for (const disc of discs) {
      const half = width(disc, far) / 2;
      angle += half;
      set(disc, far * Math.cos(angle), far * Math.sin(angle));
      angle += half + spare;
    }
  } else
    for (let i = 0; i < discs.length; far += 2 * most + 0.8) {
      const ring = discs.slice(i, i + Math.max(1, Math.floor((2 * Math.PI) / (2 * Math.asin(Math.min(1, (most + 0.4) / far))))));
      ring.forEach((disc, k) => set(disc, far * Math.cos(begin + (2 * Math.PI * k) / ring.length), far * Math.sin(begin + (2 * Math.PI * k) / ring.length)));
      i += ring.length;
    }
  const reach = [0, 1].map((axis) => Math.max(...groups.map((each) => Math.abs(axis ? each.y : each.x) + each.r)) + 1);
  return { by, places, groups, seats, reach };
}

/** Seats of a group: who had one keeps it, the others take the first that are free. */
function seated(ids, before) {
  const taken = new Map(), used = new Set();
  if (before && Math.max(...before.values()) < 2 * roomFor(ids.length))  // else most of it has gone: anew
    for (const id of ids)
      if (before.has(id)) { taken.set(id, before.get(id)); used.add(before.get(id)); }
  let free = 0;
  for (const id of ids) {
    if (taken.has(id)) continue;
    while (used.has(free)) free++;
    taken.set(id, free);
    used.add(free);
  }
  return taken;
}

/** The nearest in a direction, "ArrowLeft" …: what lies aside counts twice. */
export function neighbour(from, direction, points) {
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[direction];
  let best = null, least = Infinity;
  for (const [id, [x, y]] of points) {
    const along = (x - from[0]) * dx + (y - from[1]) * dy, aside = Math.abs((x - from[0]) * dy - (y - from[1]) * dx);
    if (along > 1e-6 && aside <= 2.2 * along + 1e-6 && along + 2 * aside < least) { best = id; least = along + 2 * aside; }
  }
  return best;
}

/** How full: nothing waits 0, one second of work 1/2, ten of them 0.9. */
export const fullness = (loadS) => loadS / (loadS + 1);

// ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────
export const seconds = (s) => !s ? "idle" : s < 1 ? `${Math.round(s * 1000)} ms` : s < 120 ? `${+s.toPrecision(2)} s` : s < 7200 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`;
export const rate = (bytes) => !bytes ? "0 B/s" : bytes < 1024 ? `${Math.round(bytes)} B/s` : bytes < 1048576 ? `${+(bytes / 1024).toPrecision(2)} KiB/s` : `${+(bytes / 1048576).toPrecision(2)} MiB/s`;
const number = (n) => String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, "\u202f");
const perSecond = (n) => n < 10 ? String(+n.toPrecision(2)) : number(n);
const ms = (rtt) => rtt === null ? "–" : rtt < 1000 ? `${rtt} ms` : `${+(rtt / 1000).toPrecision(2)} s`;
const WORD = ["up", "down", "never seen", "pending"];
const wordOf = (n) => n.state === UP && n.work ? (n.work === 1 ? "paused" : "draining") : WORD[n.state];
const TONE = { up: "good", paused: "notice", draining: "notice", down: "bad", "never seen": "quiet", pending: "notice" };
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

export default {
  template: `
  <div class="mesh">
    <div class="stats" role="group" aria-label="Totals">
      <component v-for="s in stats" :is="s.href ? 'a' : 'div'" :href="s.href" class="stat" :key="s.name">
        <span class="stat-name">{{ s.name }}</span><span class="stat-figure">{{ s.figure }}</span><span class="stat-under">{{ s.under }}</span>
      </component>
    </div>
    <div class="mesh-body">
      <section class="card mesh-card" aria-labelledby="mesh-graph-title">
        <div class="mesh-bar">
          <h2 id="mesh-graph-title" class="sr">Graph</h2>
          <label class="sr" for="mesh-find">Find a node</label>
          <input id="mesh-find" class="input" type="search" placeholder="Find a node, a label, a state" autocomplete="off" spellcheck="false"
            v-model="query" @keydown.enter.prevent="seek" aria-describedby="mesh-found">
          <span id="mesh-found" class="muted small" aria-live="polite">{{ found }}</span>
          <span class="mesh-gap"></span>
          <template v-if="groupings.length > 1">
            <label class="small muted" for="mesh-by">Group by</label>
            <select id="mesh-by" class="input" :value="chosen" @change="regroup($event.target.value)">
              <option v-for="g in groupings" :value="g.value">{{ g.text }}</option>
            </select>
          </template>
          <span class="mesh-zoom" role="group" aria-label="Zoom">
            <button type="button" class="btn btn--small" @click="zoom(1 / 1.4)" aria-label="Zoom out">−</button>
            <button type="button" class="btn btn--small" @click="fit(true)">Fit</button>
            <button type="button" class="btn btn--small" @click="zoom(1.4)" aria-label="Zoom in">+</button>
          </span>
        </div>
        <div class="mesh-picture" ref="picture" tabindex="0" role="application" aria-roledescription="graph" :aria-label="label"
          aria-describedby="mesh-keys" @keydown="key" @pointerdown="press" @pointermove="drag" @pointerup="release" @pointercancel="release"
          @pointerleave="hover = null" @wheel="wheel" @focus="focused = true" @blur="focused = false">
          <canvas ref="base" aria-hidden="true"></canvas><canvas ref="over" aria-hidden="true"></canvas>
          <div v-if="!ready" class="mesh-note" role="status">Asking for the picture of the mesh …</div>
          <div v-else-if="lonely" class="mesh-note mesh-empty">
            <p class="empty-title">Only the gateway is here so far</p>
            <p class="muted">Make a code, type it on a board, and watch it come up here.</p>
            <a class="btn btn--primary" href="/console/join">Join the first node</a>
          </div>
          <div v-if="late" class="mesh-late small" role="status">no news for {{ late }} s</div>
        </div>
        <p id="mesh-keys" class="sr">Arrow keys move the selection, Enter shows its figures, plus and minus zoom, 0 shows everything, Escape clears the selection.</p>
        <p class="sr" aria-live="polite" ref="said">{{ said }}</p>
        <ul class="mesh-legend small" aria-label="What shapes mean">
          <li v-for="l in legend"><svg viewBox="-10 -10 20 20" width="18" height="18" aria-hidden="true"><path v-for="p in l.paths" :d="p.d" :class="p.cls"></path></svg>{{ l.text }}</li>
          <li v-if="linked"><svg viewBox="0 0 26 18" width="26" height="18" aria-hidden="true"><path d="M0 9H26" class="ml-link"></path><circle cx="8" cy="9" r="2.5" class="ml-in"></circle><circle cx="19" cy="9" r="2.5" class="ml-out"></circle></svg>session; traffic to and from the gateway</li>
        </ul>
      </section>
      <aside class="card mesh-side" :aria-label="node ? node.id : 'What needs attention'" ref="side">
        <template v-if="node">
          <div class="mesh-side-head"><h2 class="card-title">{{ node.id }}</h2>
            <button type="button" class="btn btn--quiet btn--small" @click="clear" aria-label="Close the figures of the node">✕</button></div>
          <p><span class="badge" :data-tone="tone(node)">{{ word(node) }}</span> <span class="muted small">{{ node.roles.join(", ") }}</span></p>
          <dl class="facts">
            <template v-for="f in vitals"><dt>{{ f[0] }}</dt><dd><ew-time v-if="f[2]" :at="f[2]"></ew-time><span v-else>{{ f[1] }}</span></dd></template>
          </dl>
          <p v-if="node.labels && Object.keys(node.labels).length" class="mesh-labels"><button v-for="(v, k) in node.labels" type="button" class="btn btn--small" @click="query = k + '=' + v" :title="'Find ' + k + '=' + v">{{ k }}={{ v }}</button></p>
          <div class="actions">
            <a v-if="node.state !== 3" class="btn btn--primary" :href="pageOf(node)" ref="open">Open {{ node.id }}</a>
            <a v-else class="btn btn--primary" href="/console/join" ref="open">Look at its request</a>
            <a v-if="node.state !== 3" class="btn" :href="'/console/why/' + part(node.id)">Why</a>
          </div>
        </template>
        <template v-else>
          <h2 class="card-title">Needs attention</h2>
          <ul v-if="attention.length" class="mesh-list"><li v-for="a in attention" :key="a.id">
            <button type="button" class="mesh-pick" @click="pick(a.id)"><span>{{ a.id }}</span><span class="badge" :data-tone="a.tone">{{ a.word }}</span></button>
            <span class="muted small">{{ a.text }}</span></li></ul>
          <p v-else class="muted">{{ ready ? (lonely ? "Nobody else is here." : "Nothing: everybody is up and takes work.") : "…" }}</p>
          <p v-if="further" class="small"><a href="/console/nodes?state=down">and {{ further }} more</a></p>
          <template v-if="count > 1"><h2 class="card-title">By state</h2>
          <ul class="mesh-list"><li v-for="s in states" :key="s.word"><button type="button" class="mesh-pick" :aria-pressed="String(query === s.word)" @click="query = query === s.word ? '' : s.word" :title="'Find those that are ' + s.word">
            <span class="badge" :data-tone="s.tone">{{ s.word }}</span><span class="mesh-count">{{ s.count }}</span></button></li></ul></template>
          <template v-if="busiest.length"><h2 class="card-title">Busiest</h2>
          <ul class="mesh-list"><li v-for="b in busiest" :key="b.id"><button type="button" class="mesh-pick" @click="pick(b.id)"><span>{{ b.id }}</span><span class="bar"><i :style="{width: b.share * 100 + '%'}"></i><b>{{ b.text }}</b></span></button></li></ul></template>
        </template>
      </aside>
    </div>
    <section class="card" aria-labelledby="mesh-table-title">
      <div class="mesh-bar"><h2 class="card-title" id="mesh-table-title">The same as a table</h2><span class="mesh-gap"></span><span class="muted small" aria-live="polite">{{ rows.length }} of {{ count }}</span></div>
      <div class="grid-wrap" role="region" aria-label="Nodes" tabindex="0">
        <table class="grid"><caption class="sr">Nodes of the mesh</caption>
          <thead><tr><th v-for="c in columns" scope="col" :class="{end: c.end}" :aria-sort="sort === c.name ? (down ? 'descending' : 'ascending') : 'none'">
            <button type="button" class="mesh-sort" @click="order(c.name)">{{ c.text }}<span aria-hidden="true">{{ sort === c.name ? (down ? " ↓" : " ↑") : "" }}</span></button></th></tr></thead>
          <tbody><tr v-for="n in shown" :key="n.id">
            <td data-label="Node"><a :href="n.state === 3 ? '/console/join' : pageOf(n)">{{ n.id }}</a></td>
            <td data-label="State"><span class="badge" :data-tone="tone(n)">{{ word(n) }}</span></td>
            <td data-label="Work waiting" class="end">{{ n.state === 0 ? sec(n.load) : "–" }}</td>
            <td data-label="Workers" class="end">{{ n.state === 0 ? n.workers : "–" }}</td>
            <td data-label="Round trip" class="end">{{ rtt(n.rtt) }}</td>
            <td data-label="Traffic" class="end">{{ n.link ? bytes(n.in + n.out) : "–" }}</td>
            <td data-label="Labels">{{ labelsOf(n) || "–" }}</td>
          </tr></tbody></table>
        <p v-if="ready && !rows.length" class="empty-line muted">No node fits “{{ query }}”.</p>
      </div>
      <div class="pager" v-if="rows.length > 20"><button type="button" class="btn btn--quiet" :disabled="!at" @click="at--">← Back</button>
        <span class="muted small">page {{ at + 1 }} of {{ pages }}</span><button type="button" class="btn btn--quiet" :disabled="at + 1 >= pages" @click="at++">More →</button></div>
    </section>
  </div>`,
  props: { by: String },
  emits: ["looks"],
  data: () => ({ rev: 0, ready: false, query: "", chosen: "", groupings: [], picked: "", said: "", sort: "name", down: false, at: 0, late: 0, hover: null, focused: false }),
  created() {
    // Not reactive: a thousand nodes a second.
    this.m = { version: 0, nodes: [], all: [], pending: [], totals: null, laid: null, from: new Map(), now: new Map(), moved: 0,
      view: { x: 0, y: 0, s: 40, fitted: true }, size: [0, 0], pointers: new Map(), heard: 0, dirty: false, dots: [], colours: null };
    this.m.asked = this.by;
  },
  mounted() {
    const m = this.m;
    m.ends = [];
    const on = (target, name, does) => { target.addEventListener(name, does); m.ends.push(() => target.removeEventListener(name, does)); };
    const sized = new ResizeObserver(() => this.resized());
    sized.observe(this.$refs.picture);
    const themed = new MutationObserver(() => { m.colours = null; this.redraw(); });
    themed.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    m.seen = true;
    const near = new IntersectionObserver(([each]) => { m.seen = each.isIntersecting; if (m.seen) this.redraw(); });
    near.observe(this.$refs.picture);
    m.ends.push(() => sized.disconnect(), () => themed.disconnect(), () => near.disconnect());
    on(document, "visibilitychange", () => this.look());
    on(matchMedia("(prefers-reduced-motion: reduce)"), "change", () => this.redraw());
    const clock = setInterval(() => {
      const gone = Math.round((performance.now() - m.heard) / 1000);
      this.late = m.version && !document.hidden && gone >= 5 ? gone : 0;
      if (!m.version && gone >= 3) { m.heard = performance.now(); this.look(); }
    }, 1000);
    m.ends.push(() => clearInterval(clock));
    m.heard = performance.now();
    this.look();
  },
  unmounted() { for (const end of this.m.ends) end(); cancelAnimationFrame(this.m.drawing); cancelAnimationFrame(this.m.running); },
  computed: {
    stats() {
      this.rev;
      const t = this.m.totals, name = (figure, under = "", href = "") => ({ figure, under, href });
      const all = t ? {
        "Nodes up": name(number(t[1]), `of ${number(t[0])} ${t[0] === 1 ? "member" : "members"}`, "/console/nodes"),
        "Open tasks": name(number(t[4]), `${number(t[5])} running here`, "/console/tasks?state=open"),
        "Accepted": name(perSecond(t[6]) + " /s", "by the gateway"),
        "Ended": name(perSecond(t[7]) + " /s", `${number(t[9])} since its start`, "/console/tasks"),
        "Offloaded": name(t[9] ? Math.round((100 * t[8]) / t[9]) + " %" : "–", `${number(t[8])} by members`, "/console/placement"),
        "Traffic": name(rate(t[10] + t[11]), `${rate(t[10])} in`),
      } : Object.fromEntries(["Nodes up", "Open tasks", "Accepted", "Ended", "Offloaded", "Traffic"].map((each) => [each, name("–")]));
      return Object.entries(all).map(([title, rest]) => ({ name: title, ...rest }));
    },
    count() { this.rev; return this.m.all.length; },
    lonely() { this.rev; return this.m.all.length <= 1; },
    linked() { this.rev; return this.m.all.some((each) => each.link === 1); },
    label() {
      this.rev;
      const t = this.m.totals;
      return t ? `Graph of the mesh: ${t[1]} of ${t[0]} members are up${this.m.pending.length ? `, ${this.m.pending.length} wait to be let in` : ""}` : "Graph of the mesh";
    },
    node() { this.rev; return this.picked ? this.m.all.find((each) => each.id === this.picked) || null : null; },
    vitals() {
      const n = this.node;
      if (!n) return [];
      if (n.state === PENDING) return [["Address", n.reason], ["Asked", "", n.seen]];
      const out = n.state !== UP ? [["Last seen", n.seen ? "" : "never since the gateway's start", n.seen], ["Because", n.reason || "–"]]
        : [["Work waiting", n.load ? `${this.sec(n.load)} of it` : "none"], [n.id === this.m.us ? "Runs" : "Of the gateway's", `${n.running} ${n.running === 1 ? "task" : "tasks"}`], ["Workers", n.workers]];
      if (n.id !== this.m.us) out.push(["Round trip", n.rtt === null ? "not measured" : ms(n.rtt)]);
      if (n.link) out.push(["To the gateway", rate(n.in)], ["From the gateway", rate(n.out)]);
      if (n.restarts) out.push(["Restarts", n.restarts]);
      return out;
    },
    troubled() {
      this.rev;
      return this.m.all.filter((n) => n.state === PENDING || n.state === DOWN || (n.state === UP && n.work) || n.load >= 10)
        .sort((a, b) => (b.state === PENDING) - (a.state === PENDING) || (b.state === DOWN) - (a.state === DOWN) || b.seen - a.seen || natural(a.id, b.id));
    },
    attention() {
      return this.troubled.slice(0, 6).map((n) => ({ id: n.id, word: n.load >= 10 && n.state === UP && !n.work ? "busy" : wordOf(n), tone: n.load >= 10 && n.state === UP && !n.work ? "notice" : TONE[wordOf(n)],
        text: n.state === PENDING ? "waits to be let in" : n.state === DOWN ? n.reason : n.load >= 10 ? `${seconds(n.load)} of work wait` : "takes no work of others" }));
    },
    states() {
      this.rev;
      const counts = new Map();
      for (const n of this.m.all) counts.set(wordOf(n), (counts.get(wordOf(n)) || 0) + 1);
      return Object.keys(TONE).filter((word) => counts.has(word)).map((word) => ({ word, tone: TONE[word], count: number(counts.get(word)) }));
    },
    further() { return Math.max(0, this.troubled.length - 6); },
    busiest() {
      this.rev;
      return this.m.all.filter((n) => n.state === UP && n.load > 0).sort((a, b) => b.load - a.load || natural(a.id, b.id)).slice(0, 4)
        .map((n) => ({ id: n.id, share: fullness(n.load), text: seconds(n.load) }));
    },
    fits() {
      const asked = this.query.trim().toLowerCase().split(/\s+/).filter(Boolean);
      return asked.length ? (n) => { const text = `${n.id} ${wordOf(n)} ${n.roles.join(" ")} ${this.labelsOf(n)}`.toLowerCase(); return asked.every((each) => text.includes(each)); } : null;
    },
    rows() {
      this.rev;
      const some = this.fits ? this.m.all.filter(this.fits) : [...this.m.all];
      const by = { name: (n) => 0, state: (n) => wordOf(n), load: (n) => n.load, workers: (n) => n.workers, rtt: (n) => n.rtt ?? -1, traffic: (n) => n.in + n.out, labels: (n) => this.labelsOf(n) }[this.sort];
      const turn = this.down ? -1 : 1;
      return some.sort((a, b) => { const x = by(a), y = by(b); return turn * (x < y ? -1 : x > y ? 1 : natural(a.id, b.id)); });
    },
    pages() { return Math.max(1, Math.ceil(this.rows.length / PAGE)); },
    shown() { if (this.at >= this.pages) this.at = this.pages - 1; return this.rows.slice(this.at * PAGE, (this.at + 1) * PAGE); },
    found() { return this.fits ? `${number(this.rows.length)} found` : ""; },
    columns: () => [["name", "Node"], ["state", "State"], ["load", "Work waiting", 1], ["workers", "Workers", 1], ["rtt", "Round trip", 1], ["traffic", "Traffic", 1], ["labels", "Labels"]].map(([name, text, end]) => ({ name, text, end })),
    legend() {
      const c = "M-8 0a8 8 0 1 0 16 0a8 8 0 1 0 -16 0Z";
      return [
        { text: "up", paths: [{ d: c, cls: "ml-up" }] },
        { text: "work waits (½: 1 s)", paths: [{ d: c, cls: "ml-up" }, { d: "M-8 0A8 8 0 0 0 8 0Z", cls: "ml-load" }] },
        { text: "paused or draining", paths: [{ d: c, cls: "ml-notice" }, { d: "M-2.6 -4V4M2.6 -4V4", cls: "ml-mark" }] },
        { text: "down", paths: [{ d: "M0 -9L9 0L0 9L-9 0Z", cls: "ml-bad" }, { d: "M-3 -3L3 3M3 -3L-3 3", cls: "ml-cross" }] },
        { text: "never seen", paths: [{ d: c, cls: "ml-never" }] },
        { text: "waits to be let in", paths: [{ d: "M-7 -7H7V7H-7Z", cls: "ml-wait" }] },
      ];
    },
  },
  watch: {
    query() { this.at = 0; this.redraw(); },
    picked() { this.redraw(); },
    focused() { this.redraw(); },
    hover() { this.redraw(); },
  },
  methods: {
    part: encodeURIComponent,
    pageOf: (n) => "/console/nodes/" + encodeURIComponent(n.id),
    word: wordOf, tone: (n) => TONE[wordOf(n)], sec: seconds, rtt: ms, bytes: rate,
    labelsOf: (n) => Object.entries(n.labels).map(([k, v]) => `${k}=${v}`).join(" "),
    look() { this.$emit("looks", { looks: !document.hidden, version: this.m.version }); if (!document.hidden) this.redraw(); },

    // ── what it is told ──
    told(frame) {
      const m = this.m;
      if (frame.s && frame.s !== m.version) { m.version = 0; this.look(); return; }
      let rebuilt = !frame.s;
      if (!frame.s) m.nodes = frame.n.map(nodeOf);
      else for (const [i, ...cells] of frame.n) {
        const was = m.nodes[i], is = nodeOf(cells);
        rebuilt ||= !was || JSON.stringify([was.labels, was.roles]) !== JSON.stringify([is.labels, is.roles]);
        m.nodes[i] = is;
      }
      for (const [i, load, running, rtt, bytesIn, bytesOut] of frame.d) Object.assign(m.nodes[i], { load, running, rtt, in: bytesIn, out: bytesOut });
      if (frame.p) {
        rebuilt = true;
        m.pending = frame.p.map(([id, address, asked]) => ({ id, state: PENDING, work: 0, load: 0, running: 0, rtt: null, link: 0, in: 0, out: 0, workers: 0, roles: [], labels: {}, restarts: 0, seen: asked, reason: address }));
      }
      m.totals = frame.t;
      m.version = frame.v;
      m.heard = performance.now();
      this.late = 0;
      m.us = (m.nodes.find((each) => each.roles.includes("gateway")) || m.nodes[0] || { id: "" }).id;
      const known = new Set(m.nodes.map((each) => each.id));
      m.all = [...m.nodes, ...m.pending.filter((each) => !known.has(each.id))];
      m.dots = m.nodes.filter((each) => each.link === 1 && each.in + each.out > 0).sort((a, b) => b.in + b.out - a.in - a.out).slice(0, DOTS_MAX);
      if (rebuilt) this.lay();
      this.ready = true;
      this.rev++;
      if (this.picked) { const n = m.all.find((each) => each.id === this.picked); if (n) { const text = this.tells(n); if (this.m.spoken !== wordOf(n)) this.say(n, text); } }
      this.redraw();
    },
    tells(n) {
      const parts = [n.id, wordOf(n)];
      if (n.state === UP) parts.push(n.load ? `${seconds(n.load)} of work waiting` : "idle");
      if (n.rtt !== null) parts.push(`round trip ${ms(n.rtt)}`);
      if (n.state === DOWN && n.reason) parts.push(n.reason);
      return parts.join(", ");
    },
    say(n, text) { this.m.spoken = wordOf(n); this.said = text; },

    // ── where things are ──
    lay() {
      const m = this.m, others = m.all.filter((each) => each.id !== m.us), keys = new Map();
      for (const each of others) for (const [key, value] of Object.entries(each.labels)) (keys.get(key) || keys.set(key, new Set()).get(key)).add(value);
      const some = [...keys].filter(([, set]) => set.size > 1 && set.size <= 60).map(([key]) => key).sort(natural);
      const kinds = new Set(others.map((each) => groupOf(each, "roles")));
      this.groupings = [{ value: "none", text: "nothing" }, ...some.map((key) => ({ value: "label:" + key, text: key })), ...(kinds.size > 1 ? [{ value: "roles", text: "role" }] : [])];
      const by = this.groupings.some((each) => each.value === m.asked) ? m.asked : grouping(others);
      this.chosen = by;
      const first = !m.laid, other = m.laid && m.laid.by !== by;
      m.wide = this.room();
      m.laid = arrange(others, by, m.laid, m.wide);
      m.laid.places.set(m.us, [0, 0]);
      m.from = new Map(first || still() ? [] : this.spots());
      m.moved = performance.now();
      if (first || other || m.view.fitted) this.fit(false);
    },
    room: function () { const [w, h] = this.m.size; return h && w > 1.25 * h ? 1.5 : 1; },
    regroup(by) {
      this.m.asked = by;
      this.lay();
      const at = new URL(location.href);
      at.searchParams.set("by", by);
      history.replaceState(history.state, "", at);
      this.redraw();
    },
    /** Where nodes are now, on their way from where they were. */
    spots() {
      const m = this.m, went = Math.min(1, (performance.now() - m.moved) / 450), ease = 1 - (1 - went) ** 3;
      if (!m.laid) return new Map();
      if (went >= 1 || !m.from.size) return m.laid.places;
      const now = new Map();
      for (const [id, [x, y]] of m.laid.places) { const was = m.from.get(id); now.set(id, was ? [was[0] + (x - was[0]) * ease, was[1] + (y - was[1]) * ease] : [x, y]); }
      return now;
    },
    resized() {
      const m = this.m, box = this.$refs.picture.getBoundingClientRect(), dpr = Math.min(2, devicePixelRatio || 1);
      m.size = [box.width, box.height];
      for (const canvas of [this.$refs.base, this.$refs.over]) {
        canvas.width = Math.round(box.width * dpr);
        canvas.height = Math.round(box.height * dpr);
        canvas.getContext("2d").setTransform(dpr, 0, 0, dpr, 0, 0);
      }
      if (m.laid && this.room() !== m.wide) this.lay();
      if (m.view.fitted) this.fit(false);
      this.redraw();
    },
    fit(draw) {
      const m = this.m, [w, h] = m.size;
      if (!m.laid || !w) return;
      const [rx, ry] = m.laid.reach, s = Math.min((w - 24) / (2 * rx), (h - 30) / (2 * ry), 74);
      m.view = { x: w / 2, y: h / 2, s, fitted: true, least: s * 0.6 };
      if (draw) this.redraw();
    },
    zoom(by, x = this.m.size[0] / 2, y = this.m.size[1] / 2) {
      const v = this.m.view, s = Math.max(v.least || 1, Math.min(160, v.s * by));
      v.x = x - ((x - v.x) * s) / v.s;
      v.y = y - ((y - v.y) * s) / v.s;
      v.s = s;
      v.fitted = false;
      this.redraw();
    },
    show(id) {
      const m = this.m, place = m.laid.places.get(id), v = m.view;
      if (!place) return;
      const x = v.x + place[0] * v.s, y = v.y + place[1] * v.s, [w, h] = m.size;
      if (v.s < 26 && m.all.length > 60) { v.s = 34; v.x = w / 2 - place[0] * v.s; v.y = h / 2 - place[1] * v.s; v.fitted = false; }
      else if (x < 30 || y < 30 || x > w - 30 || y > h - 30) { v.x += w / 2 - x; v.y += h / 2 - y; v.fitted = false; }
    },
    pick(id) {
      this.picked = id;
      const n = this.m.all.find((each) => each.id === id);
      if (!n) return;
      this.show(id);
      this.say(n, this.tells(n));
    },
    clear() { this.picked = ""; this.said = "No node is selected"; this.$refs.picture.focus({ preventScroll: true }); },
    seek() { if (this.fits && this.rows.length) { this.pick(this.rows[0].id); this.$refs.picture.focus({ preventScroll: true }); } },
    order(name) { if (this.sort === name) this.down = !this.down; else { this.sort = name; this.down = ["load", "workers", "rtt", "traffic"].includes(name); } this.at = 0; },

    // ── keys and pointers ──
    key(event) {
      const m = this.m;
      if (event.ctrlKey || event.metaKey || event.altKey || event.target !== this.$refs.picture || !m.laid) return;
      if (event.key.startsWith("Arrow")) {
        const from = m.laid.places.get(this.picked), next = from ? neighbour(from, event.key, m.laid.places) : m.us;
        if (next) this.pick(next);
        else this.said = "Nothing further in that direction";
      } else if (event.key === "Enter" || event.key === " ") {
        if (!this.picked) this.pick(m.us);
        this.$nextTick(() => this.$refs.open?.focus());
      } else if (event.key === "Escape" && this.picked) this.clear();
      else if (event.key === "+" || event.key === "=") this.zoom(1.4);
      else if (event.key === "-") this.zoom(1 / 1.4);
      else if (event.key === "0") this.fit(true);
      else return;
      event.preventDefault();
    },
    hit(event) {
      const m = this.m, box = this.$refs.picture.getBoundingClientRect(), v = m.view;
      const x = (event.clientX - box.left - v.x) / v.s, y = (event.clientY - box.top - v.y) / v.s;
      let best = null, least = Math.max(0.5, 11 / v.s) ** 2;
      for (const [id, [px, py]] of this.spots()) { const d = (px - x) ** 2 + (py - y) ** 2; if (d < least) { least = d; best = id; } }
      return best;
    },
    press(event) {
      if (event.target.closest("a, button")) return;
      const m = this.m;
      m.pointers.set(event.pointerId, [event.clientX, event.clientY]);
      m.dragged = 0;
      this.$refs.picture.setPointerCapture?.(event.pointerId);
    },
    drag(event) {
      const m = this.m, v = m.view, was = m.pointers.get(event.pointerId);
      if (!was) { if (event.pointerType === "mouse" && m.laid) { const over = this.hit(event); if (over !== this.hover) this.hover = over; } return; }
      const dx = event.clientX - was[0], dy = event.clientY - was[1], others = [...m.pointers].filter(([id]) => id !== event.pointerId);
      m.dragged += Math.abs(dx) + Math.abs(dy);
      m.pointers.set(event.pointerId, [event.clientX, event.clientY]);
      if (others.length) {
        const [ox, oy] = others[0][1], far = Math.hypot(event.clientX - ox, event.clientY - oy), before = Math.hypot(was[0] - ox, was[1] - oy), box = this.$refs.picture.getBoundingClientRect();
        if (before > 0) this.zoom(far / before, (event.clientX + ox) / 2 - box.left, (event.clientY + oy) / 2 - box.top);
      } else if (m.dragged > 4) { v.x += dx; v.y += dy; v.fitted = false; this.redraw(); }
    },
    release(event) {
      const m = this.m, held = m.pointers.delete(event.pointerId);
      if (!held || event.type !== "pointerup" || m.dragged > 4 || !m.laid) return;
      const id = this.hit(event);
      if (id) this.pick(id);
      else this.picked = "";
    },
    wheel(event) {
      if (!this.focused && !event.ctrlKey) return;
      event.preventDefault();
      const box = this.$refs.picture.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY * 0.0015), event.clientX - box.left, event.clientY - box.top);
    },

    // ── drawing ──
    redraw() {
      const m = this.m;
      if (m.drawing) return;
      m.drawing = requestAnimationFrame(() => { m.drawing = 0; this.draw(); });
    },
    colours() {
      const m = this.m;
      if (m.colours) return m.colours;
      const style = getComputedStyle(document.documentElement), c = {};
      for (const name of ["surface", "sunk", "line", "line-strong", "text", "muted", "accent", "accent-ink", "accent-soft", "good", "good-soft", "notice", "notice-soft", "bad", "bad-soft", "quiet", "busy", "chart-1", "chart-2", "chart-3", "chart-5"])
        c[name] = style.getPropertyValue("--" + name).trim();
      c.font = getComputedStyle(document.body).fontFamily;
      return (m.colours = c);
    },
    draw() {
      const m = this.m, [w, h] = m.size;
      if (!m.laid || !w || document.hidden) return;
      const began = performance.now(), g = this.$refs.base.getContext("2d"), c = this.colours(), v = m.view, spots = this.spots();
      const X = (p) => v.x + p[0] * v.s, Y = (p) => v.y + p[1] * v.s, R = Math.max(2.2, Math.min(21, v.s * 0.34)), many = m.all.length > 60;
      const fits = this.fits, centre = spots.get(m.us), gx = X(centre), gy = Y(centre), G = Math.max(12, Math.min(30, R * 1.55));
      g.clearRect(0, 0, w, h);
      g.lineJoin = "round";
      g.textAlign = "center";
      for (const each of m.laid.groups) {  // a soft disc a group, and its way to the gateway
        const x = v.x + each.x * v.s, y = v.y + each.y * v.s, r = each.r * v.s;
        g.strokeStyle = c.line; g.lineWidth = 2; g.setLineDash([2, 5]);
        g.beginPath(); g.moveTo(gx, gy); g.lineTo(x, y); g.stroke();
        g.setLineDash([]);
        g.fillStyle = c.sunk; g.lineWidth = 1;
        g.beginPath(); g.arc(x, y, r, 0, 7); g.fill(); g.stroke();
      }
      const lines = new Map();
      for (const n of m.all) {
        if (n.id === m.us || (!n.link && many) || n.state === PENDING) continue;
        const kind = n.link === 1 ? 1 + Math.min(5, Math.round(Math.log2(1 + (n.in + n.out) / 1024))) : n.state === UP ? 0 : -1;
        (lines.get(kind) || lines.set(kind, []).get(kind)).push(n);
      }
      for (const [kind, some] of lines) {
        g.strokeStyle = kind > 0 ? c["line-strong"] : c.line;
        g.lineWidth = kind > 0 ? Math.min(0.75 + kind * 0.75, many ? Math.max(1, R / 5) : 9) : 1;
        g.globalAlpha = many && kind > 0 ? 0.45 : 1;
        g.setLineDash(kind > 0 ? [] : kind === 0 ? [2, 4] : [5, 5]);
        g.beginPath();
        for (const n of some) { const p = spots.get(n.id); g.moveTo(gx, gy); g.lineTo(X(p), Y(p)); }
        g.stroke();
      }
      g.setLineDash([]);
      g.globalAlpha = 1;
      // Nodes, one path for each look.
      const looks = new Map(), add = (look, n, p) => (looks.get(look) || looks.set(look, []).get(look)).push([n, X(p), Y(p)]);
      for (const n of m.all) {
        const p = spots.get(n.id);
        if (n.id === m.us || !p || X(p) < -R || Y(p) < -R || X(p) > w + R || Y(p) > h + R) continue;
        const dim = fits && !fits(n) ? "dim " : "";
        add(dim + (n.state === UP ? (n.work ? "rest" : "up") : ["", "down", "never", "wait"][n.state]), n, p);
      }
      for (const [look, some] of looks) {
        const kind = look.replace("dim ", "");
        g.globalAlpha = look.startsWith("dim ") ? 0.18 : 1;
        g.lineWidth = R < 6 ? 1 : 2;
        g.fillStyle = { up: c.surface, rest: c["notice-soft"], down: c["bad-soft"], never: c.surface, wait: c["notice-soft"] }[kind];
        g.strokeStyle = { up: c.good, rest: c.notice, down: c.bad, never: c["line-strong"], wait: c.notice }[kind];
        if (kind === "never" || kind === "wait") g.setLineDash(R < 6 ? [2, 2] : [3, 3]);
        g.beginPath();
        for (const [, x, y] of some) {
          if (kind === "down") { const d = R * 1.2; g.moveTo(x, y - d); g.lineTo(x + d, y); g.lineTo(x, y + d); g.lineTo(x - d, y); g.closePath(); }
          else if (kind === "wait") g.rect(x - R * 0.9, y - R * 0.9, R * 1.8, R * 1.8);
          else { g.moveTo(x + R, y); g.arc(x, y, R, 0, 7); }
        }
        g.fill();
        if (kind === "up" || kind === "rest")
          for (const [least, most, colour] of [[0.02, 0.5, c["chart-1"]], [0.5, 0.9, c["chart-2"]], [0.9, 2, c["chart-5"]]]) {
            g.fillStyle = colour;
            g.beginPath();
            for (const [n, x, y] of some) {
              const f = fullness(n.load);
              if (f < least || f >= most) continue;
              const a = Math.acos(1 - 2 * Math.min(1, Math.max(0.12, f)));
              g.moveTo(x + R * Math.cos(Math.PI / 2 - a), y + R * Math.sin(Math.PI / 2 - a));
              g.arc(x, y, R, Math.PI / 2 - a, Math.PI / 2 + a);
              g.closePath();
            }
            g.fill();
          }
        g.beginPath();
        for (const [, x, y] of some) {
          if (kind === "down") { const d = R * 1.2; g.moveTo(x, y - d); g.lineTo(x + d, y); g.lineTo(x, y + d); g.lineTo(x - d, y); g.closePath(); }
          else if (kind === "wait") g.rect(x - R * 0.9, y - R * 0.9, R * 1.8, R * 1.8);
          else { g.moveTo(x + R, y); g.arc(x, y, R, 0, 7); }
        }
        g.stroke();
        g.setLineDash([]);
        if (R >= 3.5 && (kind === "down" || kind === "rest")) {  // a sign beside the colour
          g.lineWidth = Math.max(1, R / 6);
          g.strokeStyle = kind === "down" ? c.bad : c.notice;
          g.beginPath();
          for (const [n, x, y] of some) {
            const d = R * 0.36;
            if (kind === "down") { g.moveTo(x - d, y - d); g.lineTo(x + d, y + d); g.moveTo(x + d, y - d); g.lineTo(x - d, y + d); }
            else if (n.work === 1) { g.moveTo(x - d * 0.8, y - d * 1.2); g.lineTo(x - d * 0.8, y + d * 1.2); g.moveTo(x + d * 0.8, y - d * 1.2); g.lineTo(x + d * 0.8, y + d * 1.2); }
            else { g.moveTo(x, y - d * 1.2); g.lineTo(x, y + d * 1.2); g.moveTo(x - d, y + d * 0.3); g.lineTo(x, y + d * 1.3); g.lineTo(x + d, y + d * 0.3); }
          }
          g.stroke();
        }
        g.globalAlpha = 1;
      }
      // The gateway: a hexagon with its own load as a ring.
      const own = m.all.find((each) => each.id === m.us), six = (r) => { g.beginPath(); for (let i = 0; i < 6; i++) g.lineTo(gx + r * Math.cos((Math.PI / 3) * i + Math.PI / 6), gy + r * Math.sin((Math.PI / 3) * i + Math.PI / 6)); g.closePath(); };
      g.fillStyle = c.surface; six(G + 4); g.fill();
      g.fillStyle = c.accent; g.strokeStyle = c.accent; g.lineWidth = 2; six(G); g.fill();
      if (own && own.load) { const f = fullness(own.load); g.strokeStyle = f < 0.5 ? c["chart-1"] : f < 0.9 ? c["chart-2"] : c["chart-5"]; g.lineWidth = 4; g.beginPath(); g.arc(gx, gy, G + 7, -Math.PI / 2, -Math.PI / 2 + 2 * Math.PI * f); g.stroke(); }
      g.fillStyle = c["accent-ink"];
      g.font = `600 ${Math.max(8, G * 0.62)}px ${c.font}`;
      g.textBaseline = "middle";
      g.fillText("GW", gx, gy + 1);
      this.write(g, c, spots, X, Y, R, G);
      m.took = performance.now() - began;
      this.above(spots);
      if (spots !== m.laid.places) this.redraw();
      if (!m.running) this.run();
    },
    /** Names and figures, where there is room; a halo keeps them readable over lines. */
    write(g, c, spots, X, Y, R, G) {
      const m = this.m, few = m.all.length <= 40, close = few && R < 14, text = (line, x, y, size, colour, weight = 400) => {
        g.font = `${weight} ${size}px ${c.font}`;
        g.lineWidth = 3.5; g.strokeStyle = c.surface; g.strokeText(line, x, y);
        g.fillStyle = colour; g.fillText(line, x, y);
      };
      g.textBaseline = "middle";
      for (const each of m.laid.groups) if (each.r * m.view.s > 14) {
        const r = each.r * m.view.s;
        text(`${each.name} · ${number(each.count)}`, m.view.x + each.x * m.view.s, m.view.y + each.y * m.view.s + (each.y > 0.5 ? r + 10 : -r - 9), 12, c.text, 600);
      }
      const fits = this.fits;
      for (const n of m.all) {
        if (n.id === m.us || !(few || R >= 12 || n.id === this.picked || n.id === this.hover || (fits && this.rows.length <= 30 && fits(n)))) continue;
        const p = spots.get(n.id);
        if (!p) continue;
        const x = X(p), y = Y(p);
        if (x < -60 || y < -40 || x > m.size[0] + 60 || y > m.size[1] + 40) continue;
        text(n.id.length > 22 ? n.id.slice(0, 21) + "…" : n.id, x, y + R + 15, few && !close ? 13 : 11, c.text, 600);
        if ((few && !close) || n.id === this.picked || n.id === this.hover) text(n.state === UP ? (n.work ? wordOf(n) : n.load ? `${seconds(n.load)} waiting` : "idle") : wordOf(n), x, y + R + 30, 11.5, n.state === DOWN ? c.bad : n.work || n.state === PENDING ? c.notice : c.muted);
        if (n.link === 1 && n.rtt !== null && ((few && !close) || n.id === this.picked || n.id === this.hover)) { const q = spots.get(m.us), k = 0.46; text(ms(n.rtt), X([q[0] + (p[0] - q[0]) * k]), Y([0, q[1] + (p[1] - q[1]) * k]), 11.5, c.muted); }
      }
      const q = spots.get(m.us);
      text(m.us, X(q), Y(q) + G + 14, 13, c.text, 600);
    },
    /** What moves: dots along links, the selection. */
    above(spots) {
      const m = this.m, g = this.$refs.over.getContext("2d"), c = this.colours(), v = m.view, R = Math.max(2.2, Math.min(21, v.s * 0.34));
      const G = Math.max(12, Math.min(30, R * 1.55)), small = m.all.length > 60 && R < 9 ? 1.5 : 2.4;
      g.clearRect(0, 0, ...m.size);
      const centre = spots.get(m.us), at = (p) => [v.x + p[0] * v.s, v.y + p[1] * v.s], [gx, gy] = at(centre), now = still() ? 0.35 : (performance.now() / 1700) % 1;
      for (const [way, colour] of [["in", c["chart-1"]], ["out", c["chart-2"]]]) {
        g.fillStyle = colour;
        g.beginPath();
        for (const n of m.dots) {
          const p = spots.get(n.id);
          if (!p || !n[way]) continue;
          const [x, y] = at(p), long = Math.hypot(x - gx, y - gy) || 1, some = small < 2 ? 1 : 1 + Math.min(3, Math.floor(Math.log10(1 + n[way] / 200)));
          const first = (G + 4) / long, last = 1 - (R + 3) / long;
          if (last <= first) continue;
          const side = way === "in" ? small : -small, ox = (-(y - gy) / long) * side, oy = ((x - gx) / long) * side;
          for (let i = 0; i < some; i++) {
            const k = (now + i / some + n.phase) % 1, f = first + (last - first) * (way === "in" ? 1 - k : k);
            const dx = gx + (x - gx) * f + ox, dy = gy + (y - gy) * f + oy;
            g.moveTo(dx + small, dy);
            g.arc(dx, dy, small, 0, 7);
          }
        }
        g.fill();
      }
      for (const [id, colour, wide] of [[this.hover, c["line-strong"], 2], [this.picked, c.accent, 3]]) {
        const p = id && spots.get(id);
        if (!p) continue;
        const [x, y] = at(p);
        g.strokeStyle = colour; g.lineWidth = wide;
        g.beginPath(); g.arc(x, y, (id === m.us ? G + 5 : R * 1.08) + 4, 0, 7); g.stroke();
      }
    },
    /** Some thirty pictures a second while something goes over a link and somebody sees it. */
    run() {
      const m = this.m;
      let last = 0;
      const turn = (now) => {
        if (document.hidden || !m.seen || !m.dots.length || still()) { m.running = 0; return; }
        if (now - last >= 32) { last = now; this.above(this.spots()); }
        m.running = requestAnimationFrame(turn);
      };
      m.running = requestAnimationFrame(turn);
    },
  },
};

function nodeOf(c) {
  let phase = 0;
  for (const each of c[ID]) phase = (phase * 31 + each.codePointAt(0)) % 101;
  return { id: c[ID], phase: phase / 101, state: c[STATE], work: c[WORK], load: c[LOAD], running: c[RUNNING], rtt: c[RTT], link: c[LINK], in: c[IN], out: c[OUT],
    workers: c[WORKERS], roles: c[ROLES], labels: c[LABELS], restarts: c[RESTARTS], seen: c[SEEN], reason: c[REASON] };
}
