"use strict";

const at = (id) => document.getElementById(id);
const percent = (share) => (share > 0 && share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);
const count = (number) => number.toLocaleString("en", { maximumFractionDigits: 1 });
const ALPHA = 0.6;  // of a mask's colours over the photograph
const TOP = 5;
let info = null, file = null, turn = 0;

function say(text, error = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", error);
}

async function answer(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer, or it refused the upload. Is it running?");
  }
  if (!response.ok) throw new Error(sentence(await response.text()));
  return response.json();
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.?!]$/.test(text) ? "" : "."}`;

async function start() {
  try {
    info = await answer("info");
  } catch (error) {
    say(error.message, true);
    setTimeout(start, 2000);
    return;
  }
  document.title = info.network;
  at("title").textContent = info.network;
  const limits = `at most ${count(info.limits.max_bytes / 1e6)} MB and ${count(info.limits.max_pixels / 1e6)} million pixels`;
  at("about").textContent = `${count(info.classes.length)} classes; ${info.preparation}; ${limits}.`;
  if (info.state === "compiling") {
    say("The network is still compiled; one moment.");
    setTimeout(start, 1000);
  } else if (!file) say(info.state === "stopping" ? "The server is stopping." : "");
}

async function show(chosen) {
  if (!chosen) return;
  file = chosen;
  URL.revokeObjectURL(at("photo").src);
  at("photo").src = URL.createObjectURL(file);
  at("photo").onload = () => at("photo").classList.toggle("pixelated", at("photo").naturalWidth < 100);
  at("photo").style.imageOrientation = info?.preset.exif ? "from-image" : "none";  // as the network sees it
  at("name").textContent = file.name || "pasted image";
  at("result").hidden = true;
  at("classes").replaceChildren();
  await ask(null);
}

async function ask(label) {
  const mine = ++turn;
  if (!info) return say("The server does not answer yet; try again in a moment.", true);
  if (file.size > info.limits.max_bytes) {
    return say(`This file has ${count(file.size)} bytes, more than the ${count(info.limits.max_bytes)} that the server takes.`, true);
  }
  say("Looking ...");
  const words = new URLSearchParams({ top: Math.min(info.answer === "mask" ? 1e6 : TOP, info.classes.length) });
  if (info.cam) words.set("cam", "true");
  if (label !== null) words.set("class", label);
  const body = new FormData();
  body.append("image", file);
  try {
    const found = await answer(`predict?${words}`, { method: "POST", body });
    if (mine !== turn) return;  // another photograph was dropped meanwhile
    say("");
    await draw(found);
  } catch (error) {
    if (mine === turn) say(error.message, true);
  }
}

async function draw(found) {
  at("heading").textContent = info.answer === "mask" ? "Classes on this photograph" : "What the network sees";
  at("classes").replaceChildren(...found.classes.map((one) => line(one, found.cam)));
  at("advice").textContent = found.cam ? "Choose a class to see where the network sees it." : "";
  const picture = found.cam ? found.cam.picture : found.mask ? await over(found.mask) : null;
  at("second").hidden = !picture;
  if (picture) {
    at("picture").src = picture;
    at("picture").onload = () => at("picture").classList.toggle("pixelated", at("picture").naturalWidth < 100);
    at("picture").alt = found.cam ? `where the network sees ${found.cam.class}` : "the classes over the photograph";
    at("caption").textContent = found.cam
      ? `what counts for ${found.cam.class} (${percent(found.cam.probability)}): yellow is much, dark is little`
      : "the classes over the photograph";
  }
  at("result").hidden = false;
}

function line(one, cam) {
  const share = one.share ?? one.probability;
  const row = document.createElement(cam ? "button" : "div");
  row.className = "row";
  const name = document.createElement("span");
  if (one.share !== undefined) {
    const chip = document.createElement("span");
    chip.className = "chip";
    if (one.colour) chip.style.background = one.colour;
    name.append(chip);
  }
  name.append(one.class);
  const number = document.createElement("span");
  number.className = "number";
  number.textContent = one.share === undefined ? percent(share) : `${percent(share)} of the pixels`;
  const bar = document.createElement("span");
  bar.className = "bar";
  const full = document.createElement("span");
  full.style.width = `${100 * share}%`;
  if (one.colour) full.style.background = one.colour;
  bar.append(full);
  row.append(name, number, bar);
  if (cam) {
    row.type = "button";
    row.setAttribute("aria-pressed", String(one.number === cam.number));
    row.addEventListener("click", () => ask(one.number));
  }
  const item = document.createElement("li");
  item.append(row);
  return item;
}

// The mask over the photograph in grey; alone where the browser cannot show the photograph.
async function over(address) {
  const mask = await createImageBitmap(await (await fetch(address)).blob());
  const canvas = document.createElement("canvas");
  canvas.width = mask.width;
  canvas.height = mask.height;
  const pen = canvas.getContext("2d");
  try {
    const upright = info.preset.exif ? "from-image" : "none";
    const photo = await createImageBitmap(file, { imageOrientation: upright });
    pen.filter = "grayscale(1)";
    pen.drawImage(photo, 0, 0, mask.width, mask.height);
    pen.filter = "none";
    pen.globalAlpha = ALPHA;
  } catch {
    pen.globalAlpha = 1;
  }
  pen.imageSmoothingEnabled = false;
  pen.drawImage(mask, 0, 0);
  return canvas.toDataURL("image/png");
}

const drop = at("drop");
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") show(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => show(event.clipboardData.files[0]));
at("file").addEventListener("change", () => show(at("file").files[0]));
start();
