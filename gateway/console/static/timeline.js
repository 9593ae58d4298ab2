// A story as lanes over time, and its sentences below. What it is told: see timeline.py. Pixels are reckoned here,
// as wide as there is room; times are written in the reader's zone. Every mark is a link to its sentence.
const R = 11, ROW = 27, LABEL = 22, PAD = 18, BREAK = 46, TICK = 84;
const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5,
  36e5, 72e5, 108e5, 216e5, 432e5, 864e5, 1728e5, 6048e5, 2592e6, 7776e6, 31536e6];
const KINDS = {
  accepted: "accepted", offered: "offered", leased: "leased", ran: "ran", result: "result", duplicate: "duplicate",
  refused: "refused", stopped: "stopped", lost: "lost", back: "up again", now: "now", remark: "remark",
};
const poly = (points) => "M" + points.map(([x, y]) => `${(x * R).toFixed(1)} ${(y * R).toFixed(1)}`).join("L") + "Z";
const SHAPES = {
  offered: poly([[-1, -0.85], [0.45, -0.85], [1.15, 0], [0.45, 0.85], [-1, 0.85]]),
  leased: poly([[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]]),
  ran: poly([[-0.95, -0.55], [-0.55, -0.95], [0.55, -0.95], [0.95, -0.55], [0.95, 0.55], [0.55, 0.95], [-0.55, 0.95], [-0.95, 0.55]]),
  refused: poly([[0, -1.15], [1.15, 0], [0, 1.15], [-1.15, 0]]),
  stopped: poly([[-1.15, 0], [-0.6, -0.95], [0.6, -0.95], [1.15, 0], [0.6, 0.95], [-0.6, 0.95]]),
  lost: poly([[-1.15, -0.9], [1.15, -0.9], [0, 1.15]]),
  back: poly([[0, -1.2], [1.15, 0.85], [-1.15, 0.85]]),
};
const CIRCLE = `M${-R} 0a${R} ${R} 0 1 0 ${2 * R} 0a${R} ${R} 0 1 0 ${-2 * R} 0Z`;
const RING = CIRCLE + `M${-R - 3} 0a${R + 3} ${R + 3} 0 1 0 ${2 * R + 6} 0a${R + 3} ${R + 3} 0 1 0 ${-2 * R - 6} 0Z`;
const shape = (kind) => (kind === "result" || kind === "duplicate" ? RING : SHAPES[kind] || CIRCLE);
const long = (ms) => {
  for (const [unit, size, most] of [["ms", 1, 1e3], ["s", 1e3, 12e4], ["min", 6e4, 72e5], ["h", 36e5, 1728e5]])
    if (ms < most) return `${+(ms / size).toPrecision(3)} ${unit}`;
  return `${+(ms / 864e5).toPrecision(3)} days`;
};
const two = (n) => String(n).padStart(2, "0");

