/**
 * The player: shows one scene and steps through it, in the browser.
 *
 * It uses the widget's model (get, set, on, off, save_changes) and the DOM, and loads nothing, so
 * the same file serves JupyterLab, Notebook, Voila and a page without a kernel.  The kernel hears
 * `step`, `chosen` and `answer`; everything else stays here.
 */

const SVG = "http://www.w3.org/2000/svg";
const PLAY_MS = 1000;
const ICONS = {
  first: "M4 3h2v10H4zM13 3v10L7 8z",
  back: "M11 3v10L5 8z",
  play: "M5 3v10l8-5z",
  pause: "M4 3h3v10H4zM9 3h3v10H9z",
  forward: "M5 3v10l6-5z",
  last: "M10 3h2v10h-2zM3 3v10l6-5z",
};
const TOWARDS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** An element with properties, attributes (keys with a hyphen, or `role`) and children. */
function make(tag, given = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(given)) {
    if (key.includes("-") || key === "role") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Words with every hex number set in the code face. */
function prose(text) {
  return text.split(/(0x[0-9a-f_]+)/).map((part, n) => (n % 2 ? make("code", {}, part) : part));
}

function table(caption, columns, rows) {
  const head = columns.map((name) => make("th", { scope: "col" }, name));
  const body = rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, cell))));
  return make(
    "table",
    {},
    make("caption", {}, ...prose(caption)),
    make("thead", {}, make("tr", {}, ...head)),
    make("tbody", {}, ...body),
  );
}

