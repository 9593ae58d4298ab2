// What pages of the console do without asking the gateway: times in the reader's zone, the theme, the menu.
"use strict";
document.documentElement.lang = "en";
const ew = (globalThis.ew = {
  to: (path) => "/console" + path,

  // ── theme: a cookie, so that the gateway knows it when it builds the page ──
  theme() {
    return (document.cookie.match(/(?:^|; )edgeweave-theme=(light|dark)/) || [])[1] || "auto";
  },
  applyTheme() {
    const chosen = ew.theme();
    const dark = chosen === "dark" || (chosen === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
  },
  setTheme(choice) {
    const kept = choice === "auto" ? 0 : 31536000;
    document.cookie = `edgeweave-theme=${choice}; path=/; max-age=${kept}; samesite=strict; secure`;
    ew.applyTheme();
    globalThis.Quasar?.Dark.set(choice === "auto" ? "auto" : choice === "dark");
  },
  nextTheme() {
    ew.setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  },

  // ── the frame ──
  toggleMenu(button) {
    const open = document.body.classList.toggle("menu-open");
    button.setAttribute("aria-expanded", String(open));
  },
  seek(form) {
    const about = form.elements.about.value.trim();
    if (about) location.assign(ew.to("/why/" + encodeURIComponent(about)));
    return false;
  },
  async logOut(csrf) {
    await fetch("/v1/log-out", { method: "POST", headers: { "x-csrf-token": csrf } });
    location.assign(ew.to("/log-in"));
  },
  copy(text, button) {
    const said = () => { const was = button.textContent; button.textContent = "Copied"; setTimeout(() => (button.textContent = was), 1500); };
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(said, () => {});
  },

  // ── times ──
  ago(ms, now) {
    const s = Math.round((now - ms) / 1000), size = Math.abs(s);
    const [n, unit] = size < 60 ? [s, "second"] : size < 3600 ? [Math.round(s / 60), "minute"]
      : size < 86400 ? [Math.round(s / 3600), "hour"] : [Math.round(s / 86400), "day"];
    if (size < 2) return "now";
    return new Intl.RelativeTimeFormat(undefined, { style: "short", numeric: "always" }).format(-n, unit);
  },
  clock(ms) {
    const at = new Date(ms), now = new Date();
    const day = at.toDateString() === now.toDateString() ? {} : { month: "short", day: "numeric" };
    const text = new Intl.DateTimeFormat(undefined, { ...day, hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" }).format(at);
    return text;
  },
  full(ms) {
    return new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" }).format(new Date(ms));
  },
  say(ms, kind) {
    if (!ms) return "–";
    if (kind === "clock") return ew.clock(ms);
    if (kind === "precise") return ew.clock(ms) + "." + String(Math.floor(ms) % 1000).padStart(3, "0");
    if (kind === "full") return ew.full(ms);
    return ew.ago(ms, Date.now());
  },
});
ew.applyTheme();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", ew.applyTheme);

class EwTime extends HTMLElement {
  static observedAttributes = ["at", "kind"];
  static all = new Set();
  connectedCallback() { EwTime.all.add(this); this.show(); }
  disconnectedCallback() { EwTime.all.delete(this); }
  attributeChangedCallback() { this.show(); }
  show() {
    const at = Number(this.getAttribute("at")), kind = this.getAttribute("kind") || "ago";
    const text = ew.say(at, kind);
    if (this.textContent !== text) this.textContent = text;
    if (at && kind !== "full") this.title = ew.full(at);
  }
}
customElements.define("ew-time", EwTime);
setInterval(() => { for (const each of EwTime.all) if (each.getAttribute("kind") !== "full") each.show(); }, 1000);
