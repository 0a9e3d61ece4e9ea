// The page of `poscon view`. The server's volumes have axes towards right, anterior and superior,
// so the index of a voxel is x + nx * (y + ny * z), and slices along an axis have rising positions.
"use strict";

const element = (id) => document.getElementById(id);
const OVERLAYS = ["reference", "prediction"];
const MODES = ["off", "outline", "filled"];
const SVG = "http://www.w3.org/2000/svg";

const nv = new niivue.Niivue({
  backColor: [0, 0, 0, 1],
  crosshairColor: [1, 1, 1, 0.55],
  crosshairGap: 3,
  crosshairWidth: 0.35,
  crosshairWidthUnit: "percent",
  dragAndDropEnabled: false,
  clipPlaneHotKey: "",
  cycleClipPlaneHotKey: "",
  viewModeHotKey: "",
  isNearestInterpolation: true,
  isRadiologicalConvention: true,
  sagittalNoseLeft: true,
  loadingText: "",
  logLevel: "error",
  multiplanarShowRender: niivue.SHOW_RENDER.NEVER,
});

let content; // cases.json
let shown; // the case that is shown
let request = 0; // number of the last call of show()
const hidden = new Set(); // indices of classes that are switched off

async function get(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(await response.text());
  return response;
}

async function load(name) {
  const buffer = await (await get(name)).arrayBuffer();
  return niivue.NVImage.loadFromUrl({ url: name, name, buffer });
}

function say(state, text) {
  document.body.dataset.state = state;
  element("message").textContent = text;
}

async function show(number) {
  const mine = ++request;
  const entry = content.cases[number];
  say("loading", `loading ${entry.id}`);
  try {
    const place = await (await get(entry.files.place)).json();
    const channel = entry.channels[element("channel").selectedIndex] ?? entry.channels[0];
    const image = await load(channel.file);
    const overlays = {};
    for (const name of OVERLAYS) {
      if (entry.files[name]) {
        const volume = await load(entry.files[name]);
        overlays[name] = { volume, classes: volume.img.slice() };
      }
    }
    if (mine !== request) return; // another case was chosen meanwhile
    shown = { entry, place, dims: image.hdr.dims.slice(1, 4), overlays, vox: null };
    nv.volumes = [];
    nv.addVolume(image);
    for (const { volume } of Object.values(overlays)) nv.addVolume(volume);
    describe();
    colour();
    goTo(middle());
    say("shown", "");
  } catch (error) {
    if (mine !== request) return;
    shown = null;
    nv.volumes = [];
    nv.drawScene();
    say("failed", `${entry.id}: ${error.message}`);
  }
}

// ------------------------------------------------------------------------------------- overlays

function colourOf(index) {
  return index === content.ignore ? "#808080" : content.colours[(index - 1) % content.colours.length];
}

function nameOf(index) {
  if (index === content.ignore) return "not labelled";
  return content.classes ? content.classes[index - 1] : `class_${index}`;
}

// NiiVue rounds the lowest two entries of a table up, so two that nothing has come before the 0.
function table() {
  const indices = Array.from({ length: 258 }, (_, place) => place - 2);
  const part = (from) => indices.map((i) => (i > 0 ? parseInt(colourOf(i).slice(from, from + 2), 16) : 0));
  const alpha = indices.map((index) => (index > 0 && !hidden.has(index) ? 255 : 0));
  return { R: part(1), G: part(3), B: part(5), A: alpha, I: indices };
}

// What is left of class indices where all four neighbours in the slice are of the same class is 0.
function outline(classes) {
  const { dims, place } = shown;
  const step = [1, dims[0], dims[0] * dims[1]];
  const axes = [0, 1, 2].filter((axis) => axis !== place.axis);
  const lines = new Uint8Array(classes.length);
  for (let i = 0; i < classes.length; i++) {
    const index = classes[i];
    if (!index) continue;
    const inside = axes.every((axis) => {
      const at = Math.floor(i / step[axis]) % dims[axis];
      return (
        at > 0 &&
        at < dims[axis] - 1 &&
        classes[i - step[axis]] === index &&
        classes[i + step[axis]] === index
      );
    });
    if (!inside) lines[i] = index;
  }
  return lines;
}

function colour() {
  for (const name of OVERLAYS) {
    const overlay = shown?.overlays[name];
    if (!overlay) continue;
    const mode = element(name).value;
    if (mode === "outline") overlay.lines ??= outline(overlay.classes);
    overlay.volume.img = mode === "outline" ? overlay.lines : overlay.classes;
    overlay.volume.setColormapLabel(table());
    const filled = element("opacity").valueAsNumber / 100;
    overlay.volume.opacity = mode === "off" ? 0 : mode === "outline" ? 1 : filled;
  }
  nv.updateGLVolume();
  nv.updateInterpolation(0, true); // the scan is smooth, label maps are not
  nv.drawScene();
}

