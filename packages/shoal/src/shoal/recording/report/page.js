"use strict";
// The timeline: what the page's columns hold, drawn on a canvas. All else of the page is plain HTML and needs no script.
(async () => {
  const meta = JSON.parse(document.getElementById("meta").textContent);
  const rowsBox = document.getElementById("rows");
  if (!rowsBox) return;
  const canvas = document.getElementById("timeline"), overview = document.getElementById("overview");
  const spacer = document.getElementById("spacer"), tooltip = document.getElementById("tooltip");
  const search = document.getElementById("search"), found = document.getElementById("found");
  const said = document.getElementById("said"), thin = document.getElementById("thin");

  // ------------------------------------------------------------ the columns
  // Each is a number of planes of one byte, deflated together: see packing.py.
  const inflate = async (text) => {
    const raw = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  let bytes;
  try {
    bytes = await inflate(document.getElementById("columns").textContent.trim());
  } catch (error) {
    document.getElementById("untold").hidden = false; // an old browser, or a file that was cut off
    return;
  }
  const n = meta.count, columns = {};
  let at = 0;
  for (const [name, width] of meta.columns) {
    const column = width === 1 ? bytes.subarray(at, at + n) : width > 4 ? new Float64Array(n) : new Int32Array(n);
    if (width > 4)
      for (let plane = 0; plane < width; plane++)
        for (let i = 0, from = at + plane * n, unit = 2 ** (8 * plane); i < n; i++) column[i] += bytes[from + i] * unit;
    else if (width > 1)
      for (let plane = 0; plane < width; plane++)
        for (let i = 0, from = at + plane * n; i < n; i++) column[i] |= bytes[from + i] << (8 * plane);
    at += n * width;
    columns[name] = column;
  }
  const { gap, span, number, task, state, attempt, upstreams, queued, size } = columns;
  const begun = new Float64Array(n), ended = new Float64Array(n); // seconds since the record began
  const firsts = new Int32Array(meta.rows.length + 1);
  for (let r = 0, i = 0, last = 0; r < meta.rows.length; r++) {
    let now = 0;
    const stop = i + meta.rows[r][2];
    for (; i < stop; i++) {
      last = number[i] = (number[i] + last) % 2 ** 48; // differences become numbers
      now += gap[i];
      begun[i] = now * meta.tick;
      now += span[i];
      ended[i] = now * meta.tick;
    }
    firsts[r + 1] = i;
  }
  const unlog = (code, unit) => (code ? unit * 10 ** ((code - 1) / 21) : 0);

  // ------------------------------------------------------------ words
  const seconds = (s) =>
    s >= 3600 ? `${(s / 3600).toPrecision(3)} h` : s >= 60 ? `${(s / 60).toPrecision(3)} min`
    : s >= 1 ? `${s.toPrecision(3)} s` : s >= 1e-3 ? `${(s * 1e3).toPrecision(3)} ms`
    : s > 0 ? `${(s * 1e6).toPrecision(3)} µs` : "0 s";
  const size_of = (b) => b >= 1e9 ? `${(b / 1e9).toPrecision(3)} GB` : b >= 1e6 ? `${(b / 1e6).toPrecision(3)} MB`
    : b >= 1e3 ? `${(b / 1e3).toPrecision(3)} kB` : `${Math.round(b)} B`;
  // The default name of a run ends in what its number is spread to: as names.py has it.
  const ending = (of) => (((BigInt(of) * 0x9e3779b97f4a7c15n) >> 52n) & 0xfffn).toString(16).padStart(3, "0");
  const nameOf = (i) => meta.names[number[i]] ?? `${meta.tasks[task[i]]}-${ending(number[i])}`;
  const tell = (i, row) => {
    const lines = [`${nameOf(i)}: ${meta.states[state[i]]}`, `began at ${seconds(begun[i])}, took ${seconds(ended[i] - begun[i])}`];
    if (attempt[i] > 1) lines.push(`attempt ${attempt[i]}`);
    if (upstreams[i]) lines.push(`waited about ${seconds(unlog(upstreams[i], 1e-6))} for upstreams`);
    if (queued[i]) lines.push(`then about ${seconds(unlog(queued[i], 1e-6))} for a worker`);
    if (size[i]) lines.push(`about ${size_of(unlog(size[i], 1))} came back`);
    lines.push(meta.workers[meta.rows[row][0]]);
    return lines.join("\n");
  };

  // ------------------------------------------------------------ what is seen
  const GUTTER = () => Math.min(180, canvas.clientWidth * 0.25), AXIS = 22, HIGH = 18, AIR = 3;
  const view = { from: 0, to: meta.span, high: HIGH };
  const hits = new Uint8Array(n);
  let searching = false, chosen = -1, pending = false, palette = {};
  const readColours = () => {
    const style = getComputedStyle(document.documentElement);
    const get = (name) => style.getPropertyValue(name).trim();
    palette = { paper: get("--paper"), ink: get("--ink"), faint: get("--faint"), edge: get("--edge"), soft: get("--soft"), bad: get("--bad"), link: get("--link"),
      tasks: meta.colours.map((c) => get(c < 0 ? "--rest" : `--c${c}`)) };
  };
  const draw = () => {
    if (!pending) {
      pending = true;
      requestAnimationFrame(() => { pending = false; paint(); });
    }
  };
  const clamp = () => {
    const least = Math.max(meta.tick * 4, 1e-6);
    let width = Math.min(Math.max(view.to - view.from, least), meta.span);
    view.from = Math.min(Math.max(view.from, 0), meta.span - width);
    view.to = view.from + width;
  };
  const lowest = (array, low, high, value) => { // the first index whose entry is above value
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (array[middle] > value) high = middle; else low = middle + 1;
    }
    return low;
  };
  const fit = (element, height) => {
    const ratio = window.devicePixelRatio || 1, width = element.clientWidth;
    if (element.width !== Math.round(width * ratio) || element.height !== Math.round(height * ratio)) {
      element.width = Math.round(width * ratio);
      element.height = Math.round(height * ratio);
    }
    element.style.height = `${height}px`;
    const context = element.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    return [context, width];
  };
  const moment = (t, step) => { // as many digits as neighbours need to differ
    const [unit, name] = step >= 600 ? [3600, "h"] : step >= 60 ? [60, "min"] : step >= 0.1 ? [1, "s"] : step >= 1e-4 ? [1e-3, "ms"] : [1e-6, "µs"];
    return `${Number((t / unit).toFixed(Math.max(0, Math.ceil(-Math.log10(step / unit)))))} ${name}`;
  };
  const ticksOf = (from, to, room) => {
    const raw = (to - from) / Math.max(2, room / 90), power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find((m) => m * power >= raw) * power, made = [];
    for (let t = Math.ceil(from / step) * step; t <= to; t += step) made.push(t);
    return [made, step];
  };
  const paint = () => {
    const count = meta.rows.length;
    const full = AXIS + count * view.high;
    const height = Math.max(60, Math.min(520, full + 2));
    const [context, width] = fit(canvas, height - 2);
    spacer.style.height = `${Math.max(0, full - canvas.clientHeight)}px`;
    const gutter = GUTTER(), room = width - gutter, scale = room / (view.to - view.from);
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    // time
    context.strokeStyle = palette.edge;
    context.fillStyle = palette.faint;
    const [ticks, every] = ticksOf(view.from, view.to, room);
    for (const t of ticks) {
      const x = gutter + (t - view.from) * scale;
      context.fillRect(x, AXIS - 4, 1, 4);
      const text = moment(t, every), wide = context.measureText(text).width;
      // The last one stands before its mark where it would not be whole behind it.
      context.fillText(text, x + 3 + wide > width ? x - 3 - wide : x + 3, AXIS / 2);
    }
    context.save();
    context.beginPath();
    context.rect(0, AXIS, width, height);
    context.clip();
    // rows: all that are in sight, or where they are thinner than a pixel, one for each pixel
    const top = rowsBox.scrollTop;
    const step = Math.max(1, Math.ceil(1 / view.high));
    const first = Math.max(0, Math.floor(top / view.high));
    const last = Math.min(count, Math.ceil((top + height) / view.high));
    const air = view.high > 6 ? AIR : view.high > 2 ? 0.5 : 0;
    let shown = -1;
    for (let r = first; r < last; r += step) {
      const y = AXIS + r * view.high - top, high = Math.max(1, view.high - air);
      const [worker, lane] = meta.rows[r];
      if (view.high >= 12 && worker !== shown) {
        shown = worker;
        context.fillStyle = palette.edge;
        context.fillRect(0, y - 1, width, 0.5);
        context.fillStyle = palette.ink;
        context.globalAlpha = 1;
        context.fillText(meta.workers[worker], 4, y + high / 2, gutter - 8);
      }
      const stop = firsts[r + 1];
      let i = lowest(ended, firsts[r], stop, view.from);
      // what falls into one pixel is drawn once, in the colour of what is worst, found, or longest in it
      while (i < stop && begun[i] < view.to) {
        const left = Math.max(gutter, gutter + (begun[i] - view.from) * scale);
        let right = gutter + (ended[i] - view.from) * scale, best = i;
        let bad = meta.bad[state[i]], hit = hits[i], longest = ended[i] - begun[i];
        let next = i + 1;
        const pixel = Math.floor(left) + 1;
        if (right < pixel)
          while (next < stop && gutter + (ended[next] - view.from) * scale < pixel) {
            const lasted = ended[next] - begun[next];
            bad = bad || meta.bad[state[next]];
            if (hits[next] > hit || (hits[next] === hit && lasted > longest)) { best = next; longest = lasted; hit = hits[next]; }
            right = gutter + (ended[next] - view.from) * scale;
            next++;
          }
        const wide = Math.max(right - left, 0.75);
        context.globalAlpha = searching && !hit ? 0.15 : 1;
        context.fillStyle = palette.tasks[task[best]];
        context.fillRect(left, y, wide > 3 ? wide - 0.5 : wide, high);
        if (bad) {
          context.fillStyle = palette.bad;
          context.fillRect(left, y + high * 0.6, Math.max(wide, 2), high * 0.4);
        }
        if (i <= chosen && chosen < next) {
          context.globalAlpha = 1;
          context.strokeStyle = palette.ink;
          context.lineWidth = 2;
          context.strokeRect(left - 1, y - 1, Math.max(wide, 3) + 2, high + 2);
        }
        if (wide > 60 && view.high >= 14) {
          context.fillStyle = palette.paper;
          context.save();
          context.beginPath();
          context.rect(left, y, wide - 4, high);
          context.clip();
          context.fillText(nameOf(i), left + 4, y + high / 2);
          context.restore();
        }
        i = next;
      }
      context.globalAlpha = 1;
    }
    context.restore();
    thin.textContent = step > 1 ? `One row in ${step} is drawn, they are too many for the screen.` : "";
    paintOverview();
  };
  const paintOverview = () => {
    const [context, width] = fit(overview, 56);
    const gutter = GUTTER(), room = width - gutter, bins = meta.busy.length, most = Math.max(1, ...meta.busy);
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = palette.faint;
    context.fillText("runs at once", 4, 22);
    context.fillText(`mean, at most ${most < 10 ? Number(most.toFixed(1)) : Math.round(most)}`, 4, 38);
    context.fillStyle = palette.tasks.length ? palette.link : palette.faint;
    context.globalAlpha = 0.6;
    context.beginPath(); // one shape: bars side by side would show seams
    context.moveTo(gutter, 56);
    for (let b = 0; b < bins; b++) {
      const high = 56 - (meta.busy[b] / most) * 50;
      context.lineTo(gutter + (b / bins) * room, high);
      context.lineTo(gutter + ((b + 1) / bins) * room, high);
    }
    context.lineTo(width, 56);
    context.fill();
    context.globalAlpha = 1;
    const left = gutter + (view.from / meta.span) * room, right = gutter + (view.to / meta.span) * room;
    if (view.to - view.from < meta.span) {
      context.strokeStyle = palette.ink;
      context.strokeRect(left, 1, Math.max(2, right - left), 54);
    }
  };

  // ------------------------------------------------------------ moving about
  const zoom = (factor, around) => {
    const middle = around ?? (view.from + view.to) / 2;
    view.from = middle - (middle - view.from) * factor;
    view.to = middle + (view.to - middle) * factor;
    clamp();
    draw();
  };
  const pan = (part) => {
    const by = (view.to - view.from) * part;
    view.from += by;
    view.to += by;
    clamp();
    draw();
  };
  const whole = () => { view.from = 0; view.to = meta.span; draw(); };
  const timeAt = (x) => {
    const box = canvas.getBoundingClientRect(), gutter = GUTTER();
    return view.from + ((x - box.left - gutter) / (box.width - gutter)) * (view.to - view.from);
  };
  const runAt = (x, y) => {
    const box = canvas.getBoundingClientRect();
    if (y - box.top < AXIS || x - box.left < GUTTER()) return [-1, -1];
    const row = Math.floor((y - box.top - AXIS + rowsBox.scrollTop) / view.high);
    if (row < 0 || row >= meta.rows.length) return [-1, -1];
    const t = timeAt(x), reach = ((view.to - view.from) / box.width) * 3;
    let i = lowest(ended, firsts[row], firsts[row + 1], t - reach), best = -1, near = Infinity;
    for (; i < firsts[row + 1] && begun[i] <= t + reach; i++) {
      const away = t < begun[i] ? begun[i] - t : t > ended[i] ? t - ended[i] : 0;
      if (away < near) { near = away; best = i; }
      if (!away) break;
    }
    return [best, row];
  };
  const hide = () => { tooltip.hidden = true; };
  const show = (i, row, x, y) => {
    tooltip.textContent = tell(i, row);
    tooltip.hidden = false;
    const box = tooltip.getBoundingClientRect();
    tooltip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 8))}px`;
    tooltip.style.top = `${y + 18 + box.height > innerHeight ? Math.max(4, y - box.height - 12) : y + 18}px`;
  };
  const goTo = (i, speak = true) => {
    chosen = i;
    const row = lowest(firsts, 0, firsts.length, i) - 1;
    const lasts = ended[i] - begun[i];
    if (begun[i] < view.from || ended[i] > view.to || lasts < (view.to - view.from) / 200) {
      const width = Math.min(view.to - view.from, Math.max(lasts * 20, meta.tick * 50));
      view.from = begun[i] + lasts / 2 - width / 2;
      view.to = view.from + width;
      clamp();
    }
    const y = row * view.high;
    if (y < rowsBox.scrollTop || y + view.high > rowsBox.scrollTop + rowsBox.clientHeight - AXIS)
      rowsBox.scrollTop = y - rowsBox.clientHeight / 2;
    draw();
    if (speak) said.textContent = tell(i, row);
  };
  let dragged = null;
  canvas.addEventListener("pointerdown", (event) => {
    dragged = { x: event.clientX, from: view.from, to: view.to, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (dragged) {
      const by = ((dragged.x - event.clientX) / (canvas.clientWidth - GUTTER())) * (dragged.to - dragged.from);
      dragged.moved = dragged.moved || Math.abs(dragged.x - event.clientX) > 3;
      view.from = dragged.from + by;
      view.to = dragged.to + by;
      clamp();
      draw();
      hide();
      return;
    }
    const [i, row] = runAt(event.clientX, event.clientY);
    if (i < 0) hide(); else show(i, row, event.clientX, event.clientY);
  });
  const released = (event) => {
    if (dragged && !dragged.moved && event.type === "pointerup") {
      const [i] = runAt(event.clientX, event.clientY);
      if (i >= 0) goTo(i);
    }
    dragged = null;
  };
  canvas.addEventListener("pointerup", released);
  canvas.addEventListener("pointercancel", released);
  canvas.addEventListener("pointerleave", hide);
  canvas.addEventListener("dblclick", (event) => zoom(0.25, timeAt(event.clientX)));
  canvas.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) {
      event.preventDefault();
      zoom(Math.exp(Math.sign(event.deltaY) * 0.25), timeAt(event.clientX));
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      pan(Math.sign(event.deltaX || event.deltaY) * 0.1);
    }
  }, { passive: false });
  const keys = {
    ArrowLeft: () => pan(-0.2), ArrowRight: () => pan(0.2), a: () => pan(-0.2), d: () => pan(0.2),
    "+": () => zoom(0.5), "=": () => zoom(0.5), w: () => zoom(0.5), "-": () => zoom(2), s: () => zoom(2),
    ArrowUp: () => { rowsBox.scrollTop -= view.high * 3; }, ArrowDown: () => { rowsBox.scrollTop += view.high * 3; },
    0: whole, Home: whole, n: () => next(1), p: () => next(-1), "/": () => search.focus(),
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  rowsBox.addEventListener("scroll", draw);
  let brush = null;
  const overviewTime = (x) => {
    const box = overview.getBoundingClientRect(), gutter = GUTTER();
    return ((x - box.left - gutter) / (box.width - gutter)) * meta.span;
  };
  overview.addEventListener("pointerdown", (event) => { brush = overviewTime(event.clientX); overview.setPointerCapture(event.pointerId); });
  overview.addEventListener("pointermove", (event) => {
    if (brush === null) return;
    const now = overviewTime(event.clientX);
    if (Math.abs(now - brush) < meta.span / 500) return;
    view.from = Math.min(brush, now);
    view.to = Math.max(brush, now);
    clamp();
    draw();
  });
  overview.addEventListener("pointerup", () => { brush = null; });
  overview.addEventListener("dblclick", whole);

  // ------------------------------------------------------------ search
  const look = () => {
    const text = search.value.trim().toLowerCase();
    searching = text !== "";
    hits.fill(0);
    let count = 0;
    if (searching) {
      const exact = /^(.*?)-([0-9a-f]{3})$/.exec(text), wanted = /^#\d+$/.test(text) ? Number(text.slice(1)) : -1;
      const called = new Set(Object.keys(meta.names).filter((of) => meta.names[of].toLowerCase().includes(text)).map(Number));
      const tasks = meta.tasks.map((name) => name.toLowerCase().includes(text));
      const named = meta.tasks.map((name) => exact !== null && name.toLowerCase() === exact[1]);
      const states = meta.states.map((name) => name.toLowerCase().includes(text));
      const workers = meta.workers.map((name) => name.toLowerCase().includes(text));
      for (let r = 0; r < meta.rows.length; r++) {
        const here = workers[meta.rows[r][0]];
        for (let i = firsts[r]; i < firsts[r + 1]; i++)
          if (here || tasks[task[i]] || states[state[i]] || number[i] === wanted || called.has(number[i]) || (named[task[i]] && ending(number[i]) === exact[2])) { hits[i] = 1; count++; }
      }
      found.textContent = `${count.toLocaleString("en")} found`;
    } else found.textContent = "";
    for (const button of document.querySelectorAll(".legend button"))
      button.setAttribute("aria-pressed", String(button.dataset.name === search.value));
    draw();
    return count;
  };
  const next = (way) => {
    for (let k = 1, i = chosen; k <= n; k++) {
      i = (i + way + n) % n;
      if (i < 0) i += n;
      if (!searching || hits[i]) return goTo(i);
    }
  };
  search.addEventListener("input", () => { chosen = -1; look(); });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); next(event.shiftKey ? -1 : 1); }
    if (event.key === "Escape") { search.value = ""; look(); }
  });
  for (const button of document.querySelectorAll("[data-name]"))
    button.addEventListener("click", () => {
      search.value = search.value === button.dataset.name ? "" : button.dataset.name;
      chosen = -1;
      look();
    });
  const press = (id, action) => document.getElementById(id).addEventListener("click", action);
  press("closer", () => zoom(0.5));
  press("wider", () => zoom(2));
  press("whole", whole);
  press("later", () => next(1));
  press("earlier", () => next(-1));
  press("squeeze", () => {
    const all = Math.min(HIGH, (518 - AXIS) / meta.rows.length);
    view.high = view.high === HIGH ? all : HIGH;
    rowsBox.scrollTop = 0;
    document.getElementById("squeeze").setAttribute("aria-pressed", String(view.high !== HIGH));
    draw();
  });

  // ------------------------------------------------------------ begin
  readColours();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); draw(); });
  matchMedia("print").addEventListener("change", () => { readColours(); paint(); });
  new ResizeObserver(draw).observe(rowsBox);
  paint();
  document.documentElement.dataset.drawn = "true";
  window.shoalTimeline = { view, count: n, runAt, look, hits: () => hits.reduce((a, b) => a + b, 0) };
})();
