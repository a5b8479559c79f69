// Upstreams and their breakers.

import {look} from "./api.js";
import {h, Table} from "./dom.js";
import {bytes, count, until} from "./format.js";

export function upstreams() {
  const table = new Table("Upstreams", [
    {name: "Name", cell: (u) => u.name + (u.default ? " (default)" : "")},
    {name: "Address", cell: (u) => u.url},
    {name: "Breaker", moving: true, cell: (u) => h("span", {class: "state-" + (u.breaker || "closed")},
      {open: "open: it fails and is not asked", probing: "probing: it failed and is tried"}[u.breaker] || "closed: it works", u.probeAt ? `, tried again ${until(u.probeAt)}` : "")},
    {name: "Requests", number: true, cell: (u) => count(u.requests)},
    {name: "Bytes", number: true, cell: (u) => bytes(u.bytes)},
    {name: "Errors", number: true, cell: (u) => count(u.errors)},
    {name: "Requests left", number: true, cell: (u) => u.rateLimit ? `${count(u.rateLeft || 0)} of ${count(u.rateLimit)}` : "no limit told"},
    {name: "Blocked", moving: true, cell: (u) => u.blockedUntil ? until(u.blockedUntil) : ""},
    {name: "Last error", cell: (u) => u.lastError || ""},
  ], (u) => u.name, "There is no upstream.");
  return {root: h("section", {}, h("h2", {}, "Upstreams"), table.root), async refresh() { table.show((await look("/upstreams")).upstreams); }};
}
