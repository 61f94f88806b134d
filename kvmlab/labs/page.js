/**
 * A lecture page: the player with a plain object in the place of the kernel's model.
 *
 * The page's data is one deflated JSON text, so that a page with many scenes stays small.  Lists
 * above the player choose the scene; a choice that no scene has moves the other lists to one that
 * fits.  Nothing is loaded: the policy of the page would not allow it.
 */

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
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

/** Of the scenes with the new value on its axis, the one that keeps most of the other choices. */
function fitting(variants, choice, axis) {
  const kept = (variant) => variant.choice.filter((one, n) => one === choice[n]).length;
  const allowed = variants.filter((variant) => variant.choice[axis] === choice[axis]);
  return allowed.reduce((best, one) => (kept(one) > kept(best) ? one : best));
}

async function open() {
  const data = await unpacked(document.getElementById("kvmlab-data").textContent);
  const state = model({ scene: {}, step: 0, chosen: "", answer: {}, labels: data.labels });
  const lists = data.axes.map((axis) => {
    const options = axis.options.map((name) => make("option", { value: name }, name));
    return make("select", { "aria-label": axis.name }, ...options);
  });
  const take = (variant) => {
    variant.choice.forEach((name, n) => (lists[n].value = name));
    state.set("chosen", "");
    state.set("step", 0);
    state.set("scene", variant.scene);
    document.querySelector(".kvm-facts").replaceChildren(...prose(variant.facts));
  };
  lists.forEach((list, n) => {
    list.onchange = () =>
      take(fitting(data.variants, lists.map((one) => one.value), n));
  });
  const named = lists.map((list, n) => make("label", {}, `${data.axes[n].name} `, list));
  document.querySelector(".kvm-choices").replaceChildren(...named);
  document.querySelector(".kvm-still").remove();
  render({ model: state, el: document.querySelector(".kvm-stageless") });
  take(data.variants[0]);
}

open();
