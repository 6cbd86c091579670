"use strict";
// The cover: a map of z, across which a pointer, a finger or the arrow keys move, and ten digits
// that follow.
globalThis.ganLive ??= {};
ganLive.explorers ??= {};

ganLive.cover = (() => {
  const REACH = 2, PLACES = 5, STEP = 0.25; // the map shows PLACES × PLACES images of one digit

  function explore(root, { G: packed, across, up }) {
    const { latents, worker, sheet } = ganLive.generator;
    const { element, button, dot, dragFrom, rounded, onArrows } = ganLive.page;
    const { classes, side, latent } = packed;
    const state = { x: 0, y: 0, seed: 8, digit: 8 };

    const work = worker(packed, () => {
      for (const { redraw } of [digits, map]) redraw();
    });
    function draw(name, target, place, x, y, digit) {
      work.add(name, function* (G) {
        const [start] = latents(state.seed, 1, latent);
        const z = start.map((value, i) => value + x * across[i] + y * up[i]);
        target.set(place, yield* G.generating(z, digit));
      });
    }

    const map = sheet(root, {
      columns: PLACES, rows: PLACES, side, gap: 0, interactive: true, label: "",
      above(context, width, height, colour) {
        const [x, y] = [(1 + state.x / REACH) / 2, (1 - state.y / REACH) / 2];
        context.fillStyle = colour.orange;
        dot(context, x * width, y * height, 8);
        context.strokeStyle = "#fff";
        context.lineWidth = 2;
        context.stroke();
      },
    });
    const digits = sheet(root, {
      columns: PLACES, rows: Math.ceil(classes / PLACES), side, interactive: false,
      label: "The ten digits, all drawn with the z at the place on the map",
    });

    function move(x, y) {
      [state.x, state.y] = [x, y].map((value) => Math.max(-REACH, Math.min(REACH, value)));
      for (let digit = 0; digit < classes; digit++)
        draw(`digit ${digit}`, digits, digit, state.x, state.y, digit);
      map.node.setAttribute("aria-label",
        `A map of z: slant ${rounded(state.x, 1)} across, thickness ${rounded(state.y, 1)} up. ` +
          "The arrow keys move; the digits follow.");
    }

    function drawMap() {
      for (let i = 0; i < PLACES ** 2; i++) {
        const [column, row] = [i % PLACES, Math.floor(i / PLACES)];
        const at = (k) => (REACH * (2 * k + 1 - PLACES)) / PLACES;
        draw(`place ${i}`, map, i, at(column), -at(row), state.digit);
      }
    }

    // The mark follows a mouse until a click holds it, and after the next click again; a finger
    // drags it, or taps where it should be.
    const near = dragFrom(map, () => [(1 + state.x / REACH) / 2, (1 - state.y / REACH) / 2]);
    let [held, dragging] = [false, false];
    const follow = (event) => {
      const [mouse, finger] = ["mouse", "touch"].map((kind) => event.pointerType === kind);
      if (event.type === "pointerdown") dragging = !finger || near(event);
      if (finger && !dragging && event.type !== "click") return; // it may scroll the page
      if (event.type === "pointerdown" && mouse) held = !held;
      else if (held && mouse) return;
      const [x, y] = map.place(event);
      move((2 * x - 1) * REACH, (1 - 2 * y) * REACH);
    };
    for (const type of ["pointerdown", "pointermove", "click"]) {
      map.node.addEventListener(type, follow);
    }
    onArrows(map.node, (right, up) => move(state.x + STEP * right, state.y + STEP * up));
    const hand = button("Another hand", () => {
      state.seed += 1;
      move(state.x, state.y);
      drawMap();
    }, { class: "gan-live-main" });

    root.append(
      element("div", { class: "gan-live-columns gan-live-cover" },
        element("div", { class: "gan-live-map" }, map.node,
          element("p", { class: "gan-live-caption" }, "across: slant · up: thickness")),
        element("div", { class: "gan-live-side" }, digits.node,
          element("div", { class: "gan-live-bar gan-live-below" }, hand))),
    );
    move(0, 0);
    drawMap();
    return {
      state,
      get busy() {
        return work.busy;
      },
    };
  }

  ganLive.explorers.cover = explore;
  return {};
})();