function cycle(name) {
  if (element(`${name}-row`).hidden) return;
  element(name).value = MODES[(MODES.indexOf(element(name).value) + 1) % MODES.length];
  colour();
}

// --------------------------------------------------------------------- what is said of the case

function describe() {
  const { entry, overlays } = shown;
  for (const name of OVERLAYS) element(`${name}-row`).hidden = !overlays[name];
  element("opacity-row").hidden = !Object.keys(overlays).length;
  for (const overlay of Object.values(overlays)) overlay.slices = slicesOf(overlay.classes);
  const present = new Set(content.classes?.map((_, number) => number + 1));
  for (const { slices } of Object.values(overlays)) slices.forEach((_, index) => present.add(index));
  shown.indices = [...present].sort((a, b) => a - b);
  element("legend").replaceChildren(...(Object.keys(overlays).length ? shown.indices.map(legendEntry) : []));
  drawStrip();
  const learned = shown.place.learned;
  element("learned").hidden = !learned;
  if (learned) {
    const [first, last] = [learned[0], learned.at(-1)].map((mm) => mm.toFixed(1));
    element("learned").textContent = `on the axis of all cases of the store: ${first} to ${last} mm`;
  }
  document.title = `${entry.id} - poscon view`;
}

function legendEntry(index) {
  const row = document.createElement("li");
  const label = document.createElement("label");
  const box = document.createElement("input");
  box.type = "checkbox";
  box.checked = !hidden.has(index);
  box.addEventListener("change", () => {
    hidden[box.checked ? "delete" : "add"](index);
    colour();
  });
  const swatch = document.createElementNS(SVG, "svg");
  swatch.append(rectangle(0, 0, "100%", "100%", colourOf(index)));
  const name = document.createElement("span");
  name.textContent = nameOf(index);
  const dice = document.createElement("span");
  dice.className = "dice";
  const value = shown.entry.dice[nameOf(index)];
  dice.textContent = value === undefined ? "" : value.toFixed(3);
  label.append(box, swatch, name, dice);
  row.append(label);
  return row;
}

// Number of voxels of each class in each slice: Map of class index -> array over slices.
function slicesOf(classes) {
  const { dims, place } = shown;
  const step = [1, dims[0], dims[0] * dims[1]][place.axis];
  const n = dims[place.axis];
  const found = new Map();
  for (let i = 0; i < classes.length; i++) {
    if (!classes[i]) continue;
    if (!found.has(classes[i])) found.set(classes[i], new Uint32Array(n));
    found.get(classes[i])[Math.floor(i / step) % n] += 1;
  }
  return found;
}

// --------------------------------------------------------------------------- the position axis

function rectangle(x, y, width, height, fill, opacity = 1) {
  const box = document.createElementNS(SVG, "rect");
  const attributes = { x, y, width, height, fill, opacity };
  for (const [name, value] of Object.entries(attributes)) box.setAttribute(name, value);
  return box;
}

function drawStrip() {
  const { dims, place, overlays } = shown;
  const svg = element("strip").firstElementChild;
  const rows = Math.max(1, shown.indices.length);
  svg.setAttribute("viewBox", `0 0 ${dims[place.axis]} ${rows * 5}`);
  svg.replaceChildren();
  shown.indices.forEach((index, row) => {
    OVERLAYS.forEach((name, half) => {
      overlays[name]?.slices.get(index)?.forEach((voxels, slice) => {
        const opacity = half ? 1 : 0.55;
        if (voxels) svg.append(rectangle(slice, row * 5 + half * 2 + 0.5, 1, 2, colourOf(index), opacity));
      });
    });
  });
  const now = document.createElementNS(SVG, "line");
  now.setAttribute("class", "now");
  now.setAttribute("y1", 0);
  now.setAttribute("y2", rows * 5);
  svg.append(now);
  element("strip").setAttribute("aria-valuemax", dims[place.axis]);
}

// The voxel to begin with: in the slice with most foreground, the middle of it; else the centre.
function middle() {
  const { dims, place, overlays } = shown;
  const centre = dims.map((n) => Math.floor((n - 1) / 2));
  const overlay = overlays.reference ?? overlays.prediction;
  if (!overlay) return centre;
  const total = new Float64Array(dims[place.axis]);
  overlay.slices.forEach((counts, index) => {
    if (index !== content.ignore) counts.forEach((voxels, slice) => (total[slice] += voxels));
  });
  const most = total.indexOf(Math.max(...total));
  if (!total[most]) return centre;
  const sum = [0, 0, 0];
  overlay.classes.forEach((index, i) => {
    if (!index || index === content.ignore) return;
    const vox = [i % dims[0], Math.floor(i / dims[0]) % dims[1], Math.floor(i / (dims[0] * dims[1]))];
    if (vox[place.axis] === most) vox.forEach((at, axis) => (sum[axis] += at));
  });
  return sum.map((value) => Math.round(value / total[most]));
}

