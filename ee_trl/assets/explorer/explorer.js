"use strict";
// The explorer of ee-trl. All text of the data reaches the page through textContent or createTextNode alone.

const DATA = JSON.parse(document.getElementById("data").textContent);
const QUADRANTS = ["sensibility", "rationality", "balanced", "low", "tie"];
const UNSCORED = "unscored";
const ROWS = 25; // of the table at a time
const HISTOGRAM = Object.fromEntries(Object.entries(DATA.histogram).map(([name, v]) => [name, Int32Array.from(v)]));
const DIALOGUES = DATA.dialogues;
const WIDTH = DATA.whole ? 20 : 10; // bins of a cell: a point where all scores are whole, half a point otherwise
const CELLS = DATA.whole ? 11 : 20;
const state = {
  t: DATA.start.threshold, ties: DATA.start.ties, keep: new Set(DATA.start.keep),
  shown: { quadrant: DATA.start.keep[0] }, emotion: -1, query: "", page: 0,
};
const byId = (id) => document.getElementById(id);
const number = (n) => n.toLocaleString("en-US");
const tenths = (place) => (place / 10).toFixed(1);
const percent = (part, whole) => (whole ? (100 * part / whole).toFixed(1) + "%" : "none");

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// ---- the rule: bin 2k is a score equal to k / 10, so that bins compare as the scores themselves do ----------------

function quadrant(s, r, t = state.t, ties = state.ties) {
  if (s < 0 || r < 0) return UNSCORED;
  const [a, b] = [2 * t[0], 2 * t[1]];
  const [sHigh, rHigh] = ties === "high" ? [s >= a, r >= b] : [s > a, r > b];
  const [sLow, rLow] = ties === "low" ? [s <= a, r <= b] : [s < a, r < b];
  if (sHigh && rLow) return "sensibility";
  if (sLow && rHigh) return "rationality";
  return sHigh && rHigh ? "balanced" : sLow && rLow ? "low" : "tie";
}

/** How many samples each quadrant has, and each by emotion: { sensibility: n, ..., unscored: n } and a list of such. */
function countsAt(t, ties) {
  const zero = () => Object.fromEntries([...QUADRANTS, UNSCORED].map((name) => [name, 0]));
  const all = zero();
  const emotions = (DATA.emotions || []).map(zero);
  const { s, r, emotion, count } = HISTOGRAM;
  for (let i = 0; i < s.length; i++) {
    const name = quadrant(s[i], r[i], t, ties);
    all[name] += count[i];
    if (DATA.emotions) emotions[emotion[i]][name] += count[i];
  }
  return { all, emotions };
}

const cellOf = (bin) => Math.min(Math.floor(bin / WIDTH), CELLS - 1);

function isShown(s, r) {
  const { cell, quadrant: name } = state.shown;
  return cell ? s >= 0 && r >= 0 && cellOf(s) === cell[0] && cellOf(r) === cell[1] : quadrant(s, r) === name;
}

/** How many samples of the data set are in what is shown. */
function shownCount() {
  const { s, r, emotion, count } = HISTOGRAM;
  let total = 0;
  for (let i = 0; i < s.length; i++) {
    if (isShown(s[i], r[i]) && (state.emotion < 0 || emotion[i] === state.emotion)) total += count[i];
  }
  return total;
}

// ---- the command -----------------------------------------------------------------------------------------------

function command() {
  const keep = [...QUADRANTS].filter((name) => state.keep.has(name));
  const [s, r] = state.t.map(tenths);
  const start = DATA.command || "ee-trl select scored.parquet";
  return {
    keep,
    shell: `${start} --keep ${keep.join(",")} --threshold ${s} ${r} --ties ${state.ties} -o ${keep.join("_")}.parquet`,
    python: `EmpathyDataSelector(threshold=(${s}, ${r}), ties="${state.ties}").select(scored, keep="${keep.join(",")}")`,
  };
}

/** Text that breaks between its words, and not after the hyphens of an option. */
function showWords(id, text) {
  byId(id).replaceChildren(...text.split(" ").flatMap((word, i) => [i ? " " : "", element("span", word)]));
}

function showCommand(counts) {
  const { keep, shell, python } = command();
  const kept = keep.reduce((sum, name) => sum + counts[name], 0);
  byId("kept").textContent = keep.length
    ? `Keeps ${number(kept)} of ${number(DATA.rows)} (${percent(kept, DATA.rows)}): ${keep.join(", ")}.`
    : "Tick what to keep.";
  showWords("command", keep.length ? shell : "");
  showWords("python", keep.length ? python : "");
  byId("copy").disabled = !keep.length;
}

