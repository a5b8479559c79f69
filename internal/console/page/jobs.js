// Jobs: prewarming, and what else takes long.

import {look, act, Problem} from "./api.js";
import {h, say, field, Table} from "./dom.js";
import {bytes, count, ago} from "./format.js";

export function jobs(page) {
  const told = h("p", {role: "status"});
  const images = h("textarea", {rows: 3, required: true, spellcheck: "false", placeholder: "docker.io/library/nginx:1.27"});
  const platforms = h("input", {placeholder: "linux/amd64 linux/arm64"});
  const form = h("form", {submit: async (e) => {
    e.preventDefault();
    const words = (s) => s.split(/[\s,]+/).filter((w) => w !== "");
    try {
      const job = await act("POST", "/prewarm", {images: words(images.value), platforms: words(platforms.value)});
      say(told, `Job ${job.id} has begun.`);
      images.value = "";
    } catch (err) {
      if (!(err instanceof Problem)) throw err;
      say(told, err.message);
    }
    page.refresh();
  }}, h("h3", {}, "Prewarm"), h("p", {}, "Fetches images ahead, as a pull of theirs would."),
  h("p", {}, field("Images, one in a line", images)), h("p", {}, field("Platforms (by itself the seeder's own; all for all)", platforms)),
  h("p", {}, h("button", {class: "strong"}, "Prewarm")));

  async function cancel(id) {
    try {
      await act("DELETE", "/jobs/" + encodeURIComponent(id));
      say(told, `Job ${id} was told to end.`);
    } catch (e) {
      if (!(e instanceof Problem)) throw e;
      say(told, e.message);
    }
    page.refresh();
  }

  function what(j) {
    if (j.prewarm) return j.prewarm.images.map((im) => im.image + (im.error ? ": " + im.error : `: ${bytes(im.bytes)}, of these ${bytes(im.fetched)} fetched`)).join("; ");
    return j.progress.what || "";
  }

  const table = new Table("Jobs, the last one first", [
    {name: "Job", cell: (j) => j.id},
    {name: "Kind", cell: (j) => j.kind},
    {name: "By", cell: (j) => j.user},
    {name: "State", cell: (j) => h("span", {class: "state-" + j.state}, j.state)},
    {name: "Progress", cell: (j) => j.progress.itemsTotal ? `${count(j.progress.items)} of ${count(j.progress.itemsTotal)}` : ""},
    {name: "Bytes", number: true, cell: (j) => j.progress.bytesTotal ? `${bytes(j.progress.bytes)} of ${bytes(j.progress.bytesTotal)}` : ""},
    {name: "Began", moving: true, cell: (j) => ago(j.started)},
    {name: "What", cell: (j) => [what(j), j.error ? h("span", {class: "problem"}, " " + j.error) : null].filter((x) => x)},
    ...(page.admin ? [{name: "Action", cell: (j) => j.state === "running" ? h("button", {type: "button", "aria-label": `End job ${j.id}`, click: () => cancel(j.id)}, "End") : ""}] : []),
  ], (j) => j.id, "There is none.");
  return {root: h("section", {}, h("h2", {}, "Jobs"), page.admin ? form : null, told, table.root), async refresh() { table.show((await look("/jobs")).jobs.slice(0, 50)); }};
}
