"use strict";
// A conditional generator: ask for a digit, share one z between all digits, limit z, and go from
// one label to another.
globalThis.ganLive ??= {};
ganLive.explorers ??= {};

ganLive.classes = (() => {
  const SAMPLES = 12, NO_LIMIT = 3.5;

  function explore(root, { G: packed, digit = 3 }) {
    const { latents, truncate, ink, distance, worker, sheet } = ganLive.generator;
    const { mean } = ganLive.numbers;
    const { element, button, slider, choice, readout } = ganLive.page;
    const { rounded, numbered, onArrows } = ganLive.page;
    const { classes, side, latent } = packed;
    const last = classes - 1;
    const START = {
      digit: Math.min(digit, last), towards: Math.min(8, last), share: 0, limit: NO_LIMIT, seed: 1,
      style: 0,
    };
    const state = { ...START };
    const samples = [];

    const work = worker(packed, (done) => {
      for (const { redraw } of [...faces, gallery]) redraw();
      if (done) measure();
    });
    const vectors = () =>
      latents(state.seed, SAMPLES, latent).map((z) =>
        state.limit < NO_LIMIT ? truncate(z, state.limit) : z);

    // Each digit stands on its button, and all are drawn with the z of the framed sample.
    const faces = Array.from({ length: classes }, () =>
      sheet(root, { columns: 1, side, gap: 0, label: "" }));
    const buttons = faces.map((face, i) => {
      face.node.setAttribute("aria-hidden", "true");
      return element(
        "button",
        { type: "button", class: "gan-live-face", "aria-pressed": "false", onclick: () => ask(i) },
        face.node,
        element("span", {}, String(i)),
      );
    });
    const columns = root.clientWidth < 480 ? 6 : 12;
    const gallery = sheet(root, {
      columns, rows: SAMPLES / columns, side, interactive: true,
      label: "Twelve samples of the chosen digit. Left and right arrow keys choose the z that " +
        "all digits above share.",
    });
    const numbers = readout({
      length: "components of z within", ink: "mean pixel, −1 to 1",
      variety: "mean distance between two images",
    });

    const label = () =>
      state.share ? [[state.digit, 1 - state.share], [state.towards, state.share]] : state.digit;

    function drawFaces() {
      const z = vectors()[state.style];
      gallery.frame(state.style);
      faces.forEach((face, i) =>
        work.add(`face ${i}`, function* (G) {
          face.set(0, yield* G.generating(z, i));
        }));
    }

    function drawSamples() {
      vectors().forEach((z, i) =>
        work.add(`sample ${i}`, function* (G) {
          samples[i] = yield* G.generating(z, label());
          gallery.set(i, samples[i]);
        }));
    }

    function measure() {
      const pairs = samples.flatMap((a, i) => samples.slice(i + 1).map((b) => distance(a, b)));
      numbers.show({
        length: state.limit < NO_LIMIT ? `±${rounded(state.limit)}` : "no limit",
        ink: rounded(mean(samples.map(ink))), variety: rounded(mean(pairs)),
      });
    }

    function ask(which) {
      state.digit = which;
      if (state.towards === which) {
        // a mixture with itself would show nothing
        towards.value = String(state.towards = (which + 1) % classes);
        share.value = state.share = 0;
      }
      [...towards.select.options].forEach((option, i) => (option.disabled = i === which));
      buttons.forEach((node, i) => node.setAttribute("aria-pressed", String(i === which)));
      drawSamples();
    }

    function choose(which) {
      state.style = which;
      status.textContent = `All ten digits share z number ${which + 1} of ${SAMPLES}.`;
      drawFaces();
    }

    function move(right, up) {
      const which = state.style + right - columns * up;
      if (which < 0 || which >= SAMPLES) return false;
      return choose(which);
    }

    const limit = slider(
      "limit on every component of z",
      {
        min: 0.1, max: NO_LIMIT, step: 0.1, value: state.limit,
        text: (x) => (x < NO_LIMIT ? rounded(x) : "none"),
      },
      (value) => {
        state.limit = value;
        drawSamples();
        drawFaces();
      },
    );
    const towards = choice("other label", numbered(classes), String(state.towards), (value) => {
      state.towards = Number(value);
      drawSamples();
    });
    const share = slider(
      "share of the other label",
      { min: 0, max: 1, step: 0.05, value: 0, text: (x) => `${Math.round(100 * x)}%` },
      (value) => {
        state.share = value;
        drawSamples();
      },
    );

    gallery.node.addEventListener("pointerdown", (event) => choose(gallery.at(event)));
    onArrows(gallery.node, move);
    const status = element("p", { class: "gan-live-caption", role: "status" });

    function start() {
      ask(state.digit);
      choose(state.style);
    }

    root.append(
      element("p", { class: "gan-live-caption" }, "Ask for a digit; all ten share one z"),
      element("div", { class: "gan-live-faces", role: "group", "aria-label": "digit" }, ...buttons),
      element("p", { class: "gan-live-caption" },
        "Twelve z for the chosen digit; click one to give its z to all ten"),
      gallery.node,
      status,
      element("div", { class: "gan-live-columns gan-live-below" },
        element("div", { class: "gan-live-side" }, limit.node, share.node, towards.node),
        element("div", { class: "gan-live-side" }, numbers.node,
          element("div", { class: "gan-live-bar" },
            button("Another twelve", () => {
              state.seed += 1;
              start();
            }),
            button("Reset", () => {
              Object.assign(state, START);
              [limit.value, share.value, towards.value] = [state.limit, 0, String(state.towards)];
              start();
            })))),
    );
    start();
    return {
      state, vectors,
      get busy() {
        return work.busy;
      },
    };
  }

  ganLive.explorers.classes = explore;
  return {};
})();