export default {
  template: `
    <div class="tl">
      <div v-if="story === null" class="skeleton" role="status" aria-label="loading the story">
        <span v-for="n in 6" class="skeleton-row"></span>
      </div>
      <template v-else>
        <div v-if="story.marks.length" class="tl-picture" ref="box">
          <svg :viewBox="'0 0 ' + W + ' ' + laid.height" :width="W" :height="laid.height" role="group"
               :aria-label="'Timeline of ' + story.heading + ': ' + story.marks.length + ' marks on ' + story.lanes.length + ' lanes, over ' + span">
            <defs>
              <pattern :id="'h' + uid" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
                <line x1="0" y1="0" x2="0" y2="8" class="tl-hatch"></line></pattern>
              <marker v-for="k in ['offer','result','refused','lost']" :id="'a' + k + uid" viewBox="0 0 8 8" refX="7" refY="4"
                markerWidth="7" markerHeight="7" orient="auto-start-reverse"><path d="M0 0L8 4L0 8Z" :class="'tl-head tl-head--' + k"></path></marker>
            </defs>
            <g v-for="t in laid.ticks" aria-hidden="true">
              <line :x1="t.x" :x2="t.x" y1="4" :y2="laid.height - 22" class="tl-grid"></line>
              <text :x="t.x" :y="laid.height - 7" :text-anchor="t.x > W - 34 ? 'end' : t.x < 34 ? 'start' : 'middle'" class="tl-tick">{{ t.text }}</text>
            </g>
            <g v-for="b in laid.breaks" aria-hidden="true">
              <rect :x="b.x" y="4" :width="b.w" :height="laid.height - 26" class="tl-break"></rect>
              <path :d="b.edge" class="tl-zig"></path>
              <text :x="b.x + b.w / 2" :y="laid.height - 7" text-anchor="middle" class="tl-tick tl-tick--break">{{ b.text }}</text>
            </g>
            <g v-for="(lane, i) in laid.lanes" :key="lane.node">
              <line :x1="0" :x2="W" :y1="lane.top" :y2="lane.top" class="tl-sep" v-if="i"></line>
              <rect v-if="lane.missing" x="0" :y="lane.top + 2" :width="W" :height="lane.height - 4" :fill="'url(#h' + uid + ')'"></rect>
              <rect v-if="lane.forgotX > 0" x="0" :y="lane.top + 2" :width="lane.forgotX" :height="lane.height - 4" :fill="'url(#h' + uid + ')'"></rect>
              <line :x1="0" :x2="W" :y1="lane.y" :y2="lane.y" class="tl-line" :class="{'tl-line--missing': lane.missing}"></line>
            </g>
            <rect v-for="s in laid.spans" :x="s.x" :y="s.y" :width="s.w" :height="s.h" :rx="s.h / 2" class="tl-span"
              :class="'tl-span--' + s.kind" :data-tone="s.tone"><title>{{ s.label }}</title></rect>
            <path v-for="w in laid.ways" :d="w.d" class="tl-way" :class="'tl-way--' + w.kind" :marker-end="'url(#a' + w.kind + uid + ')'"></path>
            <g v-for="lane in laid.lanes" :key="'l' + lane.node">
              <a :href="to('/nodes/', lane.node)"><text x="4" :y="lane.top + 16" class="tl-lane">{{ lane.node }}</text></a>
              <text :x="10 + lane.node.length * 8.2" :y="lane.top + 16" class="tl-note" :class="{'tl-note--missing': lane.missing}">{{ lane.note }}</text>
            </g>
            <a v-for="m in laid.marks" :key="m.n" :href="'#' + uid + '-' + m.n" class="tl-mark" :data-n="m.n" :data-kind="m.kind"
               :data-tone="m.tone" :class="{'tl-mark--on': on === m.n}" :aria-label="says(m)" :transform="'translate(' + m.x + ',' + m.y + ')'"
               @focus="on = m.n" @blur="on = 0" @mouseenter="on = m.n" @mouseleave="on = 0" @keydown="move($event, m.n)" @click.prevent="show(m.n)">
              <line v-if="m.stem" x1="0" x2="0" :y1="-m.stem" y2="0" class="tl-stem"></line>
              <path :d="shape(m.kind)" class="tl-shape"></path>
              <text y="4" text-anchor="middle" class="tl-n">{{ m.n }}</text>
              <title>{{ says(m) }}</title>
            </a>
          </svg>
          <p class="tl-when muted small"><ew-time :at="story.from" kind="full"></ew-time><span> · {{ span }} · times in {{ zone }}</span></p>
          <ul class="tl-legend small" aria-label="Shapes">
            <li v-for="k in kinds"><svg width="26" height="26" viewBox="-15 -15 30 30" aria-hidden="true" class="tl-mark" :data-tone="k.tone"><path :d="shape(k.kind)" class="tl-shape"></path></svg>{{ k.word }}</li>
            <li v-if="laid.lanes.some((each) => each.missing || each.forgotX > 0)"><svg width="26" height="18" aria-hidden="true"><rect width="26" height="18" :fill="'url(#h' + uid + ')'"></rect></svg>not told</li>
          </ul>
        </div>
        <ol class="tl-story" v-if="story.sentences.length">
          <li v-for="s in story.sentences" :key="s.n" :id="uid + '-' + s.n" :class="{'tl-on': on === s.n}" tabindex="-1"
              @mouseenter="on = s.n" @mouseleave="on = 0">
            <span class="tl-no badge" :data-tone="s.tone">{{ s.n }}</span>
            <ew-time class="tl-at mono small" v-if="s.at" :at="s.at" kind="precise"></ew-time><span v-else class="tl-at">–</span>
            <span class="tl-text"><template v-for="p in pieces(s.parts, s.whys)"
              ><ew-time v-if="p.at" :at="p.at" kind="precise"></ew-time><a v-else-if="p.href" :href="p.href">{{ p.text }}</a><template v-else>{{ p.text }}</template></template>
              <a v-for="w in others(s)" class="tl-why small" :href="about(w)">why {{ w }}</a></span>
          </li>
        </ol>
        <p v-else class="muted">Nothing that was not plain has been noted of it at {{ story.told_by }}.</p>
        <div v-if="story.remarks.length" class="banner banner--notice tl-remarks" role="note">
          <p v-for="r in story.remarks"><template v-for="p in pieces(r, [])"><ew-time v-if="p.at" :at="p.at" kind="full"></ew-time><template v-else>{{ p.text }}</template></template></p>
        </div>
      </template>
    </div>`,
  props: { story: { default: null }, functions: { default: () => [] } },
  data: () => ({ W: 800, on: 0, uid: "s" + Math.random().toString(36).slice(2, 8) }),
  mounted() { this.watch(); },
  updated() { this.watch(); },
  unmounted() { this.seen?.disconnect(); },
  computed: {
    span() { return long(Math.max(1, this.story.to - this.story.from)); },
    zone() { return Intl.DateTimeFormat().resolvedOptions().timeZone || "your zone"; },
    kinds() {
      const seen = new Map();
      for (const m of this.story.marks) if (!seen.has(m.kind)) seen.set(m.kind, { kind: m.kind, tone: m.tone, word: KINDS[m.kind] || m.kind });
      return [...seen.values()];
    },
    names() {
      const found = {};
      for (const lane of this.story.lanes) found[lane.node] = this.to("/nodes/", lane.node);
      for (const name of this.functions) found[name] = this.to("/functions/", name);
      return found;
    },
    laid() { return layout(this.story, this.W); },
  },
  methods: {
    shape,
    to: (path, name) => "/console" + path + encodeURIComponent(name),
    about: (id) => "/console" + (/^[0-9a-hjkmnp-tv-z]{23}$/.test(id) ? "/tasks/" : "/why/") + encodeURIComponent(id),
    watch() {
      const box = this.$refs.box;
      if (!box || this.boxed === box) return;
      this.boxed = box;
      this.seen?.disconnect();
      this.seen = new ResizeObserver(() => { const w = Math.max(260, Math.floor(box.clientWidth)); if (w !== this.W) this.W = w; });
      this.seen.observe(box);
    },
    says(mark) {
      const s = this.story.sentences[mark.n - 1];
      const text = s.parts.map((p) => (typeof p === "string" ? p : ew.say(p.at, "precise"))).join("");
      return `${mark.n}, ${KINDS[mark.kind] || mark.kind}, ${s.at ? ew.say(s.at, "precise") : ""}: ${text}`;
    },
    show(n) {
      const line = document.getElementById(this.uid + "-" + n);
      if (!line) return;
      const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
      line.scrollIntoView({ block: "center", behavior: calm ? "auto" : "smooth" });
      line.focus({ preventScroll: true });
      this.on = n;
    },
    move(event, n) {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      const all = [...this.$el.querySelectorAll("a.tl-mark")].sort((a, b) => a.dataset.n - b.dataset.n);
      const next = all[all.findIndex((each) => Number(each.dataset.n) === n) + step];
      if (next) { event.preventDefault(); next.focus(); }
    },
    pieces(parts, whys) {
      const known = { ...this.names, ...Object.fromEntries(whys.map((id) => [id, this.about(id)])) };
      const words = Object.keys(known).sort((a, b) => b.length - a.length).map((w) => w.replace(/[.*+?^$\{}()|[\]\\]/g, "\\$&"));
      const cut = words.length ? new RegExp(`(?<![\\w.-])(${words.join("|")})(?![\\w-])`, "g") : null;
      return parts.flatMap((p) => {
        if (typeof p !== "string") return [p];
        if (!cut) return [{ text: p }];
        return p.split(cut).filter(Boolean).map((text) => ({ text, href: known[text] }));
      });
    },
    others(s) {
      const text = s.parts.map((p) => (typeof p === "string" ? p : "")).join("");
      return s.whys.filter((id) => !text.includes(id));
    },
  },
};

