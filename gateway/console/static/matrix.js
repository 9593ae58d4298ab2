// A table of functions by nodes. Each cell: a share as a bar, and a time. On a narrow screen it scrolls by itself.
export default {
  template: `
    <div class="grid-wrap" role="region" :aria-label="label" tabindex="0">
      <div v-if="told === null" class="skeleton" role="status" aria-label="loading"><span v-for="n in 3" class="skeleton-row"></span></div>
      <p v-else-if="!told.rows.length" class="empty-line muted">{{ empty }}</p>
      <table v-else class="matrix">
        <caption class="sr">{{ label }}</caption>
        <thead><tr><th scope="col">Function</th>
          <th v-for="c in told.columns" :key="c.name" scope="col"><a :href="c.href">{{ c.name }}</a></th></tr></thead>
        <tbody><tr v-for="r in told.rows" :key="r.name">
          <th scope="row"><a :href="r.href">{{ r.name }}</a><span class="muted small">{{ r.runs }}</span></th>
          <td v-for="(c, i) in r.cells" :key="told.columns[i].name" :title="c ? c.title : 'it never ran there'">
            <template v-if="c"><span class="matrix-cell"><i :style="{width: c.share * 100 + '%'}"></i><b>{{ c.text || '–' }}</b><span>{{ c.time }}</span></span></template>
            <span v-else class="muted" aria-label="it never ran there">·</span>
          </td>
        </tr></tbody>
      </table>
    </div>`,
  props: { label: String, empty: String, told: { default: null } },
};
