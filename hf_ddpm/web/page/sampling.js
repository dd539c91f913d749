// Sampling without a page: noise of a seed, the steps of a sampler, and links. `model` is the content of model.json.

const MASK = (1n << 64n) - 1n;

// One block of Philox4x64-10 (Salmon et al. 2011), as numpy.random.Philox has it: counter and key are lists of BigInt.
function philox(counter, key) {
  let [a, b, c, d] = counter;
  let [k, l] = key;
  for (let round = 0; round < 10; round++) {
    const ab = 0xd2e7470ee14c6c93n * a;
    const cd = 0xca5a826395121157n * c;
    [a, b, c, d] = [(cd >> 64n) ^ b ^ k, cd & MASK, (ab >> 64n) ^ d ^ l, ab & MASK];
    k = (k + 0x9e3779b97f4a7c15n) & MASK;
    l = (l + 0xbb67ae8584caa73bn) & MASK;
  }
  return [a, b, c, d];
}

// Standard normal numbers of a seed, as `counter_noise` of hf_ddpm.diffusion.randomness: the draw 0 is the first noise, n that
// of step n.
export function counterNoise(seed, draw, count) {
  const noise = new Float32Array(count);
  let words = [];
  for (let i = 0; i < count; i += 2) {
    if (i % 4 === 0) words = philox([BigInt(i / 4 + 1), 0n, 0n, BigInt(draw)], [BigInt(seed), 0n]);
    const [first, second] = words.splice(0, 2).map((word) => Number(word >> 11n));
    const radius = Math.sqrt(-2 * Math.log((first + 1) * 2 ** -53)); // Box & Muller 1958
    const angle = 2 * Math.PI * (second * 2 ** -53);
    noise[i] = radius * Math.cos(angle);
    if (i + 1 < count) noise[i + 1] = radius * Math.sin(angle);
  }
  return noise;
}

export const pixelsOf = (model) => model.shape.reduce((product, side) => product * side);

// Generate images together, and call `onStep(index, noisy, clean)` after each step: x_t of the next one, and the predicted x_0.
//
// jobs: one {seed, label, scale} an image; label is null without classes, scale is s in u + s (c - u).
// predict(images, t, labels): the outputs of the network, a Float32Array of images one after the other, as its argument.
// known: null, or {image, mask}: pixels of an image in [-1, 1] that stay where the mask is 0, noised as x_t is in each step.
export async function sample(model, sampler, steps, jobs, predict, onStep = () => true, known = null) {
  const { clip, steps: tables } = model.samplers[sampler];
  const size = pixelsOf(model);
  const noiseOf = (draw) => concatenate(jobs.map((job) => counterNoise(job.seed, draw, size)));
  let noisy = noiseOf(0);
  let clean = new Float32Array(noisy.length);
  for (const [index, row] of tables[steps].entries()) {
    const [t, x, output, nextX, nextClean, nextBefore, nextNoise, alpha, sigma] = row;
    const before = clean;
    const outputs = await guided(model, noisy, t, jobs, predict);
    clean = noisy.map((value, i) => x * value + output * outputs[i]);
    if (clip !== null) clean = clean.map((value) => Math.min(clip, Math.max(-clip, value)));
    const noise = nextNoise || (known && sigma) ? noiseOf(index + 1) : null;
    noisy = noisy.map((value, i) =>
      nextX * value + nextClean * clean[i] + nextBefore * before[i] + (nextNoise ? nextNoise * noise[i] : 0));
    if (known) {
      noisy = noisy.map((value, i) =>
        known.mask[i % size] ? value : alpha * known.image[i % size] + (sigma ? sigma * noise[i] : 0));
    }
    if ((await onStep(index, noisy, clean)) === false) return null;
  }
  return noisy;
}

// The outputs of the network, guided away from those without a class where a scale is not 1, and t in the interval of the
// model, if it has one.
async function guided(model, noisy, t, jobs, predict) {
  const size = pixelsOf(model);
  const [low, high] = model.guidance_interval ?? [-Infinity, Infinity];
  const scales = jobs.map(({ scale }) => (low <= t && t < high ? scale : 1));
  const calls = jobs.flatMap((job, i) => [
    ...(scales[i] === 0 ? [] : [[i, job.label]]),
    ...(scales[i] === 1 ? [] : [[i, model.null_label]]),
  ]);
  const images = concatenate(calls.map(([i]) => noisy.subarray(i * size, (i + 1) * size)));
  const outputs = await predict(images, t, calls.map(([, label]) => label));
  const result = new Float32Array(noisy.length);
  let at = 0;
  const next = () => outputs.subarray(at, (at += size));
  scales.forEach((scale, i) => {
    const first = next();
    const second = scale === 0 || scale === 1 ? null : next();
    result.set(second ? second.map((u, j) => u + scale * (first[j] - u)) : first, i * size);
  });
  return result;
}

