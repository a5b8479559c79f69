// The swarm: a map by zone, and the hosts.

import {look, query} from "./api.js";
import {h, say, list, bar, field, Table, Pager} from "./dom.js";
import {bytes, rate, count, plural, percent, ago, short} from "./format.js";

const maxDots = 120;

export const sources = [["near", "peers of the same zone"], ["far", "peers of other zones"], ["seeder", "the seeder"], ["upstream", "upstreams"]];

// split tells bytes by source in words.
export function split(received, names = sources) {
  const all = names.reduce((n, [k]) => n + received[k], 0);
  if (all === 0) return "nothing yet";
  return names.filter(([k]) => received[k] > 0).map(([k, name]) => `${percent(received[k], all)} from ${name}`).join(", ");
}

export function sourceBar(received, names = sources) {
  return bar(names.map(([kind]) => ({kind, n: received[kind]})), split(received, names));
}

// dots are the hosts of a zone; of many, their shares.
function dots(z) {
  const share = Math.min(1, maxDots / z.peers);
  const box = h("div", {class: "dots", "aria-hidden": "true"});
  const busy = z.pulling - z.stuck;
  for (const [kind, n] of [["stuck", z.stuck], ["pulling", busy], ["silent", z.silent], ["idle", z.peers - z.pulling - z.silent]]) {
    for (let i = 0; i < (n > 0 ? Math.max(1, Math.round(n * share)) : 0); i++) box.append(h("span", {class: "dot " + kind}));
  }
  return box;
}

function state(z) {
  const parts = [];
  if (z.pulling) parts.push(`${count(z.pulling)} pull`);
  if (z.stuck) parts.push(`${count(z.stuck)} of these stuck`);
  if (z.silent) parts.push(`${count(z.silent)} silent`);
  return parts.length ? parts.join(", ") : "none pulls now";
}

export function zoneName(z) { return z === "" ? "no zone" : z; }

function tile(name, value) { return h("div", {}, h("dt", {}, name), h("dd", {}, value)); }

export function swarm(page, what) {
  const tiles = h("dl", {class: "tiles"}), map = h("ul", {class: "map"}), warnings = h("ul", {class: "warnings"});
  const match = h("input", {type: "search", input: () => { pager.offset = 0; page.refresh(); }});
  const zone = h("select", {change: () => { pager.offset = 0; page.refresh(); }}, h("option", {value: ""}, "all"));
  const pager = new Pager("hosts", 50, page.refresh);
  const table = new Table("Hosts", [
    {name: "Host", cell: (p) => h("span", {title: p.id}, p.name || short("p2p:" + p.id.slice(-12)))},
    {name: "Zone", cell: (p) => zoneName(p.zone)},
    {name: "State", cell: (p) => h("span", {class: "state-" + p.state}, p.seeder ? "another seeder" : p.state)},
    {name: "Receives", number: true, cell: (p) => rate(p.rate)},
    {name: "Received from", cell: (p) => sourceBar(p.received)},
    {name: "Gave peers", number: true, cell: (p) => bytes(p.toPeers)},
    {name: "Gave clients", number: true, cell: (p) => bytes(p.toClients)},
    {name: "Holds", number: true, cell: (p) => bytes(p.held) + (p.quota ? ` of ${bytes(p.quota)}` : "")},
    {name: "Round trip", number: true, cell: (p) => p.rttMillis ? p.rttMillis.toFixed(1) + " ms" : "–"},
    {name: "Bad pieces", number: true, cell: (p) => count(p.badPieces || 0)},
    {name: "Told", moving: true, cell: (p) => ago(p.reported) || "never"},
    {name: "Program", cell: (p) => p.agent || ""},
  ], (p) => p.id, "No host matches.");
  const root = h("section", {}, h("h2", {}, "Swarm"), warnings, tiles, h("h3", {}, "By zone"),
    h("ul", {class: "legend", "aria-label": "Legend"}, [["pulling", "host that pulls"], ["stuck", "stuck: no byte for 20 s"], ["silent", "silent: tells nothing of itself"], ["idle", "idle"]].map(([k, t]) => h("li", {class: k}, t)),
      sources.map(([k, t]) => h("li", {class: k}, "from " + t))),
    map, h("p", {class: "bar-of-filters"}, field("Find a host", match), field("Zone", zone)), table.root, pager.root);

  function show(s) {
    const t = s.total, all = sources.reduce((n, [k]) => n + t.received[k], 0);
    list(tiles, [
      ["Hosts", count(t.peers)], ["Pull now", count(t.pulling)], ["Stuck", count(t.stuck)], ["Received together", rate(t.rate)],
      ["From peers", percent(t.received.near + t.received.far, all)], ["Seeder gave peers", bytes(s.seeder.toPeers)],
      ["From upstreams", bytes(s.seeder.fromUpstream)], ["Hosts hold", bytes(t.held)],
    ], ([name]) => name, ([name, value]) => tile(name, value));
    list(map, s.zones, (z) => z.zone, (z) => h("li", {class: "zone"}, h("h3", {}, zoneName(z.zone)),
      h("p", {}, h("strong", {}, plural(z.peers, "host")), ": " + state(z)), dots(z), sourceBar(z.received), h("p", {}, split(z.received)),
      h("p", {}, `receives ${rate(z.rate)}, holds ${bytes(z.held)}`)));
    const told = s.warnings.map((w) => ({...w}));
    for (const l of s.liars) told.push({code: "liar-" + l.id, text: `peer ${l.id} sent ${plural(l.bad, "bad piece")}: ${l.reason}`, remedy: ""});
    list(warnings, told, (w) => w.code + w.text, (w) => h("li", {}, h("strong", {}, w.text), w.remedy ? ". " + w.remedy : ""));
    const names = ["", ...s.zones.map((z) => z.zone).filter((z) => z !== "")];
    if (names.join("\n") !== [...zone.options].map((o) => o.value).join("\n")) {
      const was = zone.value;
      zone.replaceChildren(...names.map((z) => h("option", {value: z}, z === "" ? "all" : z)));
      zone.value = names.includes(was) ? was : "";
    }
  }

  return {root, async refresh() {
    show(await look("/swarm"));
    const p = await look("/peers" + query({match: match.value, zone: zone.value, limit: pager.size, offset: pager.offset}));
    table.show(p.peers);
    pager.show(p.total, p.peers.length);
  }};
}
