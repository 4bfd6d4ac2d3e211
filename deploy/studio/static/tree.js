// The tree: laid out from left to right, moved and zoomed by mouse or keys, parts of it folded, a trace's walk drawn on
// it. Everything that is chosen stands in the address. All text goes in as text (textContent), never as markup.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const svg = document.getElementById("tree");
const panel = document.getElementById("node");
const nodes = new Map(data.nodes.map((node) => [node.id, { ...node, children: [] }]));
for (const node of nodes.values()) nodes.get(node.parent)?.children.push(node);
const root = nodes.get(data.nodes[0]?.id);
const best = new Set(data.best);
const most = Math.max(1, ...data.nodes.map((node) => node.visits));
// A deep tree has narrower columns and shorter labels, so that it can still be read when all of it is in view.
const COLUMN = Math.min(190, Math.max(92, 860 / Math.max(1, ...data.nodes.map((node) => node.depth))));
const ROW = 27, LABEL = Math.floor(COLUMN / 7.6), LONG_LABEL = 25, MANY = 400;

const params = new URLSearchParams(location.search);
const state = {
  node: nodes.has(Number(params.get("node"))) ? Number(params.get("node")) : (root?.id ?? 0),
  trace: params.get("trace") || "",
  step: params.has("step") ? Number(params.get("step")) : -1,
  paint: params.get("paint") || "q",
  folded: new Set((params.get("fold") || "").split(".").filter(Boolean).map(Number)),
  view: (params.get("view") || "").split(",").map(Number),
};

function remember() {
  const now = new URLSearchParams(location.search);
  const put = (name, value) => (value === "" ? now.delete(name) : now.set(name, value));
  put("node", state.node === root.id || state.step >= 0 ? "" : state.node);
  put("trace", state.trace);
  put("step", state.step < 0 ? "" : state.step);
  put("paint", state.paint === "q" ? "" : state.paint);
  put("fold", [...state.folded].sort((a, b) => a - b).join("."));
  put("view", state.moved ? [view.x, view.y].map(Math.round).join(",") + "," + view.k.toFixed(2) : "");
  const query = now.toString().replaceAll("%2C", ",");
  history.replaceState(null, "", location.pathname + (query ? "?" + query : ""));
}

