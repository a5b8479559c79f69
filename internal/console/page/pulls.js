// Pulls in progress, by repository, and of one its hosts.

import {look, query} from "./api.js";
import {h, say, field, Table, Pager} from "./dom.js";
import {bytes, rate, count, plural, percent, ago} from "./format.js";
import {sourceBar, split, zoneName} from "./swarm.js";

const sources = [["peers", "peers"], ["seeder", "the seeder"], ["upstream", "upstreams"]];

function how(have, size, name) {
  return h("span", {}, h("progress", {max: Math.max(1, size), value: have, "aria-label": `${name}: ${percent(have, size)}`}), " " + percent(have, size));
}

const received = {name: "Received from", cell: (p) => h("span", {}, sourceBar(p.received, sources), split(p.received, sources))};

export function pulls(page, repository) { return repository ? hosts(page, repository) : all(page); }

function all(page) {
  const match = h("input", {type: "search", input: () => { pager.offset = 0; page.refresh(); }});
  const pager = new Pager("pulls", 50, page.refresh);
  const table = new Table("Pulls in progress, by repository", [
    {name: "Repository", cell: (p) => p.repository ? h("a", {href: "#pulls/" + encodeURIComponent(p.repository)}, p.repository) : "(not known)"},
    {name: "Hosts", number: true, cell: (p) => count(p.hosts)},
    {name: "Of these", cell: (p) => h("span", {}, p.hosts ? `${count(p.done)} have all` : "none; the seeder fetches it", p.stuck ? h("span", {class: "state-stuck"}, `, ${count(p.stuck)} stuck`) : null,
      p.failed ? h("span", {class: "state-failed"}, `, ${count(p.failed)} failed`) : null)},
    {name: "Progress", cell: (p) => how(p.have, p.size, p.repository)},
    {name: "Bytes", number: true, cell: (p) => `${bytes(p.have)} of ${bytes(p.size)}`},
    {name: "Rate", number: true, cell: (p) => rate(p.rate)},
    received,
    {name: "Began", moving: true, cell: (p) => ago(p.began)},
  ], (p) => p.repository, "Nobody pulls now.");
  const sum = h("p");
  return {
    root: h("section", {}, h("h2", {}, "Pulls"), sum, h("p", {class: "bar-of-filters"}, field("Find a repository", match)), table.root, pager.root),
    async refresh() {
      const p = await look("/pulls" + query({match: match.value, limit: pager.size, offset: pager.offset}));
      table.show(p.pulls);
      pager.show(p.total, p.pulls.length);
      say(sum, "What hosts fetch now, and what ended within the last 20 seconds. All hosts of a pull are counted together.");
    },
  };
}

function hosts(page, repository) {
  const pager = new Pager("hosts", 100, page.refresh);
  const table = new Table("Hosts of this pull, those in trouble first", [
    {name: "Host", cell: (p) => h("span", {title: p.id}, p.name)},
    {name: "Zone", cell: (p) => zoneName(p.zone)},
    {name: "State", moving: true, cell: (p) => h("span", {class: "state-" + p.state}, p.state, p.state === "stuck" ? `: nothing since ${ago(p.moved)}` : "", p.error ? `: ${p.error}` : "")},
    {name: "Blobs", number: true, cell: (p) => count(p.blobs)},
    {name: "Progress", cell: (p) => how(p.have, p.size, p.name)},
    {name: "Bytes", number: true, cell: (p) => `${bytes(p.have)} of ${bytes(p.size)}`},
    {name: "Rate", number: true, cell: (p) => rate(p.rate)},
    received,
  ], (p) => p.id, "Nobody pulls this now.");
  const sum = h("p");
  return {
    root: h("section", {}, h("h2", {}, "Pull of " + repository), h("p", {}, h("a", {href: "#pulls"}, "All pulls")), sum, table.root, pager.root),
    async refresh() {
      const p = await look("/pulls" + query({repository, limit: pager.size, offset: pager.offset}));
      const one = p.pulls[0];
      say(sum, one ? `${percent(one.have, one.size)} of ${bytes(one.size)} for ${one.hosts ? plural(one.hosts, "host") : "the seeder"} at ${rate(one.rate)}; ${split(one.received, sources)}` : "");
      table.show(p.hosts);
      pager.show(p.total, p.hosts.length);
    },
  };
}
