// The page: who is signed in, which view is shown, and that it is up to date.

import {look, whoami, signIn, signOut, Problem} from "./api.js";
import {h, say, field} from "./dom.js";
import {swarm} from "./swarm.js";
import {pulls} from "./pulls.js";
import {catalogue} from "./catalogue.js";
import {upstreams} from "./upstreams.js";
import {space} from "./space.js";
import {jobs} from "./jobs.js";
import {audit} from "./audit.js";

const views = {swarm, pulls, catalogue, upstreams, space, jobs, audit};
const every = 2000; // ms between looks
const slowest = 15000; // where the seeder does not answer

const $ = (id) => document.getElementById(id);
const main = $("main"), live = $("live");

let me = {user: "", rights: []};
let view = null; // what is shown: {root, refresh}
let timer = 0, turn = 0, failures = 0;

// page is what views may do beside showing things.
export const page = {
  get admin() { return me.rights.includes("admin"); },
  refresh: () => { failures = 0; tick(); },
  // ask asks before something is done, and tells whether to.
  ask(title, text, yes) {
    say($("ask-title"), title);
    say($("ask-text"), text);
    say($("ask-yes"), yes);
    const d = $("ask");
    return new Promise((done) => {
      const end = (answer) => () => { d.onclose = null; d.close(); done(answer); };
      $("ask-yes").onclick = end(true);
      $("ask-no").onclick = end(false);
      d.onclose = end(false); // by Escape
      d.showModal();
      $("ask-no").focus();
    });
  },
};

function problem(e) {
  if (e instanceof Problem) return e.message;
  throw e;
}

// tick looks anew, and again after a while. Of several at a time the last counts.
async function tick() {
  clearTimeout(timer);
  const mine = ++turn;
  if (!view || document.hidden) return;
  try {
    await view.refresh();
    failures = 0;
    if (mine === turn) say(live, "");
  } catch (e) {
    if (mine !== turn) return;
    const text = problem(e);
    if (e.status === 401) return void begin(text);
    failures++;
    say(live, e.status === 0 ? "No answer; what is shown is old. Trying again." : text);
  }
  if (mine === turn) timer = setTimeout(tick, Math.min(slowest, every * 2 ** Math.min(failures, 5)));
}

// route shows the view that the address names: #VIEW or #VIEW/WHAT.
function route(focus) {
  if (!me.user) return;
  const [name, ...rest] = location.hash.slice(1).split("/");
  const known = Object.hasOwn(views, name) && (name !== "audit" || page.admin) ? name : "swarm";
  for (const a of $("nav").querySelectorAll("a")) {
    if (a.hash === "#" + known) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  let what = "";
  try { what = decodeURIComponent(rest.join("/")); } catch { /* an address that somebody typed */ }
  view = views[known](page, what);
  main.replaceChildren(view.root);
  const title = view.root.querySelector("h2");
  document.title = `${title.textContent} – Samara seeder`;
  if (focus) main.focus();
  page.refresh();
}

// begin shows the form to sign in, or why nobody can.
function begin(text) {
  me = {user: "", rights: []};
  view = null;
  clearTimeout(timer);
  say(live, "");
  $("nav").hidden = $("who").hidden = true;
  say($("about"), "");
  document.title = "Sign in – Samara seeder";
  const user = h("input", {autocomplete: "username", required: true, autocapitalize: "none", spellcheck: "false"});
  const password = h("input", {type: "password", autocomplete: "current-password", required: true});
  const why = h("p", {class: "problem", role: "alert"});
  const send = h("button", {class: "strong"}, "Sign in");
  const form = h("form", {class: "signin", submit: async (e) => {
    e.preventDefault();
    send.disabled = true;
    try {
      start(await signIn(user.value, password.value));
    } catch (err) {
      why.textContent = problem(err);
      password.value = "";
      password.focus();
    }
    send.disabled = false;
  }}, h("h2", {}, "Sign in"), h("p", {}, "With an account of this seeder that a rule gives the watch or admin action."),
  field("User name", user), field("Password", password), h("p", {}, send), why);
  main.replaceChildren(form);
  if (text) why.textContent = text;
  user.focus();
}

function start(who) {
  me = who;
  say($("user"), `${me.user}${page.admin ? "" : " (may look only)"}`);
  $("nav").hidden = $("who").hidden = false;
  $("signout").hidden = !me.ends;
  $("nav").querySelector(".admin").hidden = !page.admin;
  route(false);
  about();
}

async function about() {
  try {
    const s = await look("/swarm");
    say($("about"), `seeder ${s.version}${s.zone ? ", zone " + s.zone : ""}`);
  } catch { /* the view tells */ }
}

addEventListener("hashchange", () => route(true));
document.addEventListener("visibilitychange", () => page.refresh());
$("skip").addEventListener("click", (e) => { e.preventDefault(); main.focus(); });
$("signout").addEventListener("click", async () => {
  try { await signOut(); } catch (e) { say(live, problem(e)); return; }
  begin("");
});

async function open() {
  try {
    const who = await whoami();
    if (who.user) start(who);
    else begin(who.closed ? who.why : "");
  } catch (e) {
    say(live, problem(e));
    setTimeout(open, every);
  }
}
open();
