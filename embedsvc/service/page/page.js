// The page at "/": asks the service it came from, and draws what it answers. No library, nothing from elsewhere.
"use strict";

const $ = id => document.getElementById(id);
const BEFORE = "pre_dropout.inference";
const GROUPS = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377"];
const state = { texts: [], answer: null, map: null, places: null, turn: 0 };

// Text always becomes a text node: what people type is never markup here.
function el(name, options = {}, ...children) {
  const svg = ["svg", "circle", "rect", "line", "text", "title"].includes(name);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(options)) node.setAttribute(key, value);
  node.append(...children.map(child => (typeof child === "number" ? String(child) : child)));
  return node;
}

async function ask(path, body) {
  const headers = { accept: "application/json" };
  if ($("key")?.value) headers.authorization = `Bearer ${$("key").value}`;
  if (body) headers["content-type"] = "application/json";
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error?.message ?? `the service answered ${response.status}`);
  return answer;
}

function say(words, failed = false) {
  $("status").textContent = words;
  $("status").className = failed ? "error" : "";
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    say(error.message, true);
  }
}

async function loadModels() {
  const { data } = await ask("/v1/models");
  const names = data.filter(model => model.state === "ready").map(model => model.id);
  if (!$("model").options.length) $("model").replaceChildren(...names.map(name => el("option", {}, name)));
}

async function embed() {
  const texts = $("texts").value.split("\n").map(line => line.trim()).filter(Boolean);
  if (!texts.length) return say("Type at least one text.", true);
  const turn = ++state.turn;
  say("Embedding …");
  document.querySelector("button").disabled = true;
  try {
    await loadModels();
    const asked = { texts, model: $("model").value || null, passes: +$("passes").value, seed: +$("seed").value };
    const began = performance.now();
    const answer = await ask("/v1/cosines", asked);
    if (turn !== state.turn) return;
    Object.assign(state, { texts, answer, places: null });
    const cut = answer.texts.filter(text => text.truncated).length;
    const seconds = ((performance.now() - began) / 1000).toFixed(2);
    say(`${texts.length} texts through ${1 + asked.passes} passes in ${seconds} s` + (cut ? `; ${cut} were cut short` : ""));
    drawStrips();
    drawMatrices();
    fill($("query"), texts.map((text, at) => [at, `${at + 1}  ${text.slice(0, 70)}`]));
    $("near").hidden = texts.length < 2 && !$("among").value;
    await drawNeighbours();
    if ($("set")) await drawMap();
  } finally {
    document.querySelector("button").disabled = false;
  }
}

function fill(select, pairs, keep = false) {
  const before = select.value;
  select.replaceChildren(...pairs.map(([value, words]) => el("option", { value }, words)));
  if (keep && pairs.some(([value]) => String(value) === before)) select.value = before;
}

function drawStrips() {
  const { to_reference: cosines, expected, rate } = state.answer;
  const passes = mode => Object.keys(cosines).filter(name => name.startsWith(`post_dropout.${mode}.`));
  const known = value => value !== null && Number.isFinite(value);
  const every = [...Object.values(cosines).flat(), ...expected.mean.map((m, i) => m - 2 * expected.deviation[i])];
  const low = Math.floor(20 * Math.min(...every.filter(known), 0.95) - 0.2) / 20;
  const x = value => `${(100 * (value - low)) / (1 - low)}%`;
  $("turned-about").textContent =
    `Cosine of each vector after dropout with the same text's ${BEFORE}; the head drops ${Math.round(100 * rate)} % of the units.`;
  $("strips").replaceChildren(
    ...state.texts.map((text, row) => {
      const svg = el("svg", { role: "img", "aria-label": `Cosines of text ${row + 1}` });
      const from = expected.mean[row] - 2 * expected.deviation[row];
      const to = Math.min(1, expected.mean[row] + 2 * expected.deviation[row]);
      svg.append(el("rect", { class: "band", x: x(from), y: 6, height: 24, rx: 2, width: `${(100 * (to - from)) / (1 - low)}%` }));
      svg.append(el("line", { class: "line", x1: 0, x2: "100%", y1: 18, y2: 18 }));
      for (const tick of [0, 1 / 3, 2 / 3, 1].map(part => low + part * (1 - low))) {
        const anchor = tick === low ? "start" : tick === 1 ? "end" : "middle";
        svg.append(el("line", { class: "line", x1: x(tick), x2: x(tick), y1: 14, y2: 22 }));
        svg.append(el("text", { x: x(tick), y: 42, "text-anchor": anchor }, tick.toFixed(2)));
      }
      for (const mode of ["training", "head"])
        for (const name of passes(mode)) {
          const value = cosines[name][row];
          if (!known(value)) continue;
          const dot = el("circle", { class: mode, cx: x(value), cy: mode === "head" ? 15 : 21, r: mode === "head" ? 4.5 : 4 });
          dot.append(el("title", {}, `${name}: ${value.toFixed(4)}`));
          svg.append(dot);
        }
      return el("div", { class: "strip" }, el("div", { class: "text", title: text }, `${row + 1}  ${text}`), svg);
    })
  );
  $("turned").hidden = false;
}

