/**
 * A lecture page: the player with a plain object in the place of the kernel's model.
 *
 * The page's data is one deflated JSON text, and each text in it is there once, so that a page with
 * many scenes stays small.  Lists above the player choose the scene; a choice that no scene has moves the other lists to one that
 * fits.  Nothing is loaded: the policy of the page would not allow it.
 */

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const [texts, data] = await new Response(stream).json();
  return whole(data, texts);
}

/** The data again: a number is a text's place, a negative one is a number. */
function whole(data, texts) {
  if (typeof data === "number") return data < 0 ? -1 - data : texts[data];
  if (Array.isArray(data)) return data.map((one) => whole(one, texts));
  if (data === null) return data;
  return Object.fromEntries(Object.entries(data).map(([key, one]) => [key, whole(one, texts)]));
}

/** What the player knows of a widget's model, over plain values. */
function model(values) {
  const heard = {};
  return {
    get: (key) => values[key],
    set(key, value) {
      if (values[key] === value) return;
      values[key] = value;
      for (const act of heard[`change:${key}`] ?? []) act();
    },
    on: (event, act) => (heard[event] ??= []).push(act),
    off: () => {},
    save_changes: () => {},
  };
}

/**
 * Facts and charts tell what the questions ask: they wait until the last step is told.
 */
function veil(state, told) {
  let over = false; // told once, they stay
  const answered = new Set();
  const settle = () => {
    const { steps } = state.get("scene");
    const step = state.get("step");
    const open = steps[step]?.ask && !answered.has(step);
    over ||= !steps.some((one) => one.ask) || (step === steps.length - 1 && !open);
    for (const one of told) one.hidden = !over;
  };
  state.on("change:step", settle);
  state.on("change:answer", () => {
    answered.add(state.get("answer").step);
    settle();
  });
  state.on("change:scene", () => {
    over = false;
    answered.clear();
    settle();
  });
}

/** Of the scenes with the new value on its axis, the one that keeps most of the other choices. */
function fitting(variants, choice, axis) {
  const kept = (variant) => variant.choice.filter((one, n) => one === choice[n]).length;
  const allowed = variants.filter((variant) => variant.choice[axis] === choice[axis]);
  return allowed.reduce((best, one) => (kept(one) > kept(best) ? one : best));
}

async function open() {
  const data = await unpacked(document.getElementById("kvmlab-data").textContent);
  for (const { scene } of data.variants) scene.svg = scene.svg.join("");
  const state = model({ scene: {}, step: 0, chosen: "", answer: {}, labels: data.labels });
  const lists = data.axes.map((axis) => {
    const options = axis.options.map((name) => make("option", { value: name }, name));
    return make("select", { "aria-label": axis.name }, ...options);
  });
  const [facts, parts] = [".kvm-facts", ".kvm-parts"].map((one) => document.querySelector(one));
  const take = (variant) => {
    variant.choice.forEach((name, n) => (lists[n].value = name));
    state.set("chosen", "");
    state.set("step", 0);
    state.set("scene", variant.scene);
    facts.replaceChildren(...prose(variant.facts));
    parts.innerHTML = variant.parts; // as figures wrote it: all text in it is escaped
  };
  lists.forEach((list, n) => {
    list.onchange = () =>
      take(fitting(data.variants, lists.map((one) => one.value), n));
  });
  const named = lists.map((list, n) => make("label", {}, `${data.axes[n].name} `, list));
  document.querySelector(".kvm-choices").replaceChildren(...named);
  document.querySelector(".kvm-still").remove();
  veil(state, [facts, parts]);
  render({ model: state, el: document.querySelector(".kvm-stageless") });
  take(data.variants[0]);
}

open();
