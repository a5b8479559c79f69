// What the seeder is asked: its admin API, as the commands do, and its sessions.

const admin = "/samara/v1/admin";
const session = "/samara/v1/session";
const limit = 20000; // ms for one answer

// Problem is an answer that is an error; status 0: none came.
export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const seen = new Map(); // path: what it answered last

async function call(method, path, body, headers = {}) {
  headers["Samara-Session"] = "1";
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method, headers, cache: "no-store", credentials: "same-origin", redirect: "error",
      body: body === undefined ? undefined : JSON.stringify(body), signal: AbortSignal.timeout(limit),
    });
  } catch {
    throw new Problem(0, "The seeder does not answer.");
  }
  if (answer.ok || answer.status === 304) return answer;
  let text = `The seeder answered ${answer.status}.`;
  try {
    const p = await answer.json();
    text = p.error || p.errors[0].message || text;
  } catch { /* it said nothing that can be shown */ }
  throw new Problem(answer.status, text);
}

// look asks for something to show. While it is as before the same object comes.
export async function look(path) {
  const had = seen.get(path);
  const answer = await call("GET", admin + path, undefined, had ? {"If-None-Match": had.tag} : {});
  if (answer.status === 304) return had.data;
  const data = await answer.json();
  if (seen.size > 50) seen.clear();
  seen.set(path, {tag: answer.headers.get("ETag"), data});
  return data;
}

// act does something.
export async function act(method, path, body) {
  return (await call(method, admin + path, body)).json();
}

export async function whoami() { return (await call("GET", session)).json(); }

export async function signIn(user, password) { return (await call("POST", session, {user, password})).json(); }

export async function signOut() {
  seen.clear();
  await call("DELETE", session);
}

// query makes the end of a path; what is empty is left out.
export function query(values) {
  const q = new URLSearchParams();
  for (const [k, v] of Object.entries(values)) if (v !== "" && v !== undefined && v !== 0) q.set(k, v);
  const s = q.toString();
  return s ? "?" + s : "";
}
