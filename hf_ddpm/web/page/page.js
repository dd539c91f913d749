// The page: what is chosen, what is shown, and the network, which onnxruntime-web runs in a worker.

import {
  MAX_GUIDANCE, MAX_NUMBER, MAX_SEED, commandOf, defaults, formatLink, jobsOf, parseLink, pixelsOf, sample, toPixels,
} from "./sampling.js";

const SCALES = [0, 1, 1.5, 2, 3, 5, 8];
const BATCH = 32; // images in a call of the network at most, MAX_BATCH of hf_ddpm.web.network
const SIMD = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
]; // the smallest WebAssembly module with an operation on vectors

const get = (id) => document.getElementById(id);
const say = (text) => (get("status").textContent = text);
const complain = (text) => (get("problem").textContent = text);
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
const seconds = (since) => `${((performance.now() - since) / 1000).toFixed(1)} s`;

let model, predict, current, picture, busy = false, cancelled = false, hasNewLink = false;

async function start() {
  const started = performance.now();
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(new Uint8Array(SIMD))) {
    say("");
    return complain("This browser cannot run the model: it has no WebAssembly SIMD, which browsers have since 2021 (Safari since 2023). Please try a newer one.");
  }
  try {
    model = await (await fetched("model.json")).json();
    show(model);
    say(`Loading the network, ${megabytes(model.bytes)} once.`);
    predict = await loadNetwork();
  } catch (error) {
    say("");
    return complain(`The model could not be loaded: ${error.message}`);
  }
  const took = `Loaded ${megabytes(model.bytes)} in ${seconds(started)}.`;
  get("about").textContent += ` ${took}`;
  say(`${took} Ready.`);
  setBusy(false);
  document.body.dataset.loaded = (performance.now() - started).toFixed(0);
  await followLink();
}