async function copyCommand() {
  try {
    await navigator.clipboard.writeText(byId("command").textContent);
    byId("copy").textContent = "Copied";
  } catch { // pages from a file may not: leave it selected
    getSelection().selectAllChildren(byId("command"));
    byId("copy").textContent = "Selected";
  }
  setTimeout(() => { byId("copy").textContent = "Copy"; }, 1500);
}

// ---- quadrants and emotions ------------------------------------------------------------------------------------

function makeQuadrants() {
  const names = DATA.rows > DATA.scored ? [...QUADRANTS, UNSCORED] : QUADRANTS;
  for (const name of names) {
    const row = element("tr", "", { "data-quadrant": name });
    const [keep, label, count, share] = ["td", "td", "td", "td"].map((tag) => element(tag));
    if (name !== UNSCORED) {
      const box = element("input", "", { type: "checkbox", "aria-label": `keep ${name}` });
      box.checked = state.keep.has(name);
      box.addEventListener("change", () => {
        if (box.checked) state.keep.add(name); else state.keep.delete(name);
        update();
      });
      keep.append(box);
    }
    const button = element("button", name, { type: "button", "aria-pressed": "false" });
    button.addEventListener("click", () => show({ quadrant: name }));
    label.append(button);
    count.className = share.className = "number";
    row.append(keep, label, count, share);
    byId("quadrants").tBodies[0].append(row);
  }
  if (names.includes(UNSCORED)) {
    const cells = byId("quadrants").tBodies[0].lastChild.children;
    cells[2].textContent = number(DATA.rows - DATA.scored);
    cells[3].textContent = "–";
  }
}

function showQuadrants(counts) {
  for (const row of byId("quadrants").tBodies[0].rows) {
    const name = row.dataset.quadrant;
    row.querySelector("button").setAttribute("aria-pressed", String(state.shown.quadrant === name));
    if (name === UNSCORED) continue;
    row.cells[2].textContent = number(counts[name]);
    row.cells[3].textContent = percent(counts[name], DATA.scored);
  }
}

function makeEmotions() {
  if (!DATA.emotions) {
    for (const id of ["emotions", "by-emotion"]) byId(id).hidden = true;
    document.querySelector("#texts .emotion").hidden = true;
    return;
  }
  DATA.emotions.forEach((name, i) => {
    byId("emotion").append(element("option", name, { value: i }));
    const row = element("tr");
    const bars = element("td");
    const bar = element("div", "", { class: "bar", "aria-hidden": "true" });
    bar.append(...QUADRANTS.map((q) => element("span", "", { "data-quadrant": q })));
    bars.append(bar);
    const shares = QUADRANTS.map(() => element("td", "", { class: "number" }));
    row.append(element("th", name, { scope: "row" }), element("td", "", { class: "number" }), bars, ...shares);
    document.querySelector("#emotions tbody").append(row);
  });
}

function showEmotions(emotions) {
  const rows = document.querySelector("#emotions tbody").rows;
  emotions.forEach((counts, i) => {
    const total = QUADRANTS.reduce((sum, name) => sum + counts[name], 0);
    const cells = rows[i].cells;
    cells[1].textContent = number(total);
    QUADRANTS.forEach((name, j) => {
      cells[3 + j].textContent = percent(counts[name], total);
      cells[2].firstChild.children[j].style.width = `${total ? 100 * counts[name] / total : 0}%`;
    });
  });
}

// ---- the plane -------------------------------------------------------------------------------------------------

const EDGE = DATA.whole ? -0.5 : 0; // where the first cell starts
const STEP = WIDTH / 20;
const centre = (i) => EDGE + (i + 0.5) * STEP;
const cellName = (i) => (DATA.whole ? String(i) : `${(i * STEP).toFixed(1)} to ${((i + 1) * STEP).toFixed(1)}`);

function plotData() {
  const places = Array.from({ length: CELLS }, (_, i) => i);
  const counts = places.map(() => places.map(() => 0));
  HISTOGRAM.s.forEach((s, i) => {
    if (s >= 0) counts[cellOf(HISTOGRAM.r[i])][cellOf(s)] += HISTOGRAM.count[i];
  });
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const most = Math.max(1, ...counts.flat());
  const ticks = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8].filter((n) => n <= most);
  return [{
    type: "heatmap", x: places.map(centre), y: places.map(centre), xgap: 1, ygap: 1,
    z: counts.map((row) => row.map((n) => (n ? Math.log10(n) : null))), zmin: 0, zmax: Math.max(1, Math.log10(most)),
    text: counts.map((row, j) => row.map((n, i) => `S ${cellName(i)}, R ${cellName(j)}: ${number(n)}`)),
    hovertemplate: "%{text}<extra></extra>",
    colorscale: [[0, colour("few")], [0.5, colour("some")], [1, colour("many")]],
    colorbar: { tickvals: ticks.map(Math.log10), ticktext: ticks.map(number), thickness: 10, outlinewidth: 0 },
  }];
}