function goTo(vox) {
  nv.scene.crosshairPos = nv.vox2frac(vox);
  nv.drawScene();
  here(vox);
}

function goToSlice(slice) {
  if (!shown) return;
  const { dims, place } = shown;
  const vox = [...shown.vox];
  vox[place.axis] = Math.min(Math.max(slice, 0), dims[place.axis] - 1);
  goTo(vox);
}

function here(vox) {
  const { dims, place } = shown;
  shown.vox = [...vox].map((at, axis) => Math.min(Math.max(Math.round(at), 0), dims[axis] - 1));
  const slice = shown.vox[place.axis];
  const words = [
    `${place.plane} slice ${slice + 1} of ${dims[place.axis]}`,
    `position ${place.relative[slice].toFixed(3)}`,
  ];
  if (place.learned) words.push(`${place.learned[slice].toFixed(1)} mm on the axis of all cases`);
  element("where").textContent = words.join(" · ");
  const strip = element("strip");
  strip.setAttribute("aria-valuenow", slice + 1);
  strip.setAttribute("aria-valuetext", words.join(", "));
  for (const name of ["x1", "x2"]) strip.querySelector(".now").setAttribute(name, slice + 0.5);
}

function pointed(event) {
  const box = element("strip").getBoundingClientRect();
  goToSlice(Math.floor(((event.clientX - box.left) / box.width) * shown.dims[shown.place.axis]));
}

// ------------------------------------------------------------------------------------- controls

function listCases() {
  const list = element("cases");
  const groups = new Map();
  content.cases.forEach((entry, number) => {
    // The Dice stands first: a long name is cut off at its end.
    const dice = entry.mean_dice === null ? "" : `${entry.mean_dice.toFixed(3)}  `;
    const option = new Option(`${dice}${entry.id}`, number);
    option.title = entry.id;
    if (!groups.has(entry.group)) {
      const heading = document.createElement("optgroup");
      heading.label = entry.group;
      groups.set(entry.group, entry.group ? heading : list);
    }
    groups.get(entry.group).append(option);
  });
  for (const group of groups.values()) if (group !== list) list.append(group);
  list.selectedIndex = 0;
  const measured = content.cases.some((entry) => entry.mean_dice !== null);
  const what = measured ? "Dice and case" : "Cases";
  element("count").textContent = `${what} (${content.cases.length})`;
  element("title").textContent = content.title;
}

// A case may have other channels and overlays than the one before it.
function choose(number) {
  const { channels } = content.cases[number];
  element("channel").replaceChildren(...channels.map(({ name }) => new Option(name)));
  element("channel-row").hidden = channels.length < 2;
  return show(number);
}

function startModes() {
  const both = content.cases.some(({ files }) => files.reference && files.prediction);
  element("reference").value = both ? "outline" : "filled";
  element("prediction").value = "filled";
}

function listen() {
  const list = element("cases");
  list.addEventListener("change", () => choose(list.value));
  element("channel").addEventListener("change", () => show(list.value));
  for (const name of [...OVERLAYS, "opacity"]) element(name).addEventListener("input", colour);
  element("solid").addEventListener("change", (event) => {
    const { ALWAYS, NEVER } = niivue.SHOW_RENDER;
    nv.opts.multiplanarShowRender = event.target.checked ? ALWAYS : NEVER;
    nv.drawScene();
  });
  const strip = element("strip");
  strip.addEventListener("pointerdown", (event) => {
    if (!shown) return;
    strip.setPointerCapture(event.pointerId);
    pointed(event);
  });
  strip.addEventListener("pointermove", (event) => event.buttons && shown && pointed(event));
  strip.addEventListener("keydown", (event) => {
    if (!shown) return;
    const slice = shown.vox[shown.place.axis];
    const n = shown.dims[shown.place.axis];
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -n, End: n };
    if (!(event.key in steps)) return;
    event.preventDefault();
    goToSlice(slice + steps[event.key]);
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("select, input") || event.ctrlKey || event.metaKey || !shown) return;
    const step = { ",": -1, ".": 1 }[event.key];
    if (step) goToSlice(shown.vox[shown.place.axis] + step);
    if (event.key === "r") cycle("reference");
    if (event.key === "p") cycle("prediction");
  });
  nv.onLocationChange = ({ vox }) => shown && here(vox);
}

async function start() {
  await nv.attachToCanvas(element("picture"));
  nv.setSliceType(nv.sliceTypeMultiplanar);
  content = await (await get("cases.json")).json();
  listCases();
  startModes();
  listen();
  await choose(0);
}

start().catch((error) => say("failed", error.message));