async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} is missing on the server (${answer.status})`);
  return answer;
}

async function loadNetwork() {
  const ort = await import("./onnxruntime-web/ort.wasm.min.mjs");
  Object.assign(ort.env.wasm, { numThreads: 1, proxy: true });
  const content = new Uint8Array(await (await fetched("model.onnx")).arrayBuffer());
  const session = await ort.InferenceSession.create(content, { executionProviders: ["wasm"] });
  const size = pixelsOf(model);
  const call = async (images, t, labels) => {
    const count = labels.length;
    const feeds = {
      sample: new ort.Tensor("float32", images, [count, ...model.shape]),
      timesteps: new ort.Tensor("float32", new Float32Array(count).fill(t), [count]),
    };
    if (model.classes) feeds.class_labels = new ort.Tensor("int32", Int32Array.from(labels), [count]);
    return (await session.run(feeds)).output.data;
  };
  return async (images, t, labels) => {
    const outputs = new Float32Array(images.length);
    for (let i = 0; i < labels.length; i += BATCH) {
      const part = images.slice(i * size, (i + BATCH) * size);
      outputs.set(await call(part, t, labels.slice(i, i + BATCH)), i * size);
    }
    return outputs;
  };
}

// Fill the form with what the model has.
function show() {
  document.title = get("title").textContent = model.title;
  const known = defaults(model);
  for (const field of document.querySelectorAll("[data-setting]")) field.hidden = !(field.dataset.setting in known);
  get("sweep").hidden = !("guidance" in known);
  get("inpainting").hidden = !repaintingSampler();
  if (model.classes) {
    const names = model.classes.map((name, id) => new Option(name, id));
    get("class").replaceChildren(new Option("each in turn", "all"), ...names);
  }
  const samplers = Object.entries(model.samplers);
  get("sampler").replaceChildren(...samplers.map(([name, { title }]) => new Option(title, name)));
  get("guidance").max = MAX_GUIDANCE;
  get("seed").max = MAX_SEED;
  get("number").max = MAX_NUMBER;
  fill(known);
  for (const canvas of document.querySelectorAll("canvas")) [, canvas.height, canvas.width] = model.shape;
}

function fill(settings) {
  get("sampler").value = settings.sampler;
  showSteps();
  for (const [name, value] of Object.entries(settings)) get(name).value = value;
}

// The numbers of steps of the chosen sampler.
function showSteps() {
  const before = get("steps").value || model.defaults.steps;
  const counts = Object.keys(model.samplers[get("sampler").value].steps);
  get("steps").replaceChildren(...counts.map((count) => new Option(count, count)));
  const distance = (count) => Math.abs(Math.log(count / before));
  get("steps").value = counts.reduce((best, count) => (distance(count) < distance(best) ? count : best));
}

function chosen() {
  const names = Object.keys(defaults(model));
  return parseLink(formatLink(Object.fromEntries(names.map((name) => [name, get(name).value]))), model);
}

async function followLink() {
  complain("");
  let settings;
  try {
    settings = parseLink(decodeURI(location.hash), model);
  } catch (error) {
    return complain(error instanceof URIError ? "The link is damaged: it is not well encoded." : error.message);
  }
  fill(settings);
  await generate(settings);
}

async function generate(settings) {
  const jobs = jobsOf(model, settings);
  const images = await run(settings, jobs, (noisy, clean, words) => {
    draw(get("noisy"), noisy, jobs.length, `x_t: ${words}`);
    draw(get("clean"), clean, jobs.length, `predicted x_0: ${words}`);
  });
  if (!images) return;
  current = settings;
  picture = images;
  draw(get("clean"), images, jobs.length, `Pictures: ${described(settings)}`);
  get("link").href = formatLink(settings);
  get("command").textContent = commandOf(model, settings);
  setBusy(false);
  clearMask();
}

// Run the sampler and show every step; the images, or null if it was stopped or failed.
async function run(settings, jobs, onStep, known = null) {
  const total = Object.keys(model.samplers[settings.sampler].steps[settings.steps]).length;
  const words = described(settings, jobs.length);
  setBusy(true);
  cancelled = false;
  say(`Generating ${words}.`);
  const started = performance.now();
  try {
    const images = await sample(model, settings.sampler, settings.steps, jobs, predict, async (index, noisy, clean) => {
      get("progress").value = (index + 1) / total;
      onStep(noisy, clean, `${words}, step ${index + 1} of ${total}`);
      await new Promise(requestAnimationFrame);
      return !cancelled;
    }, known);
    const step = (performance.now() - started) / total;
    if (!images) {
      say("Stopped.");
      return null;
    }
    say(`Done: ${words}.`);
    get("timing").textContent = `${total} steps in ${seconds(started)}, ${step.toFixed(0)} ms a step.`;
    document.body.dataset.step = step.toFixed(1);
    return images;
  } catch (error) {
    say("");
    complain(`The pictures could not be made: ${error.message}`);
    return null;
  } finally {
    setBusy(false);
    if (hasNewLink) setTimeout(followLink);
    hasNewLink = false;
  }
}

function described(settings, count = settings.number) {
  const name = !model.classes ? "" : settings.class === "all" ? " of the classes in turn" : ` of ${model.classes[settings.class]}`;
  return `${count} ${count === 1 ? "image" : "images"}${name}, seed ${settings.seed}`;
}

function setBusy(value) {
  busy = value;
  get("generate").textContent = busy ? "Stop" : "Generate";
  get("generate").disabled = false;
  for (const id of ["another", "compare"]) get(id).disabled = busy;
  for (const id of ["download", "copy", "repaint", "clear"]) get(id).disabled = busy || !picture;
}

// Images side by side on a canvas, one pixel for each of theirs, and one between two of them.
function draw(canvas, images, count, label) {
  const [, height, width] = model.shape;
  const columns = Math.ceil(Math.sqrt(count));
  canvas.width = columns * (width + 1) - 1;
  canvas.height = Math.ceil(count / columns) * (height + 1) - 1;
  const context = canvas.getContext("2d");
  for (let i = 0; i < count; i++) {
    const data = new ImageData(toPixels(model, images, i), width, height);
    context.putImageData(data, (i % columns) * (width + 1), Math.floor(i / columns) * (height + 1));
  }
  canvas.setAttribute("aria-label", label);
}

async function compare() {
  const settings = read();
  if (!settings) return;
  const [job] = jobsOf(model, settings);
  settings.class = job.label;
  const scales = SCALES.map((scale) => ({ ...job, scale }));
  const canvases = SCALES.map(() => document.createElement("canvas"));
  const items = SCALES.map((scale, i) => {
    canvases[i].setAttribute("role", "img");
    const item = document.createElement("li");
    item.append(canvases[i], `s = ${scale}`);
    return item;
  });
  get("scales").replaceChildren(...items);
  const size = pixelsOf(model);
  const name = model.classes[job.label];
  await run(settings, scales, (noisy, clean) => SCALES.forEach((scale, i) => {
    draw(canvases[i], clean.subarray(i * size, (i + 1) * size), 1, `${name} with guidance scale ${scale}`);
  }));
}

// --- repaint a part of the first picture

// Replacing pixels changes x_t, which only samplers that do not remember earlier steps can bear.
function repaintingSampler() {
  return ["ddim", "lcm"].find((name) => name in model.samplers);
}

let mask;

function clearMask() {
  const [, height, width] = model.shape;
  const inside = {
    left: (x) => x < width / 2, right: (x) => x >= width / 2, top: (x, y) => y < height / 2, bottom: (x, y) => y >= height / 2,
    drawn: () => false,
  }[get("region").value];
  mask = Uint8Array.from({ length: height * width }, (_, i) => inside(i % width, Math.floor(i / width)));
  showMask();
}

function showMask() {
  if (!picture) return;
  const [, height, width] = model.shape;
  const label = `The first picture; ${mask.filter(Boolean).length} of ${mask.length} pixels are marked`;
  draw(get("mask"), picture, 1, label);
  const context = get("mask").getContext("2d");
  context.fillStyle = "rgb(230 90 60 / 75%)";
  mask.forEach((isMarked, i) => isMarked && context.fillRect(i % width, Math.floor(i / width), 1, 1));
}

function mark(event) {
  if (!picture || busy || !(event.buttons & 1)) return;
  if (get("region").value !== "drawn") {
    get("region").value = "drawn";
    clearMask();
  }
  const [, height, width] = model.shape;
  const box = get("mask").getBoundingClientRect();
  const [x, y] = [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  const radius = Math.max(0.7, width / 14);
  mask.forEach((_, i) => {
    if (Math.hypot((i % width) + 0.5 - x, Math.floor(i / width) + 0.5 - y) <= radius) mask[i] = 1;
  });
  showMask();
}

async function repaint() {
  if (!mask.some(Boolean)) return complain("Mark what is to be generated anew: choose a half, or draw on the picture.");
  complain("");
  const sampler = repaintingSampler();
  const counts = Object.keys(model.samplers[sampler].steps);
  const steps = counts.find((count) => Number(count) >= current.steps) ?? counts.at(-1);
  const [job] = jobsOf(model, { ...current, number: 1 });
  const known = { image: picture.slice(0, pixelsOf(model)), mask: allChannels(mask) };
  const settings = { ...current, sampler, steps, number: 1 };
  const onStep = (noisy) => draw(get("repainted"), noisy, 1, "The picture while its part is repainted");
  const images = await run(settings, [{ ...job, seed: Number(get("seed").value) + 1 }], onStep, known);
  if (images) draw(get("repainted"), images, 1, "The picture with its part repainted");
}

function allChannels(one) {
  const several = new Uint8Array(pixelsOf(model));
  for (let c = 0; c < model.shape[0]; c++) several.set(one, c * one.length);
  return several;
}

// --- links, files and events

// The settings of the form; a mistake is said, and undefined returned.
function read() {
  complain("");
  try {
    return chosen();
  } catch (error) {
    complain(error.message.replace("The link asks for", "Not possible:"));
  }
}

// A picture is shown by going to its link, so that the back button leads to the one before.
function go(settings) {
  const link = formatLink(settings);
  if (location.hash === link) return generate(settings);
  location.hash = link;
}

function download() {
  const source = get("clean");
  const scale = Math.max(1, Math.floor(512 / source.width));
  const canvas = Object.assign(document.createElement("canvas"), { width: scale * source.width, height: scale * source.height });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => {
    const name = formatLink(current).slice(1).replace(/[^\w.=-]+/g, "_");
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: `${name}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(get("link").href);
    say("The link is copied.");
  } catch {
    say("The link could not be copied: use the menu of “Link to this picture”.");
  }
}

get("settings").addEventListener("submit", (event) => {
  event.preventDefault();
  if (busy) return void (cancelled = true);
  const settings = read();
  if (settings) go(settings);
});
get("another").addEventListener("click", () => {
  get("seed").value = Math.min(MAX_SEED, Number(get("seed").value) + Number(get("number").value));
  get("settings").requestSubmit();
});
get("sampler").addEventListener("change", showSteps);
get("compare").addEventListener("click", compare);
get("download").addEventListener("click", download);
get("copy").addEventListener("click", copyLink);
get("region").addEventListener("change", clearMask);
get("clear").addEventListener("click", () => {
  get("region").value = "drawn";
  clearMask();
});
get("repaint").addEventListener("click", repaint);
for (const name of ["pointerdown", "pointermove"]) get("mask").addEventListener(name, mark);
addEventListener("hashchange", () => {
  if (busy) cancelled = hasNewLink = true; // followed when this run has ended
  else if (predict) followLink();
});
start();