function plotShapes() {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const [s, r] = state.t.map((place) => place / 10);
  const [from, to] = [-0.5, 10.5];
  const tint = (name, x0, x1, y0, y1) => (
    { type: "rect", layer: "below", x0, x1, y0, y1, fillcolor: colour(name), opacity: 0.18, line: { width: 0 } });
  const line = (x0, x1, y0, y1) => (
    { type: "line", x0, x1, y0, y1, line: { color: colour("threshold"), width: 1.5, dash: "dash" } });
  const shapes = [
    tint("sensibility", s, to, from, r), tint("rationality", from, s, r, to), tint("balanced", s, to, r, to),
    tint("low", from, s, from, r), line(s, s, from, to), line(from, to, r, r),
  ];
  const cell = state.shown.cell;
  if (cell) {
    const [x, y] = cell.map(centre);
    const half = STEP / 2;
    shapes.push({ type: "rect", x0: x - half, x1: x + half, y0: y - half, y1: y + half,
      line: { color: colour("focus"), width: 3 } });
  }
  return shapes;
}

function plotLayout() {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const axis = (title) => ({
    title: { text: title }, range: [-0.5, 10.5], fixedrange: true, dtick: 1, zeroline: false, showgrid: false,
    color: colour("text"),
  });
  return {
    xaxis: axis("sensibility S"), yaxis: axis("rationality R"), shapes: plotShapes(), dragmode: false,
    margin: { l: 50, r: 10, t: 10, b: 45 }, font: { color: colour("text"), family: "system-ui, sans-serif" },
    paper_bgcolor: colour("panel"), plot_bgcolor: colour("panel"),
    hoverlabel: { bgcolor: colour("page"), font: { color: colour("text") } },
  };
}

const drawPlot = () => Plotly.react("plot", plotData(), plotLayout(), {
  displayModeBar: false, responsive: true, doubleClickDelay: 1,
});

const inside = (i) => Math.max(0, Math.min(CELLS - 1, i));

/** The cell at a place of the window; plotly's own answer is that of the last hover, which may be a moment old. */
function cellAt(x, y) {
  const box = document.querySelector("#plot .nsewdrag").getBoundingClientRect();
  const shares = [(x - box.left) / box.width, (box.bottom - y) / box.height];
  return shares.map((share) => inside(Math.floor((11 * share - 0.5 - EDGE) / STEP)));
}

function moveCell(event) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (!step) return;
  event.preventDefault();
  const now = state.shown.cell || state.t.map((place) => cellOf(2 * place));
  show({ cell: state.shown.cell ? now.map((place, i) => inside(place + step[i])) : now });
}

// ---- the dialogues ---------------------------------------------------------------------------------------------

let searched = null; // the texts in lower case, made at the first search

function matching() {
  const query = state.query.toLowerCase();
  if (query) searched ||= DIALOGUES.turns.map((turns) => turns.join("\n").toLowerCase());
  const found = [];
  let embedded = 0;
  for (let i = 0; i < DIALOGUES.row.length; i++) {
    if (!isShown(DIALOGUES.s[i], DIALOGUES.r[i])) continue;
    if (state.emotion >= 0 && DIALOGUES.emotion[i] !== state.emotion) continue;
    embedded++;
    if (!query || searched[i].includes(query)) found.push(i);
  }
  return { found, embedded };
}

/** A score in two decimals, whole where all are whole; in full where they would hide on which side of a tenth it is. */
function score(value, bin) {
  if (value === null) return "–";
  const short = DATA.whole ? String(value) : value.toFixed(2);
  return bin % 2 && Math.abs(short * 10 - Math.round(short * 10)) < 1e-9 ? String(value) : short;
}

function dialogueRow(i) {
  const row = element("tr");
  const [s, r] = [DIALOGUES.s[i], DIALOGUES.r[i]];
  const name = quadrant(s, r);
  const place = element("td");
  place.append(element("span", DIALOGUES.reason[i] || name, { class: "name", "data-quadrant": name }));
  row.append(
    element("td", number(DIALOGUES.row[i]), { class: "number", "data-label": "row" }),
    element("td", score(DIALOGUES.sensibility[i], s), { class: "number", "data-label": "S" }),
    element("td", score(DIALOGUES.rationality[i], r), { class: "number", "data-label": "R" }), place,
  );
  if (DATA.emotions) row.append(element("td", DATA.emotions[DIALOGUES.emotion[i]]));
  const text = element("td");
  const turns = DIALOGUES.turns[i];
  const roles = { s: "speaker", l: "listener", ".": "earlier", "?": "not a dialogue" };
  turns.forEach((turn, j) => {
    const last = j === turns.length - 1 && DIALOGUES.roles[i] !== "?";
    text.append(element("p", turn, { class: last ? "turn reply" : "turn", "data-role": roles[DIALOGUES.roles[i][j]] }));
  });
  row.append(text);
  return row;
}

