// The end of the audit log.

import {look, Problem} from "./api.js";
import {h, say, Table} from "./dom.js";
import {clock, short} from "./format.js";

export function audit() {
  const why = h("p");
  const table = new Table("The last 100 lines, the last one first", [
    {name: "Line", cell: (e) => String(e.seq)},
    {name: "Time", cell: (e) => clock(e.time)},
    {name: "User", cell: (e) => e.user || "–"},
    {name: "By", cell: (e) => e.auth || ""},
    {name: "From", cell: (e) => e.client || ""},
    {name: "Action", cell: (e) => e.action},
    {name: "Of", cell: (e) => [e.repository, e.reference, e.note].filter((s) => s).map((s) => s.startsWith("sha256:") ? short(s) : s).join(" ")},
    {name: "Outcome", cell: (e) => h("span", {class: e.outcome === "allowed" ? null : "state-silent"}, `${e.outcome}${e.status ? " " + e.status : ""}`)},
  ], (e) => String(e.seq), "There is no line.");
  return {root: h("section", {}, h("h2", {}, "Audit"), why, table.root), async refresh() {
    try {
      table.show((await look("/audit?limit=100")).lines);
      say(why, "");
    } catch (e) {
      if (!(e instanceof Problem) || e.status !== 404) throw e;
      say(why, e.message);
    }
  }};
}
