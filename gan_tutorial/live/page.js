"use strict";
// What all explorers share on the page: controls with labels, canvases in the page's colours, a
// clock that rests out of sight.
globalThis.ganLive ??= {};
ganLive.explorers ??= {};

ganLive.page = (() => {
  // element("label", { class: "x", onclick: f }, child, "text"); attributes that are null or false
  // are left out
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value === true) made.setAttribute(name, "");
      else if (value !== null && value !== false) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  function button(text, onclick, attributes = {}) {
    return element("button", { type: "button", onclick, ...attributes }, text);
  }

  // A labelled slider. Its value is written beside it by `text`; with `log`, min, max and step are
  // powers of ten.
  function slider(label, { min, max, step, value, log = false, text = String }, onchange) {
    const output = element("output", { "aria-hidden": "true" }); // the slider itself says its value
    const input = element("input", { type: "range", min, max, step });
    const control = {
      node: element(
        "label",
        { class: "gan-live-slider" },
        element("span", {}, label),
        input,
        output,
      ),
      input,
      get value() {
        return log ? 10 ** Number(input.value) : Number(input.value);
      },
      set value(number) {
        input.value = log ? Math.log10(number) : number;
        output.textContent = text(control.value);
        input.setAttribute("aria-valuetext", output.textContent);
      },
    };
    input.addEventListener("input", () => {
      control.value = control.value; // writes it out
      onchange(control.value);
    });
    control.value = value;
    return control;
  }

  // One of several: options is { value: text }.
  function choice(label, options, value, onchange) {
    const select = element("select", { onchange: () => onchange(select.value) });
    for (const [key, text] of Object.entries(options))
      select.append(element("option", { value: key }, text));
    select.value = value;
    return {
      node: element("label", { class: "gan-live-choice" }, element("span", {}, label), select),
      select,
      get value() {
        return select.value;
      },
      set value(key) {
        select.value = key;
      },
    };
  }

  const swatch = (tone) =>
    element("i", { class: "gan-live-swatch", style: `background:var(--gan-${tone})` });

  function check(label, checked, onchange, tone = null) {
    const input = element("input", { type: "checkbox", onchange: () => onchange(input.checked) });
    input.checked = checked;
    const mark = tone ? [swatch(tone)] : [];
    return { node: element("label", { class: "gan-live-check" }, input, ...mark, label), input };
  }

  // A finger drags what lies within a thumb's reach of where(), a place on the plot, and elsewhere
  // scrolls the page. Returns a function that says of an event whether it is within that reach.
  function dragFrom(plot, where) {
    const { node } = plot;
    const near = (event) => {
      const [[x, y], [u, v]] = [plot.place(event), where()];
      return Math.hypot((x - u) * node.clientWidth, (y - v) * node.clientHeight) < 48;
    };
    const hold = (event) => near(event.touches[0]) && event.preventDefault();
    node.addEventListener("touchstart", hold, { passive: false });
    node.style.touchAction = "manipulation";
    return near;
  }

  // A list of names and numbers; show({ name: text }) changes them.
  function readout(names) {
    const values = Object.fromEntries(
      Object.keys(names).map((key) => [key, element("dd", {}, "–")]),
    );
    const rows = Object.entries(names).map(([key, name]) =>
      element("div", {}, element("dt", {}, name), values[key]),
    );
    return {
      node: element("dl", { class: "gan-live-readout" }, ...rows),
      show(texts) {
        for (const [key, text] of Object.entries(texts))
          if (values[key].textContent !== text) values[key].textContent = text;
      },
    };
  }

  // A canvas that fills its place, at the screen's resolution. draw(context, width, height,
  // colours) is called on a clean one, in CSS pixels, whenever its size or the page's theme
  // changes, and by redraw().
  function canvas(root, { label, ratio = 1, least = 0, interactive = false }, draw) {
    const attributes = interactive ? { role: "application", tabindex: 0 } : { role: "img" };
    const node = element("canvas", {
      class: "gan-live-canvas",
      style: `aspect-ratio:${ratio};min-height:${least}`,
      "aria-label": label,
      ...attributes,
    });
    const context = node.getContext("2d");
    const plot = {
      node,
      redraw() {
        const [width, height, scale] = [
          node.clientWidth,
          node.clientHeight,
          globalThis.devicePixelRatio || 1,
        ];
        if (!width) return;
        const [fullWidth, fullHeight] = [Math.round(width * scale), Math.round(height * scale)];
        if (node.width !== fullWidth || node.height !== fullHeight)
          [node.width, node.height] = [fullWidth, fullHeight];
        context.setTransform(scale, 0, 0, scale, 0, 0);
        context.clearRect(0, 0, width, height);
        context.font = "13px system-ui, sans-serif";
        context.lineJoin = "round";
        draw(context, width, height, colours(root));
      },
      // The place of a pointer, from 0 to 1 in both directions.
      place(event) {
        const box = node.getBoundingClientRect();
        return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      },
    };
    new ResizeObserver(plot.redraw).observe(node);
    onTheme(plot.redraw);
    return plot;
  }

  const NAMES = [
    "ink", "muted", "line", "paper", "blue", "orange", "green", "red", "purple", "sky", "grey",
    "real", "fake",
  ];

  // The colours of style.css, which differ between the light and the dark theme.
  function colours(root) {
    const style = getComputedStyle(root);
    return Object.fromEntries(
      NAMES.map((name) => [name, style.getPropertyValue(`--gan-${name}`).trim()]),
    );
  }

  // The book, JupyterLab, Colab and VS Code each say in an attribute which theme they show.
  function onTheme(callback) {
    const observer = new MutationObserver(callback);
    const attributeFilter =
      ["data-theme", "theme", "data-jp-theme-light", "data-vscode-theme-kind"];
    for (const node of [document.documentElement, document.body])
      observer.observe(node, { attributes: true, attributeFilter });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", callback);
  }

  // Axes with ticks, numbers or pairs [number, text], in a part of a canvas; returns the places of
  // x and of y.
  function axes(
    context,
    colour,
    { left, top, width, height },
    { x, y, xTicks = [], yTicks = [], xLabel = "", title = "" },
  ) {
    const toX = (value) => left + ((value - x[0]) / (x[1] - x[0])) * width;
    const toY = (value) => top + height - ((value - y[0]) / (y[1] - y[0])) * height;
    context.lineWidth = 1;
    context.strokeStyle = colour.line;
    context.fillStyle = colour.muted;
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const tick of xTicks) {
      line(context, [[toX(tick), top], [toX(tick), top + height]]);
      const half = context.measureText(label(tick)).width / 2;
      context.fillText(label(tick), Math.min(toX(tick), left + width + 8 - half), top + height + 4);
    }
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const [tick, text] of yTicks.map((entry) =>
      Array.isArray(entry) ? entry : [entry, label(entry)],
    )) {
      line(context, [[left, toY(tick)], [left + width, toY(tick)]]);
      context.fillText(text, left - 5, toY(tick));
    }
    context.fillStyle = colour.ink;
    context.textAlign = "left";
    context.textBaseline = "top";
    if (title) context.fillText(title, left, 2);
    context.textAlign = "right";
    if (xLabel) context.fillText(xLabel, left + width, top + height + 18);
    return { toX, toY };
  }

  // Draw only inside a box, until context.restore().
  function clip(context, { left, top, width, height }) {
    context.save();
    context.beginPath();
    context.rect(left, top, width, height);
    context.clip();
  }

  function label(number) {
    return String(Math.round(number * 1e4) / 1e4).replace("-", "−");
  }

  const rounded = (number, places = 2) => label(Number(number.toFixed(places)));

  // The texts of numbered options: { 0: "0", 1: "1" }.
  const numbered = (count) =>
    Object.fromEntries(Array.from({ length: count }, (_, i) => [i, `${i}`]));

  // move(right, up) is called with 1, 0 or -1 for each of the arrow keys; if it returns false, the
  // key is the page's.
  function onArrows(node, move) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    node.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return; // Alt and ← go back a page
      if (steps[event.key] && move(...steps[event.key]) !== false) event.preventDefault();
    });
  }

  function line(context, points) {
    context.beginPath();
    for (const [x, y] of points) context.lineTo(x, y);
    context.stroke();
  }

  function dot(context, x, y, radius) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fill();
  }

  function arrow(context, x, y, dx, dy, head = 4) {
    const length = Math.hypot(dx, dy);
    if (length < 1) return;
    const [ex, ey, ux, uy] = [x + dx, y + dy, (dx / length) * head, (dy / length) * head];
    line(context, [[x, y], [ex, ey]]);
    line(context, [
      [ex - ux - uy * 0.7, ey - uy + ux * 0.7],
      [ex, ey],
      [ex - ux + uy * 0.7, ey - uy - ux * 0.7],
    ]);
  }

  // Calls frame(milliseconds) before each repaint of the screen while it runs and the explorer can
  // be seen.
  function clock(root, frame) {
    let [running, visible, request, before] = [false, true, 0, 0];
    const tick = (now) => {
      request = 0;
      if (!running) return;
      frame(Math.min(now - before, 100));
      before = now;
      if (running && visible && !request) request = requestAnimationFrame(tick);
    };
    const update = () => {
      if (running && visible && !request) {
        before = performance.now();
        request = requestAnimationFrame(tick);
      }
    };
    new IntersectionObserver((entries) => {
      visible = entries.at(-1).isIntersecting;
      update();
    }).observe(root);
    return {
      get running() {
        return running;
      },
      start() {
        running = true;
        update();
      },
      stop() {
        running = false;
      },
    };
  }

  const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  // JupyterLab takes keys that are pressed in an output for its own: arrows leave the cell, digits
  // make it a heading.
  function keepKeys(root) {
    root.addEventListener("keydown", (event) => {
      if (!(event.altKey || event.ctrlKey || event.metaKey || event.shiftKey))
        event.stopPropagation();
    });
  }

  // Put an explorer in the place of its still picture, once the page has been painted, and the
  // explorer too: its pictures are drawn in a box of no height.
  function mount(root, name, options) {
    requestAnimationFrame(() =>
      setTimeout(() => {
        if (root.explorer) return;
        const still = root.querySelector(".gan-live-still");
        const box = element("div", { class: "gan-live-box gan-live-unseen" });
        still.before(box);
        keepKeys(root);
        const explorer = ganLive.explorers[name](box, options);
        root.explorer = explorer;
        const show = () => {
          if (explorer.busy) return requestAnimationFrame(show);
          box.classList.remove("gan-live-unseen");
          still.hidden = true;
          root.dataset.ready = name;
          return null;
        };
        show();
      }),
    );
  }

  return {
    element, button, slider, choice, check, readout, canvas, axes, clip, line, dot, arrow, clock,
    calm, dragFrom, label, rounded, numbered, onArrows, swatch, mount,
  };
})();