// Drawing ----------------------------------------------------------------------------------------------------------
function make(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
// Orange (0) over grey to blue (1): told apart by the colour-blind, readable on light and dark.
const STOPS = [[217, 95, 14], [242, 178, 110], [168, 172, 178], [110, 165, 222], [32, 98, 190]];
function colour(value) {
  const at = Math.min(Math.max(value, 0), 1) * (STOPS.length - 1);
  const low = Math.min(Math.floor(at), STOPS.length - 2);
  return `rgb(${STOPS[low].map((part, i) => Math.round(part + (at - low) * (STOPS[low + 1][i] - part))).join(",")})`;
}
const PAINTS = {
  q: (node) => (node.visits || node.terminal ? colour(node.q) : "rgb(140,140,140)"),
  value: (node) => (node.rollouts || node.terminal ? colour(node.value) : "rgb(140,140,140)"),
  prior: (node) => colour(node.prior),
  verdict: (node) => (node.terminal ? colour(node.verdict === "correct" ? 1 : 0) : "rgb(140,140,140)"),
};
const size = (node) => 4 + 9 * Math.sqrt(node.visits / most);
const shortly = (text, length) => { const line = text.replace(/\s+/g, " ").trim(); return line.length > length ? line.slice(0, length - 1) + "…" : line; };
const descendants = (node) => node.children.reduce((sum, child) => sum + 1 + descendants(child), 0);
const needed = (node, kept) => kept.has(node.id) || node.children.some((child) => needed(child, kept));

let rows = 0;
function place(node, depth) {
  node.x = depth * COLUMN;
  node.open = !state.folded.has(node.id);
  const shown = node.open ? node.children : [];
  if (!shown.length) node.y = rows++ * ROW;
  else {
    for (const child of shown) place(child, depth + 1);
    node.y = (shown[0].y + shown.at(-1).y) / 2;
  }
}
// What a step begins with like all its siblings says nothing: the label starts where they part.
function label(node) {
  if (node.id === root.id) return "";
  if (node.terminal && node.answer) return shortly(node.answer, LONG_LABEL);
  const text = node.text.replace(/\s+/g, " ").trim();
  const others = nodes.get(node.parent).children.filter((one) => one !== node).map((one) => one.text.replace(/\s+/g, " ").trim());
  let same = others.length ? text.length : 0;
  for (const other of others) { let at = 0; while (at < same && text[at] === other[at]) at++; same = at; }
  const start = same > 8 && same < text.length ? text.lastIndexOf(" ", same) + 1 : 0;
  return (start ? "…" : "") + shortly(text.slice(start), node.children.length ? LABEL : LONG_LABEL);
}
const visible = (node) => [node, ...(node.open ? node.children.flatMap(visible) : [])];
const stage = make("g");
svg.append(stage);

function draw() {
  rows = 0;
  place(root, 0);
  const shown = visible(root);
  const walk = data.traces.find((trace) => trace.id === state.trace)?.walk || [];
  const edges = make("g"), marks = make("g"), walks = make("g");
  for (const node of shown) {
    if (node !== root) {
      const from = nodes.get(node.parent);
      edges.append(make("path", { class: "edge" + (best.has(node.id) && best.has(from.id) ? " best" : ""), d: curve(from, node) }));
    }
    marks.append(drawNode(node, walk));
  }
  drawWalk(walks, walk, new Set(shown.map((node) => node.id)));
  stage.replaceChildren(edges, walks, marks);
  select(state.node);
}
function curve(from, to) {
  const middle = (from.x + to.x) / 2;
  return `M${from.x} ${from.y}C${middle} ${from.y} ${middle} ${to.y} ${to.x} ${to.y}`;
}
function drawNode(node, walk) {
  const r = size(node);
  const said = `${node.id === root.id ? "root" : shortly(node.text, 80)}; Q ${node.q.toFixed(2)}, ${node.visits} visits${node.terminal ? ", " + (node.verdict || "terminal") : ""}`;
  const group = make("g", {
    class: "node" + (node.adopted ? " adopted" : "") + (walk.length && !walk.includes(node.id) ? " off" : ""),
    id: "n" + node.id, role: "treeitem", "aria-level": node.depth + 1, "aria-selected": "false",
    transform: `translate(${node.x},${node.y})`,
  });
  if (node.children.length) group.setAttribute("aria-expanded", String(node.open));
  group.append(make("circle", { class: "halo", r: r + 5 }), make("circle", node.adopted ? { class: "dot hollow", r: r - 1, stroke: PAINTS[state.paint](node) } : { class: "dot", r, fill: PAINTS[state.paint](node) }));
  if (best.has(node.id)) group.append(make("circle", { class: "ring", r: r + 2.2 }));
  if (node.terminal) group.append(make("text", { class: "sign " + (node.verdict === "correct" ? "correct" : "wrong"), x: r + 5, y: 4.5 }, node.verdict === "correct" ? "✓" : node.verdict === "wrong" ? "✗" : "?"));
  group.append(make("text", { x: r + (node.terminal ? 20 : 5), y: node.terminal ? 4 : -4 }, label(node)));
  if (!node.open) group.append(make("text", { class: "count", x: r + 5, y: 11 }, `+${descendants(node)}`));
  group.setAttribute("aria-label", [group.textContent, said].filter(Boolean).join("; "));
  group.append(make("title", {}, said));
  group.addEventListener("click", () => { leave(); select(node.id); svg.focus({ preventScroll: true }); });
  group.addEventListener("dblclick", (event) => { fold(node.id); event.stopPropagation(); });
  return group;
}
function drawWalk(layer, walk, shown) {
  const seen = new Set(walk.slice(0, 1));
  for (let at = 1; at < walk.length; at++) {
    const from = nodes.get(walk[at - 1]), to = nodes.get(walk[at]);
    const back = seen.has(to?.id);
    seen.add(to?.id);
    if (!from || !to || !shown.has(from.id) || !shown.has(to.id)) continue;
    const when = state.step < 0 ? "" : at === state.step ? " now" : at > state.step ? " later" : "";
    const d = back ? `M${from.x} ${from.y}C${from.x - 40} ${from.y + 26} ${to.x + 70} ${to.y + 34} ${to.x} ${to.y}` : curve(from, to);
    layer.append(make("path", { class: "walk" + (back ? " back" : "") + when, d }));
    if (!back) layer.append(make("text", { class: "order", x: to.x - size(to) - 4, y: to.y + 14, "text-anchor": "end" }, String(at)));
  }
}

// View -------------------------------------------------------------------------------------------------------------
const view = { x: 40, y: 40, k: 1 };
function look(moved) {
  stage.setAttribute("transform", `translate(${view.x},${view.y}) scale(${view.k})`);
  state.moved ||= moved;
  clearTimeout(look.timer);
  look.timer = setTimeout(remember, 200);
}
function fit() {
  const box = svg.getBoundingClientRect(), bounds = stage.getBBox();
  view.k = Math.min(1.4, Math.max(0.3, Math.min((box.width - 40) / (bounds.width + 20), (box.height - 40) / (bounds.height + 20))));
  view.x = 24 - bounds.x * view.k;
  view.y = Math.max(20, (box.height - bounds.height * view.k) / 2) - bounds.y * view.k;
  state.moved = false;
  look(false);
}
function zoom(factor, x, y) {
  const k = Math.min(4, Math.max(0.08, view.k * factor));
  view.x = x - ((x - view.x) * k) / view.k;
  view.y = y - ((y - view.y) * k) / view.k;
  view.k = k;
  look(true);
}
const middle = () => { const box = svg.getBoundingClientRect(); return [box.width / 2, box.height / 2]; };
svg.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = svg.getBoundingClientRect();
  zoom(Math.exp(-event.deltaY * 0.0015), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });
let held = null;
svg.addEventListener("pointerdown", (event) => { held = [event.clientX - view.x, event.clientY - view.y, event.clientX, event.clientY]; });
svg.addEventListener("pointermove", (event) => {
  if (!held || !event.buttons) return;
  if (Math.hypot(event.clientX - held[2], event.clientY - held[3]) > 3) svg.setPointerCapture(event.pointerId);
  [view.x, view.y] = [event.clientX - held[0], event.clientY - held[1]];
  look(true);
});
svg.addEventListener("pointerup", () => { held = null; });
function reveal(node) {
  const box = svg.getBoundingClientRect(), x = view.x + node.x * view.k, y = view.y + node.y * view.k;
  if (x < 20) view.x += 60 - x; else if (x > box.width - 160) view.x -= x - box.width + 200;
  if (y < 20) view.y += 60 - y; else if (y > box.height - 30) view.y -= y - box.height + 70;
  look(false);
}

// Choosing and folding -----------------------------------------------------------------------------------------------
function select(id) {
  state.node = id;
  for (let node = nodes.get(nodes.get(id).parent); node; node = nodes.get(node.parent)) {
    if (state.folded.delete(node.id)) return draw();
  }
  stage.querySelector('[aria-selected="true"]')?.setAttribute("aria-selected", "false");
  document.getElementById("n" + id)?.setAttribute("aria-selected", "true");
  svg.setAttribute("aria-activedescendant", "n" + id);
  describe(nodes.get(id));
  reveal(nodes.get(id));
}
// To choose a node by hand ends stepping along the walk.
function leave() {
  if (state.step < 0) return;
  state.step = -1;
  draw();
}
function fold(id) {
  if (!nodes.get(id).children.length) return;
  if (!state.folded.delete(id)) state.folded.add(id);
  draw();
}
function foldUnneeded() {
  // What leads to a correct answer or lies on the walk stays open; where nothing does, the first steps stay.
  const kept = new Set([...data.nodes.filter((node) => node.verdict === "correct").map((node) => node.id), ...(data.traces.find((trace) => trace.id === state.trace)?.walk || [])]);
  const folds = kept.size
    ? (node) => !needed(node, kept) && (!nodes.has(node.parent) || needed(nodes.get(node.parent), kept))
    : (node) => node.depth === 2;
  state.folded = new Set([...nodes.values()].filter((node) => node.children.length && folds(node)).map((node) => node.id));
  draw();
  fit();
}
function stepWalk(by) {
  const walk = data.traces.find((trace) => trace.id === state.trace)?.walk;
  if (!walk) return;
  state.step = Math.min(Math.max(state.step + by, 0), walk.length - 1);
  state.node = walk[state.step];
  draw();
}
const KEYS = {
  ArrowLeft: (node) => nodes.get(node.parent), ArrowRight: (node) => node.children[Math.floor((node.children.length - 1) / 2)],
  ArrowUp: (node) => neighbour(node, -1), ArrowDown: (node) => neighbour(node, 1), Home: () => root,
};
function neighbour(node, by) {
  const peers = visible(root).filter((one) => one.depth === node.depth);
  return peers[peers.indexOf(node) + by];
}
svg.addEventListener("keydown", (event) => {
  const node = nodes.get(state.node);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (KEYS[event.key]) { leave(); const to = KEYS[event.key](node); if (to) { state.folded.delete(node.id) && event.key === "ArrowRight" ? (state.node = to.id, draw()) : select(to.id); } }
  else if (event.key === " " || event.key === "Enter") fold(node.id);
  else if (event.key === "+" || event.key === "=") zoom(1.25, ...middle());
  else if (event.key === "-") zoom(0.8, ...middle());
  else if (event.key === "0") fit();
  else if (event.key === "w" || event.key === "W") stepWalk(event.key === "w" ? 1 : -1);
  else return;
  event.preventDefault();
  event.stopPropagation();
});