function color(value) {
  // Yellow for alike, blue for opposite: the scale for scores of the reports, readable for colour-blind eyes.
  const stops = [[52, 80, 124], [87, 92, 109], [123, 123, 120], [165, 156, 116], [211, 193, 100]];
  const at = Math.max(0, Math.min(1, value)) * (stops.length - 1);
  const [low, part] = [Math.min(Math.floor(at), stops.length - 2), at - Math.min(Math.floor(at), stops.length - 2)];
  return stops[low].map((channel, i) => Math.round(channel + part * (stops[low + 1][i] - channel)));
}

function matrix(values) {
  const n = values.length;
  const grid = el("div", { class: "matrix" });
  grid.style.gridTemplateColumns = `1.6rem repeat(${n}, minmax(0, 1fr))`;
  grid.append(el("span", { class: "label" }), ...values.map((_, i) => el("span", { class: "label" }, i + 1)));
  values.forEach((row, i) => {
    grid.append(el("span", { class: "label" }, i + 1));
    row.forEach((value, j) => {
      const [r, g, b] = color(value);
      const title = `${state.texts[i]}\n${state.texts[j]}\n${value.toFixed(4)}`;
      const cell = el("span", { title }, n > 16 ? "" : value.toFixed(2));
      cell.style.background = `rgb(${r}, ${g}, ${b})`;
      cell.style.color = r * 0.3 + g * 0.6 + b * 0.1 > 125 ? "#14181f" : "#ffffff";
      grid.append(cell);
    });
  });
  return grid;
}

function drawMatrices() {
  const { between } = state.answer;
  fill($("after"), Object.keys(between).filter(name => name !== BEFORE).map(name => [name, name]), true);
  $("matrix-before").replaceChildren(matrix(between[BEFORE]));
  $("matrix-after").replaceChildren(matrix(between[$("after").value]));
  $("between").hidden = state.texts.length < 2;
  const [before, after] = [between[BEFORE], between[$("after").value]];
  let sum = 0, count = 0;
  before.forEach((row, i) => row.forEach((value, j) => { if (i < j) { sum += after[i][j] - value; count += 1; } }));
  const change = count ? sum / count : 0;
  $("between-about").textContent = `Two texts under masks of their own are, on average, ${(Math.abs(change)).toFixed(3)} ` +
    `${change < 0 ? "less" : "more"} alike than before.`;
}

function column(name, hits, lost) {
  const item = (hit, mark) =>
    el("li", { class: mark ?? "" },
      el("span", { class: `mark ${mark ?? ""}` }, mark === "gained" ? "+" : mark === "lost" ? "−" : hit.rank),
      el("span", { class: "words", title: hit.text }, hit.text),
      el("span", { class: "value" }, hit.cosine.toFixed(3)));
  return el("div", { class: "card" }, el("h3", {}, el("code", {}, name)),
    el("ol", {}, ...hits.map(hit => item(hit, hit.mark === "gained" ? "gained" : undefined)), ...lost.map(hit => item(hit, "lost"))));
}

async function drawNeighbours() {
  const row = +$("query").value;
  const set = $("among").value;
  const columns = set ? await neighboursInSet(set, state.texts[row]) : neighboursHere(row);
  $("columns").replaceChildren(...columns);
  $("near").hidden = !columns.length;
  if (state.map) paint();
}

async function neighboursInSet(set, text) {
  const turn = state.turn;
  const found = await ask("/v1/neighbors", { set, text, k: 6 });
  if (turn !== state.turn) return [];
  state.places = { set, text, at: found.places ?? {} };
  const hit = each => ({ ...each, cosine: 1 - each.distance });
  return Object.entries(found.variants).filter(([name]) => !name.startsWith("logits"))
    .map(([name, { hits, lost }]) => column(name, hits.map(hit), lost.map(hit)));
}

function neighboursHere(row) {
  state.places = null;
  const k = Math.min(5, state.texts.length - 1);
  const ranked = values => values.map((cosine, at) => ({ at, cosine })).filter(({ at }) => at !== row)
    .sort((a, b) => b.cosine - a.cosine).slice(0, k)
    .map(({ at, cosine }, i) => ({ at, cosine, rank: i + 1, text: state.texts[at] }));
  const lists = Object.entries(state.answer.between).map(([name, values]) => [name, ranked(values[row])]);
  const first = new Set(lists[0][1].map(hit => hit.at));
  return lists.map(([name, hits]) => {
    const here = new Set(hits.map(hit => hit.at));
    return column(name, hits.map(hit => ({ ...hit, mark: first.has(hit.at) ? "kept" : "gained" })),
      lists[0][1].filter(hit => !here.has(hit.at)));
  });
}

