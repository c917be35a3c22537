// Curves of one panel: drag pans, the wheel zooms about the pointer, a double click shows all again.
"use strict";
const NS = "http://www.w3.org/2000/svg";
function make(parent, name, attributes, text) {
  const element = document.createElementNS(NS, name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  if (text !== undefined) element.textContent = text;
  parent.appendChild(element);
  return element;
}
const dashes = ["", "6 3", "1.5 2", "6 2 1.5 2"];
function marker(parent, style, x, y, colour) {
  const hollow = { fill: style === 0 ? "white" : colour, stroke: colour, "stroke-width": 1.3 };
  const r = 3.4, shapes = [
    () => make(parent, "circle", { cx: x, cy: y, r, ...hollow }),
    () => make(parent, "rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r, ...hollow }),
    () => make(parent, "path", { d: `M${x},${y - 1.3 * r} l${1.3 * r},${1.3 * r} l${-1.3 * r},${1.3 * r} l${-1.3 * r},${-1.3 * r}z`, ...hollow }),
    () => make(parent, "path", { d: `M${x},${y - r} l${1.15 * r},${2 * r} h${-2.3 * r}z`, ...hollow }),
  ];
  return shapes[style % shapes.length]();
}
function ticks(low, high, log) {
  if (log) {
    const first = Math.ceil(low - 1e-9), last = Math.floor(high + 1e-9), out = [];
    const step = Math.max(1, Math.ceil((last - first) / 6));
    for (let k = first; k <= last; k += step) out.push(k);
    if (out.length > 1) return out;
  }
  const raw = (high - low) / 5, size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find(m => m * size >= raw) * size, out = [];
  for (let t = Math.ceil(low / step) * step; t <= high + 1e-9 * step; t += step) out.push(Math.abs(t) < 1e-12 * step ? 0 : t);
  return out;
}
function label(value, log) {
  const v = log ? 10 ** value : value;
  if (v === 0) return "0";
  const size = Math.abs(v);
  return size >= 1e4 || size < 1e-3 ? v.toExponential(size === 10 ** Math.round(Math.log10(size)) ? 0 : 1).replace("e+", "e") : String(+v.toPrecision(4));
}
function draw(box, panel) {
  const W = 460, H = 300, left = 56, right = 10, top = 10, bottom = 34;
  const log = { x: panel.x_log, y: panel.y_log };
  const svg = make(box.querySelector(".plot"), "svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": panel.name });
  const clip = `clip${panel.id}`;
  make(make(make(svg, "defs", {}), "clipPath", { id: clip }), "rect", { x: left, y: top, width: W - left - right, height: H - top - bottom });
  let view, all;
  const to = { x: v => log.x ? Math.log10(v) : v, y: v => log.y ? Math.log10(v) : v };
  const shown = (x, y) => Number.isFinite(to.x(x)) && Number.isFinite(to.y(y)) && x !== null && y !== null;
  function extent() {
    const xs = [], ys = [];
    for (const s of panel.series) s.x.forEach((x, k) => { if (shown(x, s.y[k])) { xs.push(to.x(x)); ys.push(to.y(s.y[k])); } });
    if (!xs.length) return { x: [0, 1], y: [0, 1] };
    const range = v => { const a = v.reduce((p, q) => Math.min(p, q)), b = v.reduce((p, q) => Math.max(p, q)), pad = (b - a || Math.abs(a) || 1) * 0.05; return [a - pad, b + pad]; };
    return { x: range(xs), y: range(ys) };
  }
  const px = v => left + (v - view.x[0]) / (view.x[1] - view.x[0]) * (W - left - right);
  const py = v => H - bottom - (v - view.y[0]) / (view.y[1] - view.y[0]) * (H - top - bottom);
  let layer = make(svg, "g", {});
  function paint() {
    layer.remove();
    layer = make(svg, "g", {});
    for (const t of ticks(...view.x, log.x)) {
      make(layer, "line", { x1: px(t), x2: px(t), y1: H - bottom, y2: H - bottom + 4, stroke: "currentColor" });
      make(layer, "text", { x: px(t), y: H - bottom + 16, "text-anchor": "middle" }, label(t, log.x));
    }
    for (const t of ticks(...view.y, log.y)) {
      make(layer, "line", { x1: left - 4, x2: left, y1: py(t), y2: py(t), stroke: "currentColor" });
      make(layer, "text", { x: left - 7, y: py(t) + 4, "text-anchor": "end" }, label(t, log.y));
    }
    make(layer, "rect", { x: left, y: top, width: W - left - right, height: H - top - bottom, fill: "none", stroke: "currentColor" });
    const inside = make(layer, "g", { "clip-path": `url(#${clip})` });
    for (const s of panel.series) {
      const points = s.x.map((x, k) => shown(x, s.y[k]) ? [px(to.x(x)), py(to.y(s.y[k])), k] : null);
      if (s.kind === "theory") {
        let d = "", open = false;
        for (const p of points) { d += p ? `${open ? "L" : "M"}${p[0].toFixed(2)},${p[1].toFixed(2)}` : ""; open = p !== null; }
        make(inside, "path", { d, fill: "none", stroke: s.colour, "stroke-width": 1.6, "stroke-dasharray": dashes[s.style % 4] });
      } else for (const p of points) if (p) {
        const k = p[2], se = s.se ? s.se[k] : null;
        if (se) {
          const a = to.y(s.y[k] - se), b = to.y(s.y[k] + se);
          make(inside, "line", { x1: p[0], x2: p[0], y1: py(Number.isFinite(a) ? a : view.y[0]), y2: py(b), stroke: s.colour });
        }
        const m = marker(inside, s.style, p[0], p[1], s.colour);
        make(m, "title", {}, `${s.name}: x = ${s.x[k]}, y = ${s.y[k].toPrecision(5)}${se ? " ± " + se.toPrecision(2) : ""}`);
      }
    }
  }
  function reset() { all = extent(); view = { x: [...all.x], y: [...all.y] }; paint(); }
  const at = event => { const r = svg.getBoundingClientRect(); return [(event.clientX - r.left) / r.width * W, (event.clientY - r.top) / r.height * H]; };
  svg.addEventListener("wheel", event => {
    event.preventDefault();
    const [mx, my] = at(event), f = event.deltaY > 0 ? 1.2 : 1 / 1.2;
    const cx = view.x[0] + (mx - left) / (W - left - right) * (view.x[1] - view.x[0]);
    const cy = view.y[0] + (H - bottom - my) / (H - top - bottom) * (view.y[1] - view.y[0]);
    view.x = view.x.map(v => cx + (v - cx) * f);
    view.y = view.y.map(v => cy + (v - cy) * f);
    paint();
  }, { passive: false });
  let held = null;
  svg.addEventListener("pointerdown", event => { held = at(event); svg.setPointerCapture(event.pointerId); });
  svg.addEventListener("pointermove", event => {
    if (!held) return;
    const [mx, my] = at(event);
    const dx = (mx - held[0]) / (W - left - right) * (view.x[1] - view.x[0]), dy = (my - held[1]) / (H - top - bottom) * (view.y[1] - view.y[0]);
    view = { x: view.x.map(v => v - dx), y: view.y.map(v => v + dy) };
    held = [mx, my];
    paint();
  });
  svg.addEventListener("pointerup", () => { held = null; });
  svg.addEventListener("dblclick", reset);
  for (const axis of ["x", "y"]) box.querySelector(`.log-${axis}`).addEventListener("click", () => { log[axis] = !log[axis]; reset(); });
  reset();
}
document.querySelectorAll(".panel").forEach((box, k) => draw(box, PANELS[k]));
