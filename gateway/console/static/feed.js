// What happens, the newest first, as it comes in. A row: see pages/events.py. It keeps as many as `most`.
export default {
  template: `
    <div class="feed" role="log" :aria-label="label" aria-live="off">
      <p v-if="!rows.length" class="empty-line muted">{{ empty }}</p>
      <ol v-else class="feed-list">
        <li v-for="r in rows" :key="r.key" :class="{'feed-missed': r.missed, 'feed-new': r.fresh}">
          <template v-if="r.missed"><span class="badge" data-tone="notice">gap</span><span class="feed-text">{{ r.missed }}</span></template>
          <template v-else>
            <ew-time class="feed-at mono small" :at="r.at" kind="precise"></ew-time>
            <span class="badge feed-kind" :data-tone="r.tone">{{ r.kind }}</span>
            <span class="feed-text"><template v-for="p in r.parts"><ew-time v-if="typeof p !== 'string'" :at="p.at" kind="precise"></ew-time><template v-else>{{ p }}</template></template></span>
            <span class="feed-links"><a v-for="l in r.links" :href="l.href" :aria-label="l.says">{{ l.text }}</a></span>
          </template>
        </li>
      </ol>
    </div>`,
  props: { first: { default: () => [] }, label: String, empty: String, most: { default: 300 } },
  data() { return { rows: [...this.first] }; },
  methods: {
    // Rows that were told already (the page's socket had gone) are passed over.
    add(rows) {
      const known = new Set(this.rows.map((each) => each.key));
      const fresh = rows.filter((each) => !known.has(each.key)).map((each) => ({ ...each, fresh: true }));
      if (fresh.length) this.rows = [...fresh.reverse(), ...this.rows].slice(0, this.most);
    },
    replace(rows) { this.rows = [...rows].reverse().slice(0, this.most); },
  },
};