// The side panel -------------------------------------------------------------------------------------------------------
function element(name, text, className) {
  return Object.assign(document.createElement(name), { textContent: text ?? "", className: className || "" });
}
function jump(node, text) {
  const item = element("li"), button = element("button", text);
  button.type = "button";
  button.addEventListener("click", () => { leave(); select(node.id); });
  item.append(button);
  return item;
}
function describe(node) {
  const facts = [
    ["Q", node.q.toFixed(3)], ["visits", node.visits], ["prior", node.prior.toFixed(3)], ["own value", node.value.toFixed(3)],
    ["rollouts correct", `${node.rollouts_correct} of ${node.rollouts}`], ["mean log-prob", node.logprob.toFixed(3)], ["tokens", node.tokens],
  ];
  if (node.merged > 1) facts.push(["sampled alike", node.merged + " times"]);
  if (node.votes) facts.push(["votes", `${node.votes_yes} of ${node.votes}`]);
  if (node.cut) facts.push(["cut", "at a reserved phrase"]);
  if (node.adopted) facts.push(["adopted", "from a rollout"]);
  const heading = element("h2", node.id === root.id ? "Root" : `Node ${node.id}, depth ${node.depth}`);
  const table = element("table");
  for (const [name, value] of facts) { const row = element("tr"); row.append(element("th", name), element("td", value)); table.append(row); }
  const parts = [heading];
  if (node.terminal) parts.push(element("p", `${node.verdict === "correct" ? "✓" : "✗"} ${node.verdict || "terminal"}: ${node.answer}`, "v " + node.verdict));
  parts.push(element("pre", node.id === root.id ? "(the question)" : node.text.trim(), "prose"), table);
  const path = [];
  for (let at = nodes.get(node.parent); at && at !== root; at = nodes.get(at.parent)) path.unshift(at);
  if (path.length) { const list = element("ol"); list.append(...path.map((one) => jump(one, shortly(one.text, 160)))); parts.push(element("h2", "Before it"), list); }
  if (node.children.length) {
    const list = element("ul");
    list.append(...[...node.children].sort((a, b) => b.visits - a.visits).map((one) => jump(one, `Q ${one.q.toFixed(2)} · N ${one.visits} · p ${one.prior.toFixed(2)} · ${shortly(one.text, 90)}`)));
    parts.push(element("h2", "After it"), list);
  }
  const through = data.traces.filter((trace) => trace.walk.includes(node.id));
  if (through.length) {
    const list = element("ul");
    for (const trace of through) { const item = element("li"), link = element("a", `${trace.arm} ${trace.id.slice(0, 8)}`); link.href = "/traces/" + encodeURIComponent(trace.id); item.append(link); list.append(item); }
    parts.push(element("h2", "Traces through it"), list);
  }
  panel.replaceChildren(...parts);
}

// The tools --------------------------------------------------------------------------------------------------------------
const on = (id, act) => document.getElementById(id).addEventListener("click", act);
on("in", () => zoom(1.25, ...middle()));
on("out", () => zoom(0.8, ...middle()));
on("fit", fit);
on("fold", foldUnneeded);
on("unfold", () => { state.folded.clear(); draw(); fit(); });
on("step", () => stepWalk(1));
on("unwalk", () => stepWalk(-1));
const walkChoice = document.getElementById("walk"), paintChoice = document.getElementById("paint");
walkChoice.addEventListener("change", () => { state.trace = walkChoice.value; state.step = -1; draw(); });
paintChoice.value = PAINTS[state.paint] ? state.paint : (state.paint = "q");
paintChoice.addEventListener("change", () => { state.paint = paintChoice.value; draw(); });
document.getElementById("scale").append(...Array.from({ length: 24 }, (_, at) => make("rect", { x: at * 5, y: 0, width: 5, height: 12, fill: colour(at / 23) })));

const walked = data.traces.find((trace) => trace.id === state.trace)?.walk;
if (walked && state.step >= 0 && !params.has("node")) state.node = walked[Math.min(state.step, walked.length - 1)];
if (root) {
  if (data.nodes.length > MANY && !params.has("fold")) { place(root, 0); foldUnneeded(); } else { draw(); fit(); }
  if (state.view.length === 3 && state.view.every(Number.isFinite)) { [view.x, view.y, view.k] = state.view; look(true); }
}
