"use strict";
// Directions in the latent space: move ten digits along several at once, and see what a measurement
// says about the images.
globalThis.ganLive ??= {};
ganLive.explorers ??= {};

ganLive.directions = (() => {
  const SAMPLES = 10, REACH = 3;

  // The slant of an image in [-1, 1]: pixels to the right for each pixel up, by the moments of its
  // ink.
  function slant(image, side) {
    let [total, right, up, across_up, up_up] = [0, 0, 0, 0, 0];
    const sums = (visit) => image.forEach((value, i) =>
      visit((value + 1) / 2, i % side, -Math.floor(i / side)));
    sums((ink, x, y) => {
      total += ink;
      right += ink * x;
      up += ink * y;
    });
    sums((ink, x, y) => {
      across_up += ink * (x - right / total) * (y - up / total);
      up_up += ink * (y - up / total) ** 2;
    });
    return across_up / up_up;
  }

  // The thickness of its strokes in pixels: 2 · area / perimeter; the perimeter is the sum of the
  // lengths of all gradients.
  function thickness(image, side) {
    const at = (x, y) =>
      x < 0 || y < 0 || x >= side || y >= side ? 0 : (image[y * side + x] + 1) / 2;
    let [area, perimeter] = [0, 0];
    for (let y = -1; y < side; y++) {
      for (let x = -1; x < side; x++) {
        area += at(x, y);
        perimeter += Math.hypot(at(x + 1, y) - at(x, y), at(x, y + 1) - at(x, y));
      }
    }
    return (2 * area) / perimeter;
  }

  const PROPERTIES = { slant, thickness };

  function explore(root, { G: packed, directions, spread }) {
    const { latents, worker, sheet } = ganLive.generator, { mean } = ganLive.numbers;
    const { element, button, slider, choice, readout, canvas, axes } = ganLive.page;
    const { rounded, numbered } = ganLive.page;
    const signed = (x) => (x > 0 ? "+" : "") + rounded(x);
    const { side, latent } = packed;
    const zero = () => Object.fromEntries(Object.keys(directions).map((name) => [name, 0]));
    const state = { label: "all", seed: 1, steps: zero() };
    const images = { before: [], after: [] };

    const work = worker(packed, (done) => {
      gallery.redraw();
      if (done) measure();
    });
    const columns = root.clientWidth < 480 ? 5 : 10, parts = SAMPLES / columns;
    const gallery = sheet(root, {
      columns, rows: 2 * parts, side,
      label: "Ten digits as drawn, and below them the same, moved; the bars show the change",
    });
    // On a narrow screen the first five stand above their own images, and then the other five.
    const place = (which, i) =>
      (2 * Math.floor(i / columns) + (which === "after" ? 1 : 0)) * columns + (i % columns);

    const vectors = () => latents(state.seed, SAMPLES, latent);
    const moved = (z) =>
      Object.entries(state.steps).reduce(
        (sum, [name, step]) => sum.map((value, i) => value + step * directions[name][i]), z);

    function draw(which) {
      vectors().forEach((start, i) =>
        work.add(`${which} ${i}`, function* (G) {
          const z = which === "after" ? moved(start) : start;
          const digit = state.label === "all" ? i % packed.classes : Number(state.label);
          const image = yield* G.generating(z, digit);
          images[which][i] = image;
          gallery.set(place(which, i), image);
        }));
    }

    let changes = {};
    function measure() {
      for (const [name, property] of Object.entries(PROPERTIES)) {
        const [before, after] = ["before", "after"].map((which) =>
          mean(images[which].map((image) => property(image, side))));
        changes[name] = (after - before) / spread[name];
        numbers.show({ [name]: `${rounded(before)} → ${rounded(after)}` });
      }
      bars.redraw();
      const said = Object.entries(changes).map(([name, change]) => `${name} ${signed(change)}`);
      bars.node.setAttribute("aria-label",
        `Mean change of the ten images, in standard deviations: ${said.join(", ")}`);
    }

    const numbers = readout({ slant: "slant, mean", thickness: "thickness, mean, in pixels" });
    const bars = canvas(
      root,
      { label: "Mean change of the ten images, in standard deviations", ratio: 2.4 },
      (context, width, height, colour) => {
        const box = { left: 12, top: 22, width: width - 24, height: height - 62 };
        const { toX } = axes(context, colour, box, {
          x: [-4, 4], y: [0, 2], xTicks: [-4, -2, 0, 2, 4],
          xLabel: "standard deviations", title: "mean change of the ten images",
        });
        Object.entries(changes).forEach(([name, change], i) => {
          const y = box.top + (box.height / 2) * i, middle = toX(0), end = toX(
            Math.max(-4, Math.min(4, change)));
          context.fillStyle = colour[i ? "purple" : "blue"];
          context.fillRect(Math.min(middle, end), y + 22, Math.max(1, Math.abs(end - middle)), 10);
          context.fillStyle = colour.ink;
          context.textAlign = "left";
          context.textBaseline = "top";
          context.fillText(`${name} ${signed(change)}`, box.left + 4, y + 4);
        });
      },
    );

    const sliders = Object.keys(directions).map((name) =>
      slider(name, { min: -REACH, max: REACH, step: 0.25, value: 0, text: signed }, (value) => {
        state.steps[name] = value;
        draw("after");
      }));
    const names = { all: "one of each", ...numbered(packed.classes) };
    const which = choice("digit", names, "all", (value) => {
      state.label = value;
      drawAll();
    });

    function drawAll() {
      draw("before");
      draw("after");
    }

    root.append(
      element("div", { class: "gan-live-bar" },
        button("Another ten", () => {
          state.seed += 1;
          drawAll();
        }),
        button("Reset", () => {
          Object.assign(state, { label: "all", seed: 1, steps: zero() });
          which.value = "all";
          for (const control of sliders) control.value = 0;
          drawAll();
        }),
        which.node),
      element("p", { class: "gan-live-caption" }, "As drawn, and the same below, moved"),
      gallery.node,
      element("div", { class: "gan-live-columns gan-live-below" },
        element("div", { class: "gan-live-side" },
          element("p", { class: "gan-live-caption" }, "Steps along each direction"),
          ...sliders.map((control) => control.node)),
        element("div", { class: "gan-live-side" }, bars.node, numbers.node)),
    );
    drawAll();
    return {
      state,
      get changes() {
        return changes;
      },
      get busy() {
        return work.busy;
      },
    };
  }

  ganLive.explorers.directions = explore;
  return PROPERTIES;
})();
