// Numbers and times for people.

const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(n) {
  let i = 0;
  for (; n >= 1024 && i < units.length - 1; i++) n /= 1024;
  return `${i === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${units[i]}`;
}

export function rate(n) { return n > 0 ? bytes(n) + "/s" : "–"; }

export function count(n) { return n.toLocaleString("en"); }

export function plural(n, one, many = one + "s") { return `${count(n)} ${n === 1 ? one : many}`; }

export function percent(part, all) {
  if (!(all > 0)) return "–";
  const p = 100 * part / all;
  return (p > 0 && p < 10 ? p.toFixed(1) : Math.floor(p)) + " %";
}

// ago is how long ago a time of the seeder was; "" for none.
export function ago(time) {
  if (!time) return "";
  return span((Date.now() - Date.parse(time)) / 1000) + " ago";
}

export function until(time) { return time ? "in " + span((Date.parse(time) - Date.now()) / 1000) : ""; }

export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 48 * 3600) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

export function clock(time) { return time ? new Date(time).toLocaleString("en-GB", {hour12: false}) : ""; }

export function short(digest) { return digest ? digest.replace(/^(\w+:\w{12}).*/, "$1") : ""; }
