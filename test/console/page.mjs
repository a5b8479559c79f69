// What a person does at the console, in a real Chromium. The Go test beside it
// starts this with the seeder's address, tells it by lines when to go on, and
// reads lines of JSON: {"step": ...}, and at the end {"report": ...}.

import {createInterface} from "node:readline";
import {createRequire} from "node:module";
import {readFileSync} from "node:fs";
import {chromium} from "playwright-core";

const [base, image, hosts] = [process.argv[2], process.argv[3], Number(process.argv[4])];
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const patience = 120000; // ms, for a machine that is busy

const lines = createInterface({input: process.stdin})[Symbol.asyncIterator]();
const step = async (name, more = {}) => {
  process.stdout.write(JSON.stringify({step: name, ...more}) + "\n");
  if ((await lines.next()).done) process.exit(1);
};

const report = {errors: [], foreign: [], bytes: 0, files: 0, axe: [], checked: 0};
const browser = await chromium.launch({executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]});
const context = await browser.newContext({reducedMotion: "reduce", viewport: {width: 1300, height: 900}});
context.setDefaultTimeout(patience);
const page = await context.newPage();
let watching = true;
const weighed = new Set();
page.on("console", (m) => { if (watching && m.type() === "error") report.errors.push(m.text()); });
page.on("pageerror", (e) => report.errors.push(String(e)));
page.on("request", (r) => { if (new URL(r.url()).origin !== new URL(base).origin) report.foreign.push(r.url()); });
page.on("response", async (r) => {
  if (!r.url().includes("/samara/console/") || r.status() !== 200) return;
  const n = (await r.body()).length;
  if (!weighed.has(r.url())) { // the browser asks again for what it has
    weighed.add(r.url());
    report.bytes += n;
    report.files++;
  }
});

// audit looks for what is in the way of some people, in light and dark.
async function audit(what) {
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({colorScheme, reducedMotion: "reduce"});
    if (process.env.SCREENSHOTS) await page.screenshot({path: `${process.env.SCREENSHOTS}/${what.replaceAll(" ", "-")}-${colorScheme}.png`, fullPage: true});
    const found = await page.evaluate(async () => (await globalThis.axe.run(document, {resultTypes: ["violations"]})).violations
      .map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ") + " " + n.failureSummary).slice(0, 3).join(" | ")}`));
    report.checked++;
    report.axe.push(...found.map((f) => `${what}, ${colorScheme}: ${f}`));
  }
}

// view goes to another view by its address, as a link does.
const view = async (name, title) => {
  await page.evaluate((hash) => { location.hash = hash; }, name);
  await page.locator("h2", {hasText: title}).waitFor();
};
// until polls; playwright's own way needs eval, which the page's policy forbids.
const until = async (what, arg) => {
  for (const end = Date.now() + patience; !await page.evaluate(what, arg);) {
    if (Date.now() > end) throw new Error("waited in vain for " + what);
    await page.waitForTimeout(100);
  }
};
const text = async () => (await page.locator("main").innerText()).replace(/\s+/g, " ");

await page.goto(base + "/samara/console/");
await page.getByLabel("User name").waitFor();
await page.evaluate(axe); // by the debugger: the page's own policy lets nothing in
await audit("sign in");

// By keyboard alone: the focus is in the first field.
await page.keyboard.type("ops");
await page.keyboard.press("Tab");
await page.keyboard.type("maple");
await page.keyboard.press("Enter");
await page.getByRole("navigation", {name: "Views"}).waitFor();
await page.locator("dd").first().filter({hasText: String(hosts)}).waitFor(); // all hosts are there, without a reload
await audit("swarm");
await step("signed in", {text: await text()});

// The pull is held half way by the test.
await view("pulls", "Pulls");
const row = page.locator("tbody tr", {hasText: image.replace(/:.*/, "")});
await row.filter({hasText: String(hosts)}).waitFor();
await until(() => { const p = document.querySelector("tbody progress"); return p && p.value > 0 && p.value < p.max; });
await audit("pulls");
await row.getByRole("link").click();
await page.locator("h2", {hasText: "Pull of"}).waitFor();
await until((n) => document.querySelectorAll("tbody tr").length >= n, hosts);
await audit("one pull");
await step("pulling", {text: await text()});

// It goes on, and the page follows.
await view("pulls", "Pulls");
await until((n) => new RegExp(`${n} have all|Nobody pulls now`).test(document.querySelector("main").innerText), hosts);
await view("catalogue", "Catalogue");
await page.getByRole("link", {name: image.replace(/:.*/, "")}).click();
await page.locator("summary", {hasText: `${hosts} hosts`}).waitFor();
await audit("one repository");
await step("held", {text: await text()});

for (const [name, title] of [["swarm", "Swarm"], ["catalogue", "Catalogue"], ["upstreams", "Upstreams"], ["space", "Space"], ["audit", "Audit"], ["jobs", "Jobs"]]) {
  await view(name, title);
  await until(() => document.querySelector("tbody tr") || [...document.querySelectorAll(".none")].some((e) => !e.hidden));
  await audit(name);
}

// Prewarm and purge, by keyboard alone.
const tabTo = async (what) => {
  for (let i = 0; i < 60; i++) {
    await page.keyboard.press("Tab");
    if (await page.evaluate((w) => { const e = document.activeElement; return (e.getAttribute("aria-label") || e.labels?.[0]?.innerText || e.innerText || "").startsWith(w); }, what)) return;
  }
  throw new Error("the keyboard does not get to " + what);
};
await page.locator("main").focus();
await tabTo("Images");
await page.keyboard.type(image);
await tabTo("Prewarm");
await page.keyboard.press("Enter");
await page.locator("tbody tr", {hasText: "prewarm"}).filter({hasText: "done"}).waitFor();
await view("catalogue/" + encodeURIComponent(image.replace(/:[^:/]*$/, "")), image.replace(/:.*/, ""));
await page.getByRole("button", {name: "Purge " + image.replace(/.*:/, "")}).waitFor();
await page.locator("main").focus();
await tabTo("Purge " + image.replace(/.*:/, ""));
await page.keyboard.press("Enter");
await page.getByRole("dialog").waitFor();
await audit("dialog");
await page.keyboard.press("Escape"); // nothing happens
await page.getByRole("dialog").waitFor({state: "hidden"});
await tabTo("Purge " + image.replace(/.*:/, ""));
await page.keyboard.press("Enter");
await page.getByRole("dialog").waitFor();
await tabTo("Purge");
await page.keyboard.press("Enter");
await page.locator("[role=status]", {hasText: "Purged"}).waitFor();
await step("purged", {text: await text()});

// The seeder is stopped and started again: the page says so, and goes on by itself.
watching = false;
await view("swarm", "Swarm");
await step("stop");
await page.locator("#live", {hasText: "No answer"}).waitFor();
await step("start");
await until(() => document.querySelector("#live").textContent === "");
await page.locator("dd").first().filter({hasText: String(hosts)}).waitFor();

await page.getByRole("button", {name: "Sign out"}).click();
await page.getByLabel("User name").waitFor();
report.cookies = (await context.cookies()).length;
process.stdout.write(JSON.stringify({report}) + "\n");
await browser.close();
process.exit(0);
