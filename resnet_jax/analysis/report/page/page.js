"use strict";
// The map: points on a canvas, and a panel with the chosen image and its neighbours. Texts are set as text, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { points, classes, sheets, side, columns } = data;
  const perSheet = columns * columns;
  const count = points.x.length;
  const canvas = document.getElementById("plane");
  const panel = document.getElementById("panel");
  const context = canvas.getContext("2d");
  const chosen = new Set(); // classes that are shown; empty: all
  let view = { scale: 1, x: 0, y: 0 };
  let current = -1, held = false, onlyMistakes = false, asImages = false, dragged = null;

  // Signs of radius 1, by Matplotlib's letters.
  const polygon = (corners, turn, radii = [1]) => {
    const path = new Path2D();
    for (let i = 0; i < corners; i++) {
      const angle = (2 * Math.PI * i) / corners + turn, r = radii[i % radii.length];
      path.lineTo(r * Math.sin(angle), -r * Math.cos(angle));
    }
    path.closePath();
    return path;
  };
  const plus = (turn) => {
    const path = new Path2D(), t = 0.36;
    const corners = [[-t, -1], [t, -1], [t, -t], [1, -t], [1, t], [t, t], [t, 1], [-t, 1], [-t, t], [-1, t], [-1, -t], [-t, -t]];
    for (const [x, y] of corners) path.lineTo(x * Math.cos(turn) - y * Math.sin(turn), x * Math.sin(turn) + y * Math.cos(turn));
    path.closePath();
    return path;
  };
  const circle = new Path2D();
  circle.arc(0, 0, 1, 0, 2 * Math.PI);
  const SIGNS = {
    o: circle, s: polygon(4, Math.PI / 4), "^": polygon(3, 0), X: plus(Math.PI / 4), D: polygon(4, 0),
    v: polygon(3, Math.PI), P: plus(0), "*": polygon(10, 0, [1.15, 0.5]),
  };
  const bitmaps = sheets.map((address) => {
    const image = new Image();
    image.onload = () => draw();
    image.src = address;
    return image;
  });

  const isWrong = (i) => points.said[i] >= 0 && points.said[i] !== points.label[i];
  const isShown = (i) => (!chosen.size || chosen.has(points.label[i])) && (!onlyMistakes || isWrong(i));
  const cell = (i) => {
    const within = i % perSheet;
    return { sheet: Math.floor(i / perSheet), column: within % columns, row: Math.floor(within / columns) };
  };
  const toScreen = (i) => {
    const size = Math.min(canvas.clientWidth, canvas.clientHeight) - 40;
    const left = (canvas.clientWidth - size) / 2, top = (canvas.clientHeight - size) / 2;
    return [(left + points.x[i] * size) * view.scale + view.x, (top + (1 - points.y[i]) * size) * view.scale + view.y];
  };

  function sign(path, look, x, y, radius, target = context) {
    target.save();
    target.translate(x, y);
    target.scale(radius, radius);
    target.fillStyle = look.colour;
    target.fill(path);
    target.lineWidth = 0.6 / radius;
    target.strokeStyle = "rgba(17, 24, 39, 0.55)";
    target.stroke(path);
    target.restore();
  }

  function ring(i, radius, colour) {
    const [x, y] = toScreen(i);
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.lineWidth = 2.5;
    context.strokeStyle = colour;
    context.stroke();
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.imageSmoothingEnabled = side > 32;
    const radius = Math.max(2.5, Math.min(6, 130 / Math.sqrt(count))) * Math.min(2, Math.sqrt(view.scale));
    for (let i = 0; i < count; i++) {
      if (!isShown(i)) continue;
      const [x, y] = toScreen(i), look = classes[points.label[i]];
      const { sheet, column, row } = cell(i);
      if (asImages && bitmaps[sheet].complete) {
        const d = 4.4 * radius;
        context.drawImage(bitmaps[sheet], column * side, row * side, side, side, x - d / 2, y - d / 2, d, d);
      } else sign(SIGNS[look.marker], look, x, y, radius);
    }
    if (current < 0) return;
    for (const j of points.near[current]) {
      const [a, b] = [toScreen(current), toScreen(j)];
      context.beginPath();
      context.moveTo(...a);
      context.lineTo(...b);
      context.lineWidth = 1;
      context.strokeStyle = "#4b5563";
      context.stroke();
      ring(j, radius + 3, "#4b5563");
    }
    ring(current, radius + 5, "#111827");
  }

  function thumb(i, size, extra) {
    const { sheet, column, row } = cell(i);
    const box = document.createElement("span");
    box.className = "thumb " + extra + (side <= 32 ? " pixelated" : "");
    box.style.width = box.style.height = size + 6 + "px";
    box.style.backgroundImage = `url(${sheets[sheet]})`;
    box.style.backgroundSize = columns * size + "px auto";
    box.style.backgroundPosition = `${-column * size}px ${-row * size}px`;
    return box;
  }

  function line(text, parent, tag = "p") {
    const element = document.createElement(tag);
    element.textContent = text;
    parent.append(element);
    return element;
  }

  function show(i) {
    if (i === current) return;
    current = i;
    panel.replaceChildren();
    if (i < 0) line("No image is chosen.", panel).className = "hint";
    else {
      const name = (label) => classes[label].name;
      panel.append(thumb(i, 180, ""));
      line(`Image ${points.place[i]}: ${name(points.label[i])}`, panel);
      if (points.said[i] >= 0) {
        const verdict = isWrong(i) ? `✗ taken for ${name(points.said[i])}` : "✓ recognised";
        line(`${verdict} (${(100 * points.confidence[i]).toFixed(1)} %)`, panel);
      }
      line("Nearest, by the features:", panel);
      const near = document.createElement("div");
      near.className = "near";
      points.near[i].forEach((j, k) => {
        const one = document.createElement("div"), same = points.label[j] === points.label[i];
        one.append(thumb(j, 74, same ? "same" : "other"));
        line(`${same ? "✓" : "✗"} ${name(points.label[j])}, ${points.similar[i][k].toFixed(3)}`, one, "div");
        near.append(one);
      });
      panel.append(near);
      line("The numbers are cosines. A dashed frame and ✗: another class.", panel).className = "hint";
    }
    draw();
  }

  function nearestTo(event) {
    const box = canvas.getBoundingClientRect();
    let best = -1, least = 14 ** 2;
    for (let i = 0; i < count; i++) {
      if (!isShown(i)) continue;
      const [x, y] = toScreen(i);
      const far = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
      if (far < least) [best, least] = [i, far];
    }
    return best;
  }

  canvas.addEventListener("pointerdown", (event) => { dragged = { x: event.clientX, y: event.clientY, moved: false }; });
  canvas.addEventListener("pointermove", (event) => {
    if (dragged && event.buttons) {
      const [x, y] = [event.clientX - dragged.x, event.clientY - dragged.y];
      if (!dragged.moved && Math.hypot(x, y) < 4) return;
      view = { ...view, x: view.x + x, y: view.y + y };
      dragged = { x: event.clientX, y: event.clientY, moved: true };
      draw();
    } else if (!held) show(nearestTo(event));
  });
  canvas.addEventListener("click", (event) => {
    if (dragged && dragged.moved) return;
    const i = nearestTo(event);
    held = i >= 0 && !(held && i === current);
    show(i);
  });
  canvas.addEventListener("dblclick", () => { view = { scale: 1, x: 0, y: 0 }; draw(); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const scale = Math.min(40, Math.max(0.5, view.scale * Math.exp(-event.deltaY / 500)));
    const by = scale / view.scale;
    view = { scale, x: x - (x - view.x) * by, y: y - (y - view.y) * by };
    draw();
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") { held = false; show(-1); }
    if (!step) return;
    event.preventDefault();
    for (let k = 1, i = current; k <= count; k++) {
      i = (i + step + count) % count;
      if (isShown(i)) { held = true; show(i); break; }
    }
  });

  // Classes.
  const legend = document.getElementById("legend");
  const present = new Set(points.label);
  const buttons = new Map();
  classes.forEach((look, label) => {
    if (!present.has(label)) return;
    const button = document.createElement("button"), icon = document.createElement("canvas");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    icon.width = icon.height = 28;
    icon.style.width = icon.style.height = "14px";
    sign(SIGNS[look.marker], look, 14, 14, 11, icon.getContext("2d"));
    button.append(icon, look.name);
    button.addEventListener("click", () => {
      if (!chosen.delete(label)) chosen.add(label);
      button.setAttribute("aria-pressed", String(chosen.has(label)));
      draw();
    });
    buttons.set(label, button);
    legend.append(button);
  });
  document.getElementById("all").addEventListener("click", () => {
    chosen.clear();
    for (const button of buttons.values()) button.setAttribute("aria-pressed", "false");
    draw();
  });
  document.getElementById("filter").addEventListener("input", (event) => {
    const text = event.target.value.toLowerCase();
    for (const [label, button] of buttons) button.hidden = !classes[label].name.toLowerCase().includes(text);
  });
  document.getElementById("pictures").addEventListener("change", (event) => { asImages = event.target.checked; draw(); });
  const mistakes = document.getElementById("mistakes");
  if (mistakes) mistakes.addEventListener("change", () => { onlyMistakes = mistakes.checked; draw(); });
  new ResizeObserver(draw).observe(canvas);

  // Tables that sort.
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      let downwards = false;
      heading.addEventListener("click", () => {
        const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
        const compare = (a, b) => value(a).localeCompare(value(b), undefined, { numeric: true });
        const number = (row) => Number.parseFloat(value(row));
        const numeric = [...body.rows].every((row) => !Number.isNaN(number(row)));
        const rows = [...body.rows].sort(numeric ? (a, b) => number(a) - number(b) : compare);
        body.append(...(downwards ? rows.reverse() : rows));
        downwards = !downwards;
      });
    });
  }
})();