function layout(story, W) {
  const breaks = story.breaks, width = W - 2 * PAD;
  const gap = Math.min(BREAK, (width * 0.4) / Math.max(1, breaks.length));
  const whole = Math.max(1, story.to - story.from - breaks.reduce((sum, [a, b]) => sum + b - a, 0));
  const scale = (width - gap * breaks.length) / whole;
  const x = (t) => {
    let at = PAD, from = story.from;
    for (const [a, b] of breaks) {
      if (t <= a) break;
      at += (a - from) * scale;
      if (t < b) return at + ((t - a) / (b - a)) * gap;
      at += gap; from = b;
    }
    return at + (Math.min(Math.max(t, story.from), story.to) - from) * scale;
  };
  // marks that would lie upon each other go below, row by row
  const rows = story.lanes.map(() => []);
  const marks = [...story.marks].sort((a, b) => a.t - b.t || a.n - b.n).map((m) => {
    const at = x(m.t), ends = rows[m.lane];
    let row = ends.findIndex((end) => end + 2 * R + 6 <= at);
    if (row < 0) row = ends.push(0) - 1;
    ends[row] = at;
    return { ...m, x: at, row };
  });
  let top = 0;
  const lanes = story.lanes.map((lane, i) => {
    const height = LABEL + Math.max(1, rows[i].length) * ROW + 10, y = top + LABEL + ROW / 2;
    const room = Math.max(0, Math.floor((W - 14 - lane.node.length * 8.2) / 6.4));
    const said = lane.missing || (lane.owner ? "owner" : "") + (lane.partly ? " told its newest only" : "");
    const note = said.length > room ? said.slice(0, Math.max(0, room - 1)) + "…" : said;
    const forgotX = lane.forgot_before > story.from ? x(lane.forgot_before) : 0;
    const made = { ...lane, top, height, y, note, forgotX };
    top += height;
    return made;
  });
  for (const m of marks) { m.y = lanes[m.lane].y + m.row * ROW; m.stem = m.row * ROW; }
  const spans = story.spans.map((s) => {
    const h = s.kind === "run" ? 14 : s.kind === "held" ? 8 : 3;
    const from = x(s.from), w = Math.max(x(s.to) - from, s.kind === "kept" ? 0 : 3);
    return { ...s, x: from, w, h, y: lanes[s.lane].y - h / 2 };
  });
  const ways = story.ways.map((w) => {
    const a = lanes[w.lane].y, b = lanes[w.to_lane].y, down = Math.sign(b - a) * (R + 2);
    const x1 = x(w.from), x2 = x(w.to), mid = (a + b) / 2;
    return { ...w, d: `M${x1} ${a + down}C${x1} ${mid} ${x2} ${mid} ${x2} ${b - down}` };
  });
  const height = top + 28;
  const drawn = breaks.map(([a, b]) => {
    const at = x(a), zig = [];
    for (const edge of [at, at + gap]) {
      zig.push(`M${edge} 4`);
      for (let y = 4, side = 1; y < height - 22; y += 6, side = -side) zig.push(`L${edge + 3 * side} ${Math.min(y + 6, height - 22)}`);
    }
    return { x: at, w: gap, edge: zig.join(""), text: long(b - a) };
  });
  return { lanes, marks, spans, ways, breaks: drawn, height, ticks: ticks(story, x, scale, breaks, gap) };
}

function ticks(story, x, scale, breaks, gap) {
  const step = STEPS.find((each) => each * scale >= TICK) || STEPS.at(-1);
  const shift = -new Date(story.from).getTimezoneOffset() * 6e4, found = [];
  const clear = breaks.map(([a]) => [x(a) - 34, x(a) + gap + 34]);
  for (let t = Math.ceil((story.from + shift) / step) * step - shift; t <= story.to && found.length < 40; t += step) {
    const at = x(t);
    if (breaks.some(([a, b]) => t > a && t < b)) { t = Math.ceil((breaks.find(([a, b]) => t > a && t < b)[1] + shift) / step) * step - shift - step; continue; }
    if (clear.some(([a, b]) => at > a && at < b)) continue;
    found.push({ x: at, text: label(t, step) });
  }
  return found;
}

function label(t, step) {
  const d = new Date(t), seconds = two(d.getMinutes()) + ":" + two(d.getSeconds());
  if (step < 1e3) return seconds + "." + String(d.getMilliseconds()).padStart(3, "0");
  if (step < 6e4) return two(d.getHours()) + ":" + seconds;
  if (step < 864e5) return two(d.getHours()) + ":" + two(d.getMinutes());
  return new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" }).format(d);
}
