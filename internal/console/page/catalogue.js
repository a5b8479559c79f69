// The catalogue: repositories, and of one its tags and who holds them.

import {look, act, query, Problem} from "./api.js";
import {h, say, field, Table, Pager} from "./dom.js";
import {bytes, count, plural, ago, short} from "./format.js";
import {zoneName} from "./swarm.js";

export function catalogue(page, repository) { return repository ? one(page, repository) : all(page); }

function all(page) {
  const match = h("input", {type: "search", input: () => { pager.offset = 0; page.refresh(); }});
  const pager = new Pager("repositories", 50, page.refresh);
  const table = new Table("Repositories, the largest first", [
    {name: "Repository", cell: (r) => h("a", {href: "#catalogue/" + encodeURIComponent(r.repository)}, r.repository)},
    {name: "From", cell: (r) => r.local ? "pushed here" : "an upstream"},
    {name: "Size", number: true, cell: (r) => bytes(r.bytes)},
    {name: "Blobs", number: true, cell: (r) => count(r.blobs)},
    {name: "Tags", number: true, cell: (r) => count(r.tags)},
    {name: "Last pull", moving: true, cell: (r) => ago(r.lastPull)},
  ], (r) => r.repository, "There is nothing yet.");
  return {
    root: h("section", {}, h("h2", {}, "Catalogue"), h("p", {class: "bar-of-filters"}, field("Find a repository", match)), table.root, pager.root),
    async refresh() {
      const u = await look("/usage");
      const found = u.repositories.filter((r) => r.repository.includes(match.value));
      const part = found.slice(pager.offset, pager.offset + pager.size);
      table.show(part);
      pager.show(found.length, part.length);
    },
  };
}

function one(page, repository) {
  const match = h("input", {type: "search", input: () => { pager.offset = 0; page.refresh(); }});
  const pager = new Pager("tags", 50, page.refresh);
  const told = h("p", {role: "status"});
  let local = false;

  async function purge(reference) {
    const name = reference ? `${repository}:${reference}` : repository;
    if (!await page.ask("Purge " + name + "?", "What is cached of it goes, and is fetched anew from the upstream when it is pulled next. Hosts keep what they have.", "Purge")) return;
    try {
      const p = await act("POST", "/purge", {repository, reference: reference || undefined});
      say(told, `Purged ${name}: ${plural(p.tags, "tag")} and ${plural(p.blobs, "blob")}, ${bytes(p.bytes)}; ${count(p.shared)} stay, as others have them or they are in use.`);
    } catch (e) {
      if (!(e instanceof Problem)) throw e;
      say(told, e.message);
    }
    page.refresh();
  }

  function holders(im) {
    if (im.all === 0 && im.some === 0) return "no host";
    const text = plural(im.all, "host") + (im.some ? `, and a part on ${count(im.some)}` : "");
    if (im.holders.length === 0) return text;
    return h("details", {}, h("summary", {}, text), h("ul", {}, im.holders.map((p) => h("li", {}, `${p.name || p.id} (${zoneName(p.zone)})`)),
      im.all > im.holders.length ? h("li", {}, `and ${count(im.all - im.holders.length)} more`) : null));
  }

  const table = new Table("Tags", [
    {name: "Tag", cell: (t) => t.tag},
    {name: "Platform", cell: (t) => t.platform || "–"},
    {name: "Digest", cell: (t) => h("code", {title: t.digest}, short(t.digest))},
    {name: "Size", number: true, cell: (t) => t.image ? bytes(t.size) : "–"},
    {name: "At the seeder", cell: (t) => t.image ? (t.here === t.blobs ? "all of it" : `${count(t.here)} of ${plural(t.blobs, "blob")}`) : "not here"},
    {name: "Held by", cell: (t) => t.image ? holders(t) : "–"},
    {name: "Checked", moving: true, cell: (t) => ago(t.checked)},
    ...(page.admin ? [{name: "Action", cell: (t) => t.first && !local ? h("button", {type: "button", class: "danger", "aria-label": `Purge ${t.tag}`, click: () => purge(t.tag)}, "Purge") : ""}] : []),
  ], (t) => t.tag + " " + t.digest, "It has no tag here.");
  const whole = h("button", {type: "button", class: "danger", hidden: true, click: () => purge("")}, "Purge the whole repository");
  return {
    root: h("section", {}, h("h2", {}, repository), h("p", {}, h("a", {href: "#catalogue"}, "All repositories")), told,
      h("p", {class: "bar-of-filters"}, field("Find a tag", match), whole), table.root, pager.root),
    async refresh() {
      const r = await look("/repository" + query({name: repository, match: match.value, limit: pager.size, offset: pager.offset}));
      local = r.local;
      whole.hidden = !page.admin || local;
      // An open list of holders stays as it is while it is read.
      if (!table.root.querySelector("details[open]")) {
        table.show(r.tags.flatMap((t) => t.images.length === 0 ? [{...t, first: true}] : t.images.map((im, i) => ({...im, image: true, tag: t.tag, checked: t.checked, first: i === 0}))));
      }
      pager.show(r.total, r.tags.length);
    },
  };
}