async function drawMap() {
  const name = $("set").value;
  if (state.map?.set !== name) {
    state.map = await ask(`/v1/sets/${encodeURIComponent(name)}/map`);
    fill($("variant"), Object.keys(state.map.variants).map(variant => [variant, variant]));
    const labels = state.map.labels.filter(label => label !== null);
    const counts = new Map();
    labels.forEach(label => counts.set(label, (counts.get(label) ?? 0) + 1));
    const top = [...counts].sort((a, b) => b[1] - a[1]).slice(0, GROUPS.length).map(([label]) => label);
    state.map.colors = state.map.labels.map(label => GROUPS[top.indexOf(label)] ?? (top.length ? "#999999" : GROUPS[0]));
    $("map-legend").replaceChildren(...top.map((label, i) => {
      const swatch = el("span", { class: "swatch" });
      swatch.style.background = GROUPS[i];
      return el("span", { class: "item" }, swatch, label);
    }));
  }
  paint();
}

function paint() {
  const { map } = state;
  const canvas = $("canvas"), shown = $("variant").value, places = map.variants[shown];
  const ratio = window.devicePixelRatio || 1, { clientWidth: w, clientHeight: h } = canvas;
  canvas.width = w * ratio;
  canvas.height = h * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  // The frame is that of the reference, so that a change of variant moves the texts and not the axes.
  const all = Object.values(map.variants).flat();
  const [xs, ys] = [0, 1].map(axis => all.map(place => place[axis]));
  const range = values => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
  const [[left, right], [low, high]] = [range(xs), range(ys)];
  const scale = Math.min((w - 40) / (right - left || 1), (h - 40) / (high - low || 1));
  const at = ([x, y]) => [w / 2 + (x - (left + right) / 2) * scale, h / 2 - (y - (low + high) / 2) * scale];
  const size = Math.max(1.6, Math.min(4.5, 90 / Math.sqrt(places.length)));
  const moved = map.moved[shown];
  if (moved) {
    context.globalAlpha = 0.35;
    context.lineWidth = 1;
    places.forEach((place, i) => {
      if (!moved[i]) return;
      context.strokeStyle = map.colors[i];
      context.beginPath();
      context.moveTo(...at(map.variants[map.reference][i]));
      context.lineTo(...at(place));
      context.stroke();
    });
  }
  context.globalAlpha = 0.8;
  map.spots = places.map(at);
  map.spots.forEach(([x, y], i) => {
    context.fillStyle = map.colors[i];
    context.beginPath();
    context.arc(x, y, size, 0, 2 * Math.PI);
    context.fill();
  });
  context.globalAlpha = 1;
  const mine = state.places?.set === map.set ? state.places.at[shown] : undefined;
  if (mine) {
    const [x, y] = at(mine);
    const style = getComputedStyle(document.body);
    context.lineWidth = 2.5;
    context.strokeStyle = style.color;
    context.beginPath();
    context.arc(x, y, 9, 0, 2 * Math.PI);
    context.moveTo(x - 14, y); context.lineTo(x + 14, y);
    context.moveTo(x, y - 14); context.lineTo(x, y + 14);
    context.stroke();
  }
  const share = moved ? moved.filter(Boolean).length : 0;
  $("map-about").textContent = `${map.texts_in_all.toLocaleString("en")} texts` +
    (map.texts_in_all > places.length ? `, ${places.length.toLocaleString("en")} drawn` : "") + `. ${map.method}` +
    (moved ? ` A line leads from where ${map.reference} has a text, if it moved further than 95 % of the head's masks would move it: ${share} do.` : "") +
    (mine ? " The cross is your text." : "");
}

function hover(event) {
  const tip = $("tip");
  if (!state.map?.spots) return;
  const box = $("canvas").getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  let best = -1, near = 144;
  state.map.spots.forEach(([a, b], i) => {
    const far = (a - x) ** 2 + (b - y) ** 2;
    if (far < near) [best, near] = [i, far];
  });
  tip.hidden = best < 0;
  if (best < 0) return;
  const label = state.map.labels[best];
  tip.textContent = (label === null ? "" : `${label}: `) + state.map.texts[best];
  tip.style.left = `${Math.min(x + 14, Math.max(0, box.width - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.min(y + 14, Math.max(0, box.height - tip.offsetHeight - 8))}px`;
}

$("ask").addEventListener("submit", event => { event.preventDefault(); guarded(embed); });
$("after").addEventListener("change", drawMatrices);
$("query").addEventListener("change", () => guarded(drawNeighbours));
$("among").addEventListener("change", () => guarded(drawNeighbours));
if ($("set")) {
  $("set").addEventListener("change", () => guarded(drawMap));
  $("variant").addEventListener("change", paint);
  $("canvas").addEventListener("pointermove", hover);
  $("canvas").addEventListener("pointerleave", () => { $("tip").hidden = true; });
  window.addEventListener("resize", () => state.map && paint());
}
if (!document.body.dataset.guarded) guarded(async () => { await loadModels(); if ($("set")) await drawMap(); });
