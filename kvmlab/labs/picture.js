/**
 * Pictures to keep, and what the toolkit around leaves undone for those who cannot see.
 *
 * player.py joins this file and player.js into one module; nothing here loads anything either.
 */

const LOOKS = [
  ...["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity"],
  ...["opacity", "font-family", "font-size", "font-weight", "font-variant-numeric", "text-anchor"],
];
const [EDGE, LINE, SHARP] = [16, 24, 2]; // pixels; a PNG has twice as many in each direction

/** Every look of `node` and what is in it as attributes: then no style sheet is needed. */
function inline(node, around) {
  const looks = getComputedStyle(node);
  if (looks.display === "none") {
    node.remove();
    return;
  }
  for (const one of [...node.children]) inline(one, looks);
  for (const name of LOOKS) {
    const [now, above] = [looks, around].map((one) => one?.getPropertyValue(name));
    if (now === (name === "opacity" ? "1" : above)) node.removeAttribute(name); // it is passed on
    else node.setAttribute(name, now);
  }
  for (const name of ["class", "style", "tabindex", "role"]) node.removeAttribute(name);
}

function drawn(tag, given, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(given)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** The legend as swatches and names, on as many lines as `width` asks for; and how many. */
function legendOf(swatches, width, looks) {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = "14px sans-serif";
  const parts = [];
  let [x, lines] = [EDGE, swatches.length ? 1 : 0];
  for (const [name, colour] of swatches) {
    const wide = 20 + pen.measureText(name).width * 1.1;
    if (x > EDGE && x + wide > width) [x, lines] = [EDGE, lines + 1];
    const y = EDGE + LINE * (lines + 1) - 8;
    parts.push(drawn("rect", { x, y: y - 11, width: 12, height: 12, fill: colour }));
    parts.push(drawn("text", { ...looks, x: x + 18, y }, name));
    x += wide + 16;
  }
  return [parts, lines];
}

/**
 * What `source` shows, as one SVG that stands alone: light colours, title and legend above.
 *
 * It is drawn once more on `.kvm-paper`, where the light colours hold whatever the theme.
 */
function standing(source, around, title) {
  const { width, height } = source.getBoundingClientRect();
  const paper = make("div", { className: `kvm-paper ${around.stage}` });
  const copy = around.copied.cloneNode(true);
  paper.append(...around.heads.map((head) => head.cloneNode(true)), copy);
  around.el.append(paper);
  try {
    const layers = copy.matches("svg") ? [copy] : [...copy.querySelectorAll(":scope > svg")];
    const swatches = [...paper.querySelectorAll(".kvm-chart-head span")].map((one) => [
      one.textContent,
      getComputedStyle(one.querySelector("i")).backgroundColor,
    ]);
    const looks = { fill: "#1f1f1f", "font-family": "sans-serif", "font-size": 14 };
    const [legend, lines] = legendOf(swatches, width, looks);
    const top = EDGE + LINE * (lines + 1);
    const place = { x: EDGE, y: top, width, height };
    for (const svg of layers) {
      inline(svg);
      if (!svg.hasAttribute("viewBox")) svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      for (const [key, value] of Object.entries(place)) svg.setAttribute(key, value);
    }
    const size = { width: Math.ceil(width) + 2 * EDGE, height: Math.ceil(height) + top + EDGE };
    return drawn(
      "svg",
      { xmlns: SVG, ...size, viewBox: `0 0 ${size.width} ${size.height}` },
      drawn("title", {}, title),
      drawn("rect", { ...size, fill: "#ffffff" }),
      drawn("text", { ...looks, x: EDGE, y: EDGE + 14, "font-weight": 600 }, title),
      ...legend,
      ...layers,
    );
  } finally {
    paper.remove();
  }
}

function keep(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), PLAY_MS);
}

