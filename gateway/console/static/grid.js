// A table. Cells: see table.py. A row is told to the gateway only by its buttons; everything else is a link.
export default {
  template: `
    <div class="grid-wrap" role="region" :aria-label="label" tabindex="0">
      <div v-if="rows === null" class="skeleton" role="status" aria-label="loading">
        <span v-for="n in 5" class="skeleton-row"></span>
      </div>
      <p v-else-if="!rows.length" class="empty-line muted">{{ empty }}</p>
      <table v-else class="grid">
        <caption class="sr">{{ label }}</caption>
        <thead><tr><th v-for="c in columns" :key="c.name" scope="col"
            :class="{end: c.end, 'hide-narrow': c.hideNarrow}">{{ c.label }}</th></tr></thead>
        <tbody>
          <tr v-for="row in rows" :key="row.key" :data-key="row.key">
            <td v-for="c in columns" :key="c.name" :data-label="c.label"
                :class="{end: c.end, 'hide-narrow': c.hideNarrow}">
              <template v-for="cell in cells(row[c.name])">
                <a v-if="cell.href" :href="cell.href">{{ cell.text }}</a>
                <span v-else-if="cell.badge" class="badge" :data-tone="cell.tone || tone(cell.badge)">{{ cell.badge }}</span>
                <ew-time v-else-if="cell.at !== undefined" :at="cell.at || ''" :kind="cell.kind || 'ago'"></ew-time>
                <button v-else-if="cell.act" type="button" class="btn btn--small" :class="cell.tone ? 'btn--' + cell.tone : ''"
                  :aria-label="cell.text + ' ' + row.key" @click="$emit('act', {key: row.key, act: cell.act})">{{ cell.text }}</button>
                <span v-else-if="cell.bar !== undefined" class="bar"><i :style="{width: Math.max(0, Math.min(1, cell.bar)) * 100 + '%'}"></i><b>{{ cell.text }}</b></span>
                <span v-else :class="cell.cls" :title="cell.title">{{ cell.text }}</span>
              </template>
            </td>
          </tr>
        </tbody>
      </table>
    </div>`,
  props: { label: String, columns: Array, rows: { default: null }, empty: String },
  emits: ["act"],
  methods: {
    cells(value) {
      if (value === null || value === undefined || value === "") return [{ text: "–" }];
      if (Array.isArray(value)) return value.length ? value : [{ text: "–" }];
      return typeof value === "object" ? [value] : [{ text: value }];
    },
    tone(word) { return TONES[word] || "quiet"; },
  },
};
const TONES = {};
for (const [tone, words] of Object.entries({
  good: "up active ok completed done work live applied",
  notice: "pending waiting queued pause paused drain draining",
  busy: "running leased offered accepted",
  bad: "down failed lost fail expired refused revoked",
})) for (const word of words.split(" ")) TONES[word] = tone;
