"use strict";
// The latent space: two ends and the way between them, straight or along the arc; and what a limit
// on the numbers of z does.
globalThis.ganLive ??= {};
ganLive.explorers ??= {};

ganLive.latent = (() => {
  const STOPS = 9, SAMPLES = 20, NO_LIMIT = 3.5;

  function explore(root, { G: packed }) {
    const { latents, norm, lerp, slerp, stretched, truncate, ink, distance } =
      ganLive.generator;
    const { worker, sheet } = ganLive.generator, { mean } = ganLive.numbers;
    const { element, button, slider, choice, check, readout } = ganLive.page;
    const { canvas, axes, line, dot, clock, calm } = ganLive.page;
    const { rounded, numbered, onArrows, swatch } = ganLive.page;
    const PATHS = { lerp, slerp };
    const TONES = { lerp: "orange", slerp: "blue" };
    const radius = Math.sqrt(packed.latent);
    const START = { t: 0.5, a: 1, b: 2, seed: 3, limit: NO_LIMIT, stretch: false, label: 0 };
    const state = { ...START };
    const samples = []; // the pictures of the second part, to measure them
    let ends = [], direction = 1;

    const work = worker(packed, (done) => {
      for (const { redraw } of [pair, way, gallery]) redraw();
      if (done) measure();
    });
    const generate = (name, target, place, z, keep) =>
      work.add(name + place, function* (G) {
        const image = yield* G.generating(z, state.label);
        target.set(place, image);
        if (keep) keep[place] = image;
      });

    const pair = sheet(root, {
      columns: 2, side: packed.side, gap: 8,
      label: "The image at t: left, on the straight line; right, on the arc",
    });
    const way = sheet(root, {
      columns: STOPS, rows: 2, side: packed.side, interactive: true, tones: Object.values(TONES),
      label: "",
    });
    const columns = root.clientWidth < 480 ? 5 : 10;
    const gallery = sheet(root, {
      columns, rows: SAMPLES / columns, side: packed.side,
      label: "Twenty samples within the limit; the numbers beside them say how much they differ",
    });
    const lengths = canvas(
      root,
      { label: "The length of z from a to b: the line dips, the arc does not", ratio: 2 },
      (context, width, height, colour) => {
        const box = { left: 26, top: 22, width: width - 36, height: height - 62 };
        const { toX, toY } = axes(context, colour, box, {
          x: [0, 1], y: [0, 1.4 * radius], xTicks: [0, 0.5, 1],
          yTicks: [0, [radius, "√d"]], xLabel: "t", title: "length of z",
        });
        for (const [name, path] of Object.entries(PATHS)) {
          context.strokeStyle = context.fillStyle = colour[TONES[name]];
          context.lineWidth = 2.5;
          const at = (t) => norm(path(...ends, t));
          line(context, Array.from({ length: 41 }, (_, i) => [toX(i / 40), toY(at(i / 40))]));
          dot(context, toX(state.t), toY(at(state.t)), 5);
        }
      },
    );
    const numbers = readout({ lerp: "length on the line", slerp: "length on the arc" });
    const measured = readout({
      length: "mean length of z",
      ink: "mean pixel, −1 to 1",
      variety: "mean distance between two images",
    });

    const drawPair = () =>
      Object.values(PATHS).forEach((path, i) => generate("pair", pair, i, path(...ends, state.t)));

    function moveTo(t) {
      state.t = Math.max(0, Math.min(1, t));
      place.value = state.t;
      drawPair();
      numbers.show({
        lerp: rounded(norm(lerp(...ends, state.t))), slerp: rounded(norm(slerp(...ends, state.t))),
      });
      const nearest = Math.round(state.t * (STOPS - 1));
      way.frame(nearest, nearest + STOPS);
      way.node.setAttribute("aria-label", "Nine images from a to b: the straight line above, the " +
        `arc below. Left and right arrow keys move t; it is ${rounded(state.t)}.`);
      way.redraw();
      lengths.redraw();
    }

    function drawWay() {
      ends = [state.a, state.b].map((seed) => latents(seed, 1, packed.latent)[0]);
      moveTo(state.t);
      Object.values(PATHS).forEach((path, row) => {
        for (let i = 0; i < STOPS; i++)
          generate("way", way, row * STOPS + i, path(...ends, i / (STOPS - 1)));
      });
    }

    const vectors = () =>
      latents(state.seed, SAMPLES, packed.latent).map((drawn) => {
        const z = state.limit < NO_LIMIT ? truncate(drawn, state.limit) : drawn;
        return state.stretch ? stretched(z) : z;
      });

    function drawGallery() {
      vectors().forEach((z, i) => generate("sample", gallery, i, z, samples));
    }

    function measure() {
      const pairs = samples.flatMap((a, i) => samples.slice(i + 1).map((b) => distance(a, b)));
      measured.show({
        length: rounded(mean(vectors().map(norm))), ink: rounded(mean(samples.map(ink))),
        variety: pairs.length ? rounded(mean(pairs)) : "–",
      });
    }

    function drawAll() {
      drawWay();
      drawGallery();
    }

    const ticker = clock(root, (milliseconds) => {
      if (work.busy && !calm()) return; // no picture is left out
      const t = state.t + (direction * milliseconds) / (calm() ? 12000 : 4000);
      if (t > 1 || t < 0) direction = -direction;
      moveTo(t);
    });
    const walk = button("Walk", () => {
      if (ticker.running) ticker.stop();
      else ticker.start();
      walk.textContent = ticker.running ? "Pause" : "Walk";
    }, { class: "gan-live-main" });
    let next = 10; // seeds that were not seen yet
    const another = (name, text, draw) => button(text, () => {
      state[name] = next++;
      draw();
    });
    const place = slider(
      "way from a to b, t",
      { min: 0, max: 1, step: 0.01, value: state.t, text: rounded },
      moveTo,
    );
    const limit = slider(
      "limit c on every component of z",
      {
        min: 0.1, max: NO_LIMIT, step: 0.1, value: state.limit,
        text: (x) => (x < NO_LIMIT ? rounded(x) : "none"),
      },
      (value) => {
        state.limit = value;
        drawGallery();
      },
    );
    const stretch = check("stretched to the length √d", false, (on) => {
      state.stretch = on;
      drawGallery();
    });
    const label = choice("class", numbered(packed.classes), "0", (value) => {
      state.label = Number(value);
      drawAll();
    });

    const drag = (event) => {
      if (!event.buttons) return;
      const along = way.place(event)[0] * STOPS - 0.5; // the middle of a picture is its t
      moveTo(Math.round((along / (STOPS - 1)) * 100) / 100);
    };
    way.node.style.touchAction = "pan-y";
    for (const type of ["pointerdown", "pointermove"]) way.node.addEventListener(type, drag);
    onArrows(way.node, (right) =>
      right !== 0 && moveTo(Math.round(100 * (state.t + 0.05 * right)) / 100));

    root.append(
      element("div", { class: "gan-live-bar" },
        walk,
        another("a", "Another a", drawWay),
        another("b", "Another b", drawWay),
        button("Reset", () => {
          Object.assign(state, START);
          ticker.stop();
          walk.textContent = "Walk";
          [limit.value, stretch.input.checked, label.value] = [state.limit, false, "0"];
          drawAll();
        }),
        ...(packed.classes ? [label.node] : [])),
      element("p", { class: "gan-live-caption" }, "From a to b: the line above, the arc below"),
      way.node,
      place.node,
      element("div", { class: "gan-live-columns gan-live-below" },
        element("div", { class: "gan-live-side" },
          element("p", { class: "gan-live-caption gan-live-halves" },
            element("span", {}, swatch("orange"), " on the line"),
            element("span", {}, swatch("blue"), " on the arc")),
          pair.node),
        element("div", { class: "gan-live-side" }, numbers.node, lengths.node)),
      element("p", { class: "gan-live-caption" }, "Twenty samples of one seed"),
      gallery.node,
      element("div", { class: "gan-live-columns gan-live-below" },
        element("div", { class: "gan-live-side" }, limit.node, stretch.node,
          another("seed", "Another seed", drawGallery)),
        element("div", { class: "gan-live-side" }, measured.node)),
    );
    drawAll();
    return {
      state, measured, vectors,
      get ends() {
        return ends;
      },
      get busy() {
        return work.busy;
      },
    };
  }

  ganLive.explorers.latent = explore;
  return {};
})();