function showDialogues() {
  const { found, embedded } = matching();
  const pages = Math.max(1, Math.ceil(found.length / ROWS));
  state.page = Math.min(state.page, pages - 1);
  const { cell, quadrant: name } = state.shown;
  const total = shownCount();
  const where = cell ? `S ${cellName(cell[0])}, R ${cellName(cell[1])}` : name;
  const parts = [`${where}: ${number(total)} dialogue${total === 1 ? "" : "s"}`];
  if (embedded < total) parts.push(`the text of ${number(embedded)} is in this page`);
  if (state.query) parts.push(`${number(found.length)} found`);
  byId("chosen").textContent = parts.join("; ");
  const rows = found.slice(state.page * ROWS, (state.page + 1) * ROWS).map(dialogueRow);
  byId("texts").tBodies[0].replaceChildren(...rows);
  byId("page").textContent = `page ${number(state.page + 1)} of ${number(pages)}`;
  byId("previous").disabled = state.page === 0;
  byId("next").disabled = state.page === pages - 1;
}

function show(shown) {
  state.shown = shown;
  state.page = 0;
  update();
}

// ---- all together ----------------------------------------------------------------------------------------------

let frame = 0;

/** Counts at once; what takes longer, the picture and the table, with the next frame. */
function update() {
  const counts = countsAt(state.t, state.ties);
  ["sensibility", "rationality"].forEach((axis, i) => {
    byId(`t-${axis}`).value = state.t[i];
    byId(`t-${axis}`).setAttribute("aria-valuetext", tenths(state.t[i]));
    byId(`at-${axis}`).textContent = tenths(state.t[i]);
  });
  showQuadrants(counts.all);
  showEmotions(counts.emotions);
  showCommand(counts.all);
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(() => {
    Plotly.relayout("plot", { shapes: plotShapes() });
    showDialogues();
  });
}

function about() {
  const scorers = DATA.scorers.join(", ") || "no scorer";
  const reasons = DATA.unscored.map(({ name, meaning, count }) => `${number(count)} ${name}${meaning && ` (${meaning})`}`);
  byId("about").textContent = `${DATA.source ? `${DATA.source}: ` : ""}${number(DATA.rows)} samples, ${
    number(DATA.scored)} scored by ${scorers}.${reasons.length ? ` In no quadrant: ${reasons.join("; ")}.` : ""}`;
  byId("asked").hidden = !DATA.rubric;
  byId("rubric").textContent = DATA.rubric || "";
  const embedded = DIALOGUES.row.length;
  if (embedded === DATA.rows) return;
  byId("sampled").hidden = false;
  byId("sampled").textContent = `All counts and shares are of all ${number(DATA.rows)} samples. The text of ${
    number(embedded)} of them is in this page: some of each half point of the plane, the others drawn at random.`;
}

function listen() {
  ["sensibility", "rationality"].forEach((axis, i) => {
    byId(`t-${axis}`).addEventListener("input", (event) => {
      state.t = state.t.map((place, j) => (i === j || byId("linked").checked ? Number(event.target.value) : place));
      update();
    });
  });
  byId("linked").addEventListener("change", (event) => {
    if (event.target.checked) state.t = [state.t[0], state.t[0]];
    update();
  });
  byId("ties").value = state.ties;
  byId("ties").addEventListener("change", (event) => { state.ties = event.target.value; update(); });
  byId("search").addEventListener("input", (event) => {
    state.query = event.target.value; state.page = 0; showDialogues();
  });
  byId("emotion").addEventListener("change", (event) => {
    state.emotion = event.target.value === "" ? -1 : Number(event.target.value); state.page = 0; showDialogues();
  });
  byId("previous").addEventListener("click", () => { state.page--; showDialogues(); });
  byId("next").addEventListener("click", () => { state.page++; showDialogues(); });
  byId("copy").addEventListener("click", copyCommand);
  byId("plot").addEventListener("keydown", moveCell);
  byId("plot").on("plotly_click", ({ event }) => show({ cell: cellAt(event.clientX, event.clientY) }));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawPlot);
}

/** plotly.js, which the page holds compressed; the page's policy lets its text run and no other. */
async function loadLibrary() {
  const packed = Uint8Array.from(atob(byId("library").textContent), (character) => character.charCodeAt(0));
  const text = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const script = element("script", await new Response(text).text());
  document.head.append(script);
  script.remove(); // it has run
}

makeQuadrants();
makeEmotions();
about();
loadLibrary().then(drawPlot).then(() => { listen(); update(); });
