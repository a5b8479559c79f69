// The little that is needed to keep a page up to date. What comes from the swarm
// goes into the page as text only: nothing here makes markup of a string.

// h makes an element. Attributes that are functions are listeners, true and false
// switch; children that are null are left out.
export function h(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) {
    if (typeof v === "function") e.addEventListener(k, v);
    else if (v === true) e.setAttribute(k, "");
    else if (v !== false && v !== null && v !== undefined) e.setAttribute(k, v);
  }
  e.append(...children.flat().filter((c) => c !== null && c !== undefined));
  return e;
}

// say changes a text, where it is another: a screen reader reads what changes.
export function say(e, text) { if (e.textContent !== text) e.textContent = text; }

// list keeps one child for each item, in order. A child stays while its item has
// the same key, and is made anew where the item changed; the focus stays.
export function list(parent, items, key, make) {
  const old = new Map([...parent.children].map((c) => [c.dataset.key, c]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const k = String(key(item)), state = JSON.stringify(item);
    let c = old.get(k);
    old.delete(k);
    if (!c || c.dataset.state !== state || c.dataset.moving) {
      const fresh = make(item);
      fresh.dataset.key = k;
      fresh.dataset.state = state;
      if (c) {
        const focus = c.contains(document.activeElement) ? [...c.querySelectorAll("a,button,input")].indexOf(document.activeElement) : -1;
        if (c === at) at = c.nextElementSibling;
        c.replaceWith(fresh);
        if (focus >= 0) fresh.querySelectorAll("a,button,input")[focus]?.focus();
      }
      c = fresh;
    }
    if (c === at) at = at.nextElementSibling;
    else parent.insertBefore(c, at);
  }
  for (const c of old.values()) c.remove();
}

// Table is one with a caption, columns of {name, number, cell}, and a text for
// when it is empty.
export class Table {
  constructor(caption, columns, key, empty) {
    this.columns = columns;
    this.key = key;
    this.body = h("tbody");
    this.table = h("table", {}, h("caption", {}, caption),
      h("thead", {}, h("tr", {}, columns.map((c) => h("th", {scope: "col", class: c.number ? "n" : null}, c.name)))), this.body);
    this.empty = h("p", {class: "none"}, empty);
    this.frame = h("div", {class: "scroll", role: "region", tabindex: "0", "aria-label": caption}, this.table);
    this.root = h("div", {}, this.frame, this.empty);
  }

  show(items) {
    this.empty.hidden = items.length > 0;
    this.frame.hidden = items.length === 0;
    list(this.body, items, this.key, (item) => {
      const tr = h("tr", {}, this.columns.map((c, i) => h(i === 0 ? "th" : "td", {scope: i === 0 ? "row" : null, class: c.number ? "n" : null}, c.cell(item))));
      if (this.columns.some((c) => c.moving)) tr.dataset.moving = "1"; // it shows the time that goes by
      return tr;
    });
  }
}

// Pager is which part of a list is shown.
export class Pager {
  constructor(what, size, changed) {
    this.size = size;
    this.offset = 0;
    const step = (n) => () => { this.offset = Math.max(0, this.offset + n * size); changed(); };
    this.back = h("button", {type: "button", click: step(-1)}, "Previous");
    this.on = h("button", {type: "button", click: step(1)}, "Next");
    this.text = h("span");
    this.root = h("p", {class: "pager"}, this.back, " ", this.on, " ", this.text);
    this.what = what;
  }

  show(total, shown) {
    if (shown === 0 && this.offset > 0 && total > 0) this.offset = 0;
    say(this.text, total === 0 ? "" : `${this.offset + 1} to ${this.offset + shown} of ${total.toLocaleString("en")} ${this.what}`);
    this.back.disabled = this.offset === 0;
    this.on.disabled = this.offset + shown >= total;
    this.root.hidden = total <= this.size && this.offset === 0;
  }
}

// field is an input with its label.
export function field(label, input) {
  const id = input.id || "f" + Math.random().toString(36).slice(2);
  input.id = id;
  return h("span", {class: "field"}, h("label", {for: id}, label), " ", input);
}

// bar is parts of a whole, as colours; the text says the same.
export function bar(parts, text) {
  const all = parts.reduce((n, p) => n + p.n, 0);
  const b = h("span", {class: "bar", role: "img", "aria-label": text});
  for (const p of parts) {
    if (!(p.n > 0)) continue;
    const s = h("span", {class: "seg " + p.kind});
    s.style.flexGrow = String(p.n / all);
    b.append(s);
  }
  return b;
}