function concatenate(arrays) {
  const whole = new Float32Array(arrays.reduce((length, array) => length + array.length, 0));
  let at = 0;
  for (const array of arrays) {
    whole.set(array, at);
    at += array.length;
  }
  return whole;
}

// Image number `index` of a batch in [-1, 1] as red, green, blue and opacity, 0 to 255.
export function toPixels(model, images, index) {
  const [channels, height, width] = model.shape;
  const area = height * width;
  const pixels = new Uint8ClampedArray(4 * area).fill(255);
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) {
      const value = images[(index * channels + (channels === 1 ? 0 : c)) * area + i];
      pixels[4 * i + c] = Math.round(255 * Math.min(1, Math.max(0, value / 2 + 0.5)));
    }
  }
  return pixels;
}

export const MAX_SEED = 2 ** 32 - 1;
export const MAX_NUMBER = 16;
export const MAX_GUIDANCE = 20;
const ALL = "all";

// What the page shows before anybody has chosen anything.
export function defaults(model) {
  const { sampler, steps, guidance, number } = model.defaults;
  const labels = model.classes && { class: ALL };
  return { ...labels, ...(model.null_label === null ? {} : { guidance }), sampler, steps, seed: 0, number };
}

// The settings in a link, or an Error that says what is wrong with it. An empty one gives the defaults.
export function parseLink(text, model) {
  const known = defaults(model);
  const given = new URLSearchParams(text.replace(/^#/, ""));
  const settings = { ...known };
  const wrong = (name, value, remedy) => new Error(`The link asks for ${name} “${value}”: ${remedy}.`);
  for (const [name, value] of given) {
    if (!(name in known)) throw wrong("the setting", name, `this model has ${Object.keys(known).join(", ")}`);
    if (given.getAll(name).length > 1) throw wrong(name, given.getAll(name).join(", "), "give one value");
    settings[name] = name === "class" || name === "sampler" ? value : Number(value);
    if (value.trim() === "" || Number.isNaN(settings[name])) throw wrong(name, value, "give a number");
  }
  const isWhole = (value, low, high) => Number.isInteger(value) && value >= low && value <= high;
  const { sampler, steps, seed, number, guidance } = settings;
  if (model.classes && settings.class !== ALL && !isWhole(Number(settings.class), 0, model.classes.length - 1)) {
    throw wrong("class", settings.class, `give ${ALL}, or a number from 0 to ${model.classes.length - 1}`);
  }
  if (!Object.hasOwn(model.samplers, sampler)) {
    throw wrong("sampler", sampler, `give ${Object.keys(model.samplers).join(" or ")}`);
  }
  const counts = Object.keys(model.samplers[sampler].steps);
  if (!counts.includes(String(steps))) throw wrong("steps", steps, `give one of ${counts.join(", ")}`);
  if (!isWhole(seed, 0, MAX_SEED)) throw wrong("seed", seed, `give a whole number from 0 to ${MAX_SEED}`);
  if (!isWhole(number, 1, MAX_NUMBER)) throw wrong("number", number, `give a whole number from 1 to ${MAX_NUMBER}`);
  if ("guidance" in known && !(guidance >= 0 && guidance <= MAX_GUIDANCE)) {
    throw wrong("guidance", guidance, `give a number from 0 to ${MAX_GUIDANCE}`);
  }
  return settings;
}

export const formatLink = (settings) => `#${new URLSearchParams(settings)}`;

// One job an image, as `hf-ddpm sample` numbers them: seeds that follow one another, classes in turn.
export function jobsOf(model, settings) {
  const label = (i) => (settings.class === ALL ? i % model.classes.length : Number(settings.class));
  return Array.from({ length: settings.number }, (_, i) => ({
    seed: settings.seed + i,
    label: model.classes ? label(i) : null,
    scale: settings.guidance ?? 1,
  }));
}

// The command that makes the same images in Python.
export function commandOf(model, settings) {
  const { option } = model.samplers[settings.sampler];
  const quoted = (text) => (/^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  const words = ["hf-ddpm sample --model", quoted(model.model), "--rng counter"];
  if (model.classes && settings.class !== ALL) {
    const name = model.classes[settings.class];
    const isUnique = model.classes.indexOf(name) === model.classes.lastIndexOf(name);
    words.push("--class_labels", isUnique ? quoted(name) : settings.class);
  }
  if ("guidance" in settings) words.push("--guidance_scale", settings.guidance);
  if (option) words.push("--scheduler", option);
  words.push("--num_inference_steps", settings.steps, "--num_images", settings.number, "--seed", settings.seed);
  return [...words, "--output_dir images"].join(" ");
}
