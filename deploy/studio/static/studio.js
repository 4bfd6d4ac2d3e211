// What every page shares: keys, forms with short addresses, live parts, reading charts under the mouse. Without it all
// pages still work; nothing here is needed to see or to ask.
"use strict";

const typing = (at) => at.matches("input:not([type=checkbox]), textarea, select") || at.isContentEditable;

// Keys ------------------------------------------------------------------------------------------------------------
document.addEventListener("keydown", (event) => {
  const at = document.activeElement || document.body;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && at.id === "sql") return void at.form.requestSubmit();
  if (event.key === "Escape" && typing(at)) return void at.blur();
  if (event.ctrlKey || event.metaKey || event.altKey || typing(at) || document.querySelector("dialog[open]")) return;
  const page = document.querySelector(`header nav a[data-key="${CSS.escape(event.key)}"]`);
  const field = document.querySelector("input[type=search], #sql");
  if (page) page.click();
  else if (event.key === "?") document.getElementById("help").showModal();
  else if (event.key === "/" && field) { field.focus(); event.preventDefault(); }
  else if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
  else if (event.key === "n" || event.key === "p") document.querySelector(`.turns a[rel=${event.key === "n" ? "next" : "prev"}]`)?.click();
});
document.getElementById("keys").addEventListener("click", () => document.getElementById("help").showModal());

function move(by) {
  const links = [...document.querySelectorAll("table.list tbody tr")].map((row) => row.querySelector("a")).filter(Boolean);
  const at = links.indexOf(document.activeElement);
  links[Math.min(Math.max(at + by, 0), links.length - 1)]?.focus();
}

// Forms: a parameter without a value is not in the address ---------------------------------------------------------
document.addEventListener("submit", (event) => {
  if (event.target.method !== "get") return;
  const empty = [...event.target.elements].filter((field) => field.name && field.value === "");
  for (const field of empty) field.disabled = true;
  setTimeout(() => empty.forEach((field) => { field.disabled = false; }), 100);
});
document.addEventListener("change", (event) => {
  if (event.target.matches("select[data-now], .find select, .find input[type=checkbox]") && event.target.form) event.target.form.requestSubmit();
});
document.addEventListener("click", (event) => {
  const name = event.target.dataset?.insert;
  const field = document.getElementById("sql");
  if (name && field) { field.focus(); field.setRangeText(name, field.selectionStart, field.selectionEnd, "end"); }
});

// Live parts: the page is asked for again, and its #live put in the place of the old one -----------------------------
function refresh() {
  const live = document.getElementById("live");
  if (!live) return;
  setTimeout(async () => {
    try {
      const answer = document.hidden ? null : await fetch(location.href);
      const fresh = answer && answer.ok && new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
      if (fresh) {
        const focus = document.activeElement?.id;
        live.replaceWith(fresh);
        if (focus) document.getElementById(focus)?.focus();
      }
      document.body.classList.remove("gone");
    } catch {
      if (!document.getElementById("gone")) {
        const note = Object.assign(document.createElement("p"), { id: "gone", className: "note bad", textContent: "The studio does not answer: these numbers are old." });
        document.getElementById("main").prepend(note);
      }
      return void refresh();
    }
    document.getElementById("gone")?.remove();
    refresh();
  }, 1000 * Number(live.dataset.live || 5));
}
refresh();

// Charts: the values under the mouse -------------------------------------------------------------------------------
for (const chart of document.querySelectorAll("svg.chart")) {
  const lines = JSON.parse(chart.dataset.lines);
  const [low, high, left, right] = chart.dataset.box.split(" ").map(Number);
  const width = chart.viewBox.baseVal.width;
  const cross = document.createElementNS("http://www.w3.org/2000/svg", "path");
  cross.setAttribute("class", "cross");
  const reading = Object.assign(document.createElement("div"), { className: "reading", hidden: true });
  chart.parentElement.append(reading);
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * width;
    const x = low + ((place - left) / (right - left)) * (high - low);
    const near = lines.map((line) => [line, closest(line.x, x)]).filter(([line, at]) => at >= 0 && line.y[at] !== null);
    if (!near.length || place < left - 4 || place > right + 4) return void hide();
    const [first, index] = near[0];
    const at = left + ((first.x[index] - low) / (high - low)) * (right - left);
    cross.setAttribute("d", `M${at} 10V184`);
    chart.append(cross);
    reading.textContent = `${short(first.x[index])}\n` + near.map(([line, i]) => `${line.name}  ${short(line.y[i])}`).join("\n");
    reading.hidden = false;
    const shift = at / width > 0.6 ? -reading.offsetWidth - 12 : 12;
    const around = chart.parentElement.getBoundingClientRect();
    reading.style.left = `${box.left - around.left + (at / width) * box.width + shift}px`;
    reading.style.top = `${box.top - around.top + 14}px`;
  });
  const hide = () => { reading.hidden = true; cross.remove(); };
  chart.addEventListener("pointerleave", hide);
}
function closest(values, x) {
  let best = -1;
  values.forEach((value, at) => { if (best < 0 || Math.abs(value - x) < Math.abs(values[best] - x)) best = at; });
  return best;
}
function short(value) { return Number.isInteger(value) ? value.toLocaleString("en") : Number(value.toPrecision(4)).toString(); }

// Traces: sentences of the same node -------------------------------------------------------------------------------
for (const piece of document.querySelectorAll(".segments li")) {
  const same = () => piece.parentElement.querySelectorAll(`li[data-node="${piece.dataset.node}"]`);
  piece.addEventListener("pointerenter", () => same().forEach((one) => one.classList.add("same")));
  piece.addEventListener("pointerleave", () => same().forEach((one) => one.classList.remove("same")));
}