/** The nearest of `nodes` that lies in the direction of an arrow key, or undefined. */
function neighbour(from, nodes, [dx, dy]) {
  const centre = (node) => {
    const box = (node.querySelector(".kvm-cell, .kvm-hit") ?? node).getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  const [x, y] = centre(from);
  const far = (node) => {
    const [ax, ay] = centre(node);
    const ahead = (ax - x) * dx + (ay - y) * dy;
    const aside = Math.abs((ax - x) * dy) + Math.abs((ay - y) * dx);
    return ahead > 4 ? ahead + 2 * aside : Infinity;
  };
  const [best] = nodes.map((node) => [far(node), node]).sort((a, b) => a[0] - b[0]);
  return best && best[0] < Infinity ? best[1] : undefined;
}

class Player {
  constructor(model, el) {
    this.model = model;
    this.timer = 0;
    this.build(el);
    this.load();
  }

  label(name, values = {}) {
    const text = this.labels[name] ?? name;
    return text.replace(/\{(\w+)\}/g, (_, key) => values[key]);
  }

  build(el) {
    const button = (name, act) =>
      make("button", { type: "button", className: `kvm-${name}`, onclick: act });
    this.buttons = {
      first: button("first", () => this.manual(0)),
      back: button("back", () => this.manual(this.step - 1)),
      play: button("play", () => this.toggle()),
      forward: button("forward", () => this.manual(this.step + 1)),
      last: button("last", () => this.manual(this.steps.length - 1)),
    };
    this.scrub = make("input", { type: "range", className: "kvm-scrub", min: 0, step: 1 });
    this.scrub.oninput = () => this.manual(Number(this.scrub.value));
    this.count = make("span", { className: "kvm-count" });
    this.sentence = make("p", { className: "kvm-sentence", role: "status", "aria-live": "polite" });
    this.question = make("div", { className: "kvm-ask" });
    this.stage = make("div", { className: "kvm-stage" });
    this.caption = make("figcaption", {});
    this.detail = make("div", { className: "kvm-detail" });
    this.twin = make("details", { className: "kvm-twin" });
    this.bar = make("div", { className: "kvm-bar", role: "toolbar" });
    this.bar.append(...Object.values(this.buttons), this.scrub, this.count);
    this.kept = make("div", {});
    const figure = make("figure", {}, this.stage, this.caption, this.kept);
    this.root = make(
      "section",
      { className: "kvmlab-player", tabIndex: 0, role: "group", "data-lm-suppress-shortcuts": "true" },
      this.bar,
      this.sentence,
      this.question,
      make("div", { className: "kvm-body" }, figure, this.detail),
      this.twin,
    );
    this.root.onkeydown = (event) => this.key(event);
    this.stage.onclick = (event) => this.choose(event.target.closest(".kvm-el"));
    this.stage.onfocusin = (event) => this.rove(event.target.closest(".kvm-el"));
    el.append(this.root);
  }

  /** Say the words on the controls: they came with the scene, in the lab's language. */
  relabel() {
    this.labels = this.model.get("labels");
    for (const [name, button] of Object.entries(this.buttons)) this.dress(button, name);
    this.bar.setAttribute("aria-label", this.label("toolbar"));
    this.scrub.setAttribute("aria-label", this.label("scrub"));
    this.kept.replaceChildren(savers((name) => this.label(name), () => this.picture()));
  }

  /** The drawing as it is lit now, with its title, to keep. */
  picture() {
    const { title } = this.model.get("scene");
    const [svg] = this.stage.children;
    return [title, standing(svg, { el: this.root, stage: "kvm-stage", copied: svg, heads: [] }, title)];
  }

  dress(button, name) {
    button.replaceChildren(icon(name));
    button.title = this.label(name);
    button.setAttribute("aria-label", this.label(name));
  }

  /** Take up the model's scene: a new drawing, a new table, no question answered yet. */
  load() {
    this.relabel();
    this.stop();
    const scene = this.model.get("scene");
    this.steps = scene.steps ?? [];
    this.settled = new Map(); // step -> what was said to the answer, "" when skipped
    this.reached = -1; // the last step that was told
    this.asks = this.steps.some((step) => step.ask);
    this.root.classList.toggle("kvm-asks", this.asks);
    this.root.hidden = !this.steps.length;
    if (!this.steps.length) return;
    this.root.setAttribute("aria-label", scene.title);
    this.caption.replaceChildren(...prose(scene.caption));
    this.draw(scene.svg);
    this.tabulate(scene);
    this.scrub.max = this.steps.length - 1;
    this.show();
  }

  /** Draw anew; the element that had the focus has it again, if there is one of its key. */
  draw(text) {
    const focused = this.stage.contains(document.activeElement) && document.activeElement.dataset.key;
    const parsed = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
    const svg = document.importNode(parsed, true);
    this.stage.replaceChildren(svg);
    this.keyed = [...svg.querySelectorAll("[data-key]")];
    this.elements = this.keyed.filter((node) => node.classList.contains("kvm-el"));
    this.texts = [...svg.querySelectorAll("[data-text]")].map((node) => [node, node.textContent]);
    this.rove(this.elements[0]);
    if (focused) this.elements.find((node) => node.dataset.key === focused)?.focus();
  }

  /** The same as the drawing, as one table: the rows of every step. */
  tabulate(scene) {
    const rows = this.steps.flatMap((step) => step.rows);
    const body = table(scene.title, scene.columns, rows);
    const owners = this.steps.flatMap((step, n) => step.rows.map(() => n));
    this.rows = [...body.querySelectorAll("tbody tr")].map((row, n) => [row, owners[n]]);
    const summary = make("summary", {}, this.label("twin"));
    const named = { className: "kvm-scroll", tabIndex: 0, role: "region", "aria-label": scene.title };
    this.twin.replaceChildren(summary, make("div", named, body));
  }

  get step() {
    return Math.min(Math.max(this.model.get("step"), 0), this.steps.length - 1);
  }

  /** Whether the question of the step must still be answered or skipped. */
  get asking() {
    return Boolean(this.steps[this.step].ask) && !this.settled.has(this.step);
  }

  show() {
    if (!this.steps.length) return;
    const step = this.steps[this.step];
    const shown = this.asking ? (this.steps[this.step - 1] ?? { lit: {}, texts: {} }) : step;
    this.light(shown);
    this.sentence.replaceChildren(...prose(this.asking ? this.label("asked") : step.sentence));
    this.detail.replaceChildren(...(shown.detail ? [this.closer(shown.detail)] : []));
    this.root.classList.toggle("kvm-plain", !this.steps.some((one) => one.detail));
    this.reached = Math.max(this.reached, this.step - (this.asking ? 1 : 0));
    const ended = this.reached === this.steps.length - 1;
    this.root.classList.toggle("kvm-answered", Boolean(this.settled.size) || ended);
    this.ask(step.ask);
    const place = { number: this.step + 1, total: this.steps.length };
    this.count.textContent = this.label("count", place);
    this.scrub.value = this.step;
    this.scrub.setAttribute("aria-valuetext", this.label("count", place));
    this.buttons.first.disabled = this.buttons.back.disabled = this.step === 0;
    this.buttons.last.disabled = this.buttons.forward.disabled = this.step === this.steps.length - 1;
    if (Object.values(this.buttons).some((one) => one.disabled && one.matches(":focus"))) {
      this.root.focus(); // a button that goes dead would take the focus with it
    }
    for (const [row, owner] of this.rows) {
      row.classList.toggle("kvm-now", owner === this.step && !this.asking);
      row.hidden = this.asks && owner > this.reached;
    }
  }

  light(step) {
    const chosen = this.model.get("chosen");
    for (const node of this.keyed) {
      const key = node.dataset.key;
      const role = step.lit[key];
      if (role) node.dataset.lit = role;
      else delete node.dataset.lit;
      node.classList.toggle("kvm-chosen", key === chosen);
      if (role === "now" || role === "fault") node.setAttribute("aria-current", "step");
      else node.removeAttribute("aria-current");
    }
    for (const [node, first] of this.texts) node.textContent = step.texts[node.dataset.text] ?? first;
    const now = this.elements.find((node) => ["now", "fault"].includes(node.dataset.lit));
    if (now && !this.stage.contains(document.activeElement)) this.rove(now);
    if (now) this.reveal(now);
  }

  /** Where the drawing is wider than its place, `node` comes into sight; the page stays. */
  reveal(node) {
    const [place, box] = [this.stage, node].map((one) => one.getBoundingClientRect());
    const beyond = Math.max(box.right - place.right, 0) || Math.min(box.left - place.left, 0);
    this.stage.scrollLeft += beyond + Math.sign(beyond) * EDGE;
  }

  closer(detail) {
    return table(detail.caption, detail.columns, detail.rows);
  }

  ask(ask) {
    if (!ask) {
      this.question.replaceChildren();
    } else if (this.asking) {
      const answers = ask.choices.map((choice, n) =>
        make("button", { type: "button", onclick: () => this.answer(n) }, choice),
      );
      const skip = { type: "button", className: "kvm-skip", onclick: () => this.skip() };
      const legend = make("legend", {}, ...prose(ask.question));
      const form = make("fieldset", {}, legend, ...answers, make("button", skip, this.label("skip")));
      this.question.replaceChildren(form);
    } else {
      const said = this.settled.get(this.step);
      this.question.replaceChildren(...(said ? [make("p", { role: "status" }, ...prose(said))] : []));
    }
  }

  answer(choice) {
    const { answer, feedback } = this.steps[this.step].ask;
    this.model.set("answer", { step: this.step, choice, right: choice === answer });
    this.model.save_changes();
    this.settle(feedback[choice]);
  }

  /** The question of this step is left out; the kernel hears of it as of choice -1. */
  skip() {
    this.model.set("answer", { step: this.step, choice: -1, right: false });
    this.model.save_changes();
    this.settle("");
  }

  settle(said) {
    this.settled.set(this.step, said);
    this.show();
    (this.buttons.forward.disabled ? this.root : this.buttons.forward).focus();
  }

  go(step) {
    const to = Math.min(Math.max(step, 0), this.steps.length - 1);
    if (to === this.model.get("step")) return;
    this.model.set("step", to);
    this.model.save_changes();
    this.show();
  }

  /** A step that the learner asked for: it ends the playing. */
  manual(step) {
    this.stop();
    this.go(step);
  }

  toggle() {
    if (this.timer) {
      this.stop();
      return;
    }
    if (this.step === this.steps.length - 1) this.go(0);
    this.dress(this.buttons.play, "pause");
    this.timer = setInterval(() => {
      if (this.asking || this.step === this.steps.length - 1 || !this.root.isConnected) this.stop();
      else this.go(this.step + 1);
    }, PLAY_MS);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = 0;
    this.dress(this.buttons.play, "play");
  }

  choose(node) {
    if (!node) return;
    const key = node.dataset.key;
    const when = (...roles) => this.steps.findIndex((step) => roles.includes(step.lit[key]));
    const to = when("now", "fault") >= 0 ? when("now", "fault") : when("used");
    this.model.set("chosen", key);
    this.stop();
    if (to >= 0) this.model.set("step", to);
    this.model.save_changes();
    this.show();
  }

  /** One element of the drawing is in the tab order: the last focused, else the current one. */
  rove(node) {
    if (!node) return;
    for (const other of this.elements) other.setAttribute("tabindex", other === node ? "0" : "-1");
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const { key, target } = event;
    const element = target.closest(".kvm-el");
    const typed = target.closest("button, summary, input");
    let act;
    if (element && TOWARDS[key]) {
      const seen = this.elements.filter((one) => getComputedStyle(one).visibility === "visible");
      act = () => neighbour(element, seen, TOWARDS[key])?.focus();
    } else if (element && (key === "Enter" || key === " ")) act = () => this.choose(element);
    else if (target === this.scrub && key !== " ") return; // a range has these keys itself
    else if (target.matches(".kvm-scroll") && key !== " ") return; // and so has what scrolls
    else if (key === "ArrowRight") act = () => this.manual(this.step + 1);
    else if (key === "ArrowLeft") act = () => this.manual(this.step - 1);
    else if (key === "Home") act = () => this.manual(0);
    else if (key === "End") act = () => this.manual(this.steps.length - 1);
    else if (key === " " && (!typed || target === this.scrub)) act = () => this.toggle();
    if (!act) return;
    event.preventDefault();
    act();
  }
}

function render({ model, el }) {
  const player = new Player(model, el);
  const cared = care(el, player);
  const load = () => player.load();
  const show = () => player.show();
  const relabel = () => {
    player.relabel();
    cared.relabel();
  };
  const heard = { scene: load, step: show, chosen: show, labels: relabel };
  for (const [name, act] of Object.entries(heard)) model.on(`change:${name}`, act);
  return () => {
    player.stop();
    cared.end();
    for (const [name, act] of Object.entries(heard)) model.off(`change:${name}`, act);
  };
}

export default { render };
