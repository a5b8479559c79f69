// Space: what content takes, what an eviction would take, retention.

import {look, act, query, Problem} from "./api.js";
import {h, say, field, Table} from "./dom.js";
import {bytes, count, plural, percent, ago, clock} from "./format.js";

const amounts = [["1 GiB", 2 ** 30], ["10 GiB", 10 * 2 ** 30], ["100 GiB", 100 * 2 ** 30], ["1 TiB", 2 ** 40]];

export function space(page) {
  const store = h("p"), told = h("p", {role: "status"}), sum = h("p"), scrub = h("p");
  const quotas = new Table("Quotas", [
    {name: "Repositories below", cell: (p) => p.prefix},
    {name: "Kind", cell: (p) => p.local ? "pushed here" : "cached"},
    {name: "Used", number: true, cell: (p) => bytes(p.used)},
    {name: "Quota", number: true, cell: (p) => bytes(p.quota)},
    {name: "Share", number: true, cell: (p) => percent(p.used, p.quota)},
  ], (p) => p.prefix, "No quota but that of the whole store.");
  const upstream = new Table("By upstream", [
    {name: "Upstream", cell: (u) => u.upstream},
    {name: "Size", number: true, cell: (u) => bytes(u.bytes)},
    {name: "Blobs", number: true, cell: (u) => count(u.blobs)},
    {name: "Last pull", moving: true, cell: (u) => ago(u.lastPull)},
  ], (u) => u.upstream, "Nothing is cached.");
  const amount = h("select", {change: page.refresh}, amounts.map(([t, n]) => h("option", {value: n}, t)));
  const evicted = new Table("What an eviction would take", [
    {name: "Repository", cell: (r) => r.repository ? h("a", {href: "#catalogue/" + encodeURIComponent(r.repository)}, r.repository) : "(not known)"},
    {name: "Size", number: true, cell: (r) => bytes(r.bytes)},
    {name: "Blobs", number: true, cell: (r) => count(r.blobs)},
    {name: "Last used", moving: true, cell: (r) => ago(r.lastUse)},
  ], (r) => r.repository, "Nothing may be evicted now.");
  const removed = new Table("What retention removes", [
    {name: "Repository", cell: (r) => r.repository},
    {name: "What", cell: (r) => r.kind + (r.tag ? " " + r.tag : "")},
    {name: "Size", number: true, cell: (r) => bytes(r.bytes)},
    {name: "Why", cell: (r) => r.reason},
  ], (r) => r.repository + r.kind + r.digest + (r.tag || ""), "Nothing.");
  removed.root.hidden = true;

  async function retain(dryRun) {
    if (!dryRun && !await page.ask("Run retention?", "Tags that no rule keeps, and what nothing leads to, go into the trash of the local repositories.", "Run retention")) return;
    try {
      let job = await act("POST", "/collect", {dryRun});
      say(told, "It runs.");
      while (job.state === "running") job = await look(`/jobs/${encodeURIComponent(job.id)}?wait=5`);
      const r = job.collect;
      say(told, job.error || `${dryRun ? "It would remove" : "It removed"} ${plural(r.tags, "tag")}, ${plural(r.manifests, "manifest")} and ${plural(r.blobs, "blob")}, ${bytes(r.bytes)}; ${bytes(r.freed.bytes)} of old trash ${dryRun ? "would go" : "went"} for good.`);
      removed.root.hidden = false;
      removed.show((r?.removed || []).slice(0, 200));
    } catch (e) {
      if (!(e instanceof Problem)) throw e;
      say(told, e.message);
    }
    page.refresh();
  }

  const run = page.admin ? h("p", {class: "buttons"}, h("button", {type: "button", click: () => retain(true)}, "Try retention"), " ",
    h("button", {type: "button", class: "danger", click: () => retain(false)}, "Run retention")) : null;
  return {
    root: h("section", {}, h("h2", {}, "Space"), store, scrub, upstream.root, quotas.root, h("h3", {}, "Eviction"), h("p", {class: "bar-of-filters"}, field("To free", amount)), sum, evicted.root,
      h("h3", {}, "Retention"), h("p", {}, "Of repositories that are pushed to this seeder."), run, told, removed.root),
    async refresh() {
      const s = await look("/swarm"), u = await look("/usage"), e = await look("/eviction" + query({bytes: amount.value}));
      say(store, `${bytes(s.store.bytes)} in ${plural(s.store.blobs, "blob")}, ${count(s.store.partial)} of them partial; ` + (s.store.quota ? `${percent(s.store.bytes, s.store.quota)} of the quota of ${bytes(s.store.quota)}.` : "no quota is set."));
      say(scrub, s.scrub.running ? `A scrub reads it back: ${bytes(s.scrub.bytes)} so far, ${plural(s.scrub.found, "blob")} damaged.` : s.scrub.ended ? `The last scrub ended ${clock(s.scrub.ended)}: ${plural(s.scrub.found, "blob")} damaged.` : "No scrub has ended yet.");
      upstream.show(u.upstreams);
      quotas.show(s.prefixes);
      say(sum, e.blobs === 0 ? "" : `${bytes(e.bytes)} in ${plural(e.blobs, "blob")} would go, those used longest ago first` + (e.bytes < e.asked ? "; more may not be evicted now." : "."));
      evicted.show(e.repositories.slice(0, 50));
    },
  };
}