/** Save `svg` under a name made of its title, as it is or as points. */
function save(svg, title, kind) {
  const name = `kvmlab-${title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60)}.${kind}`;
  const text = new XMLSerializer().serializeToString(svg);
  const blob = new Blob([text], { type: "image/svg+xml" });
  if (kind === "svg") {
    keep(blob, name);
    return;
  }
  const image = new Image();
  image.onload = () => {
    const [width, height] = ["width", "height"].map((one) => SHARP * svg.getAttribute(one));
    const canvas = make("canvas", { width, height });
    canvas.getContext("2d").drawImage(image, 0, 0, width, height);
    canvas.toBlob((png) => keep(png, name), "image/png");
    URL.revokeObjectURL(image.src);
  };
  image.src = URL.createObjectURL(blob);
}

/** Two buttons that save what `picture` returns: a title and an SVG that stands alone. */
function savers(label, picture) {
  const button = (kind) => {
    const text = label(kind);
    const act = () => {
      const [title, svg] = picture();
      save(svg, title, kind);
    };
    return make("button", { type: "button", className: "kvm-saver", onclick: act }, text);
  };
  return make("div", { className: "kvm-savers" }, button("svg"), button("png"));
}

/** Buttons under a chart of bqplot, for which it has none that a keyboard reaches. */
function savable(chart, label) {
  const picture = () => {
    const head = chart.querySelector(".kvm-chart-head");
    const figure = chart.querySelector(".bqplot");
    const around = { el: chart, stage: "", copied: figure, heads: [head] };
    const title = head.querySelector("strong").textContent;
    return [title, standing(figure.querySelector("svg.svg-figure"), around, title)];
  };
  chart.append(savers(label, picture));
}

/**
 * What bqplot and ipywidgets do not do: hide pictures that a table tells, name the sliders; and
 * hide controls that the scene shown does without, which costs no message of theirs.
 */
function mend(lab, player) {
  const label = (name) => player.label(name);
  const without = player.model.get("scene").without ?? [];
  for (const one of lab.querySelectorAll("[class*='kvmlab-for-']")) {
    one.hidden = without.some((name) => one.classList.contains(`kvmlab-for-${name}`));
  }
  for (const figure of lab.querySelectorAll(".bqplot:not([aria-hidden])")) {
    figure.setAttribute("aria-hidden", "true");
  }
  for (const handle of lab.querySelectorAll(".noUi-handle")) {
    let around = handle;
    while (around !== lab && !around.querySelector(".widget-label")) around = around.parentElement;
    handle.setAttribute("aria-label", around.querySelector(".widget-label").textContent);
  }
  for (const bar of lab.querySelectorAll(".widget-hprogress .progress:not([role])")) {
    bar.setAttribute("role", "progressbar");
  }
  for (const chart of lab.querySelectorAll(".kvm-chart")) {
    if (chart.querySelector(".bqplot") && !chart.querySelector(".kvm-savers")) {
      savable(chart, label);
    }
  }
}

/**
 * Care for the lab around the player as long as both are there; returns how to end that.
 *
 * JupyterLab's shortcuts would take arrow keys and letters from the lists of the lab.  It looks
 * for this attribute on the element that has the focus, not above it.
 */
function care(el, player) {
  let [lab, due] = [null, 0];
  const keepKeys = (event) => event.target.setAttribute("data-lm-suppress-shortcuts", "true");
  const again = () => {
    due ||= requestAnimationFrame(() => {
      due = 0;
      mend(lab, player);
    });
  };
  const watch = new MutationObserver(again);
  const find = (frames) => {
    due = 0;
    lab = el.closest(".kvmlab-lab");
    if (lab) {
      lab.addEventListener("focusin", keepKeys);
      watch.observe(lab, { childList: true, subtree: true, characterData: true });
      again();
    } else if (frames) due = requestAnimationFrame(() => find(frames - 1));
  };
  find(60);
  return {
    /** The words have changed: so do those that were given. */
    relabel() {
      if (!lab) return;
      for (const one of lab.querySelectorAll(".kvm-chart .kvm-savers")) one.remove();
      again();
    },
    end() {
      cancelAnimationFrame(due);
      watch.disconnect();
      lab?.removeEventListener("focusin", keepKeys);
    },
  };
}
